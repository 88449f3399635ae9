"""Settings of the whole process, for tests and for the curious."""

from __future__ import annotations

import os
from types import TracebackType

from nnart_ops._extension import force_conv_strategy

CONV_STRATEGIES = ("auto", "gemm", "depthwise", "grouped", "matmul", "native")


class config:  # noqa: N801: used like a function
    """Changes settings within a ``with`` block.

    Args:
        conv_strategy: how convolutions are computed: ``"auto"`` lets the plan choose, ``"gemm"``, ``"depthwise"``,
            ``"grouped"``, ``"matmul"`` (torch's matrix product) or ``"native"`` (torch's convolution) forces one
            wherever it takes the problem; others stay with the plan. On CUDA there are ``"depthwise"``, ``"gemm"``
            and ``"native"``, and only here is the GEMM asked for: the plan does not know yet where it is the faster.
            The environment variable ``NNART_CONV_STRATEGY`` sets it from the start.

    Settings hold for all threads of the process. Shape: no tensors.

    Raises:
        ValueError: if there is no such strategy.

    >>> with nnart_ops.config(conv_strategy="gemm"):
    ...     y = nnart_ops.functional.conv2d(torch.ones(1, 32, 8, 8), torch.ones(32, 32, 3, 3))
    """

    def __init__(self, *, conv_strategy: str = "auto") -> None:
        if conv_strategy not in CONV_STRATEGIES:
            raise ValueError(f"config: conv_strategy must be one of {CONV_STRATEGIES}, but got {conv_strategy!r}")
        self._wanted = conv_strategy
        self._before: list[str] = []

    def __enter__(self) -> config:
        self._before.append(force_conv_strategy(self._wanted))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        force_conv_strategy(self._before.pop())


def check_environment() -> None:
    """Refuses a misspelt ``NNART_CONV_STRATEGY``, which the compiled half would take for ``auto``."""
    name = os.environ.get("NNART_CONV_STRATEGY", "auto")
    if name not in CONV_STRATEGIES:
        raise ImportError(
            f"nnart_ops: the environment variable NNART_CONV_STRATEGY is {name!r}; allowed are {CONV_STRATEGIES}"
        )
