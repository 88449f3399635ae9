"""The ``activation=`` of the layers that have one beside torch's own arguments."""

from __future__ import annotations

from typing import Any

from nnart_ops.functional._epilogue import epilogue_of


class Activated:
    """Goes before torch's class."""

    activation: Any = None  # of a layer that convert() made ours

    def __init__(self, *args: Any, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        epilogue_of(activation)  # refuses what it does not know
        self.__dict__["activation"] = activation  # not a submodule: the state_dict and children stay torch's

    def extra_repr(self: Any) -> str:
        text: str = super().extra_repr()  # type: ignore[misc]
        return text if self.activation is None else f"{text}, activation={self.activation!r}"
