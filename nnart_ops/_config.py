"""Settings of the whole process: how convolutions are computed."""

from __future__ import annotations

import os
from types import TracebackType

from nnart_ops import _extension, _tuning
from nnart_ops._extension import force_conv_strategy, forced_conv_strategy

CONV_STRATEGIES = ("auto", "gemm", "depthwise", "grouped", "matmul", "native")


class config:
    """Changes settings within a ``with`` block; what is not given stays.

    Args:
        conv_strategy: how convolutions are computed: ``"auto"`` lets the plan choose, ``"gemm"``, ``"depthwise"``,
            ``"grouped"``, ``"matmul"`` (torch's matrix product) or ``"native"`` (torch's convolution) forces one
            wherever it takes the problem; others stay with the plan. On CUDA there are ``"depthwise"``, ``"gemm"``
            and ``"native"``, and only here or by ``autotune`` is the GEMM asked for: the plan does not know yet where
            it is the faster. The environment variable ``NNART_CONV_STRATEGY`` sets it from the start.
        autotune: whether the plan measures, ``False`` at first. Then the first call of a problem (pass, sizes, dtype,
            layout, what follows it, threads) runs every strategy that takes it, some ten times each or for half a
            second, and it and all later calls take the fastest; native unless another is faster by 3 %. What was
            measured is kept in ``~/.cache/nnart_ops`` for other processes, until the machine, torch or nnart_ops
            changes; the environment variable ``NNART_CACHE_DIR`` names another folder. Strategies add in different
            orders: where the files are gone, results may differ in their last bits. ``NNART_CONV_AUTOTUNE=1`` sets it
            from the start. On CUDA nothing is measured while a graph is captured, and the GEMM takes part with
            ``NNART_CUDA_ON_TRIAL=1`` only.

    Settings hold for all threads of the process. Shape: no tensors.

    Raises:
        ValueError: if there is no such strategy, or autotune is no bool.

    >>> with nnart_ops.config(conv_strategy="gemm"):
    ...     y = nnart_ops.functional.conv2d(torch.ones(1, 32, 8, 8), torch.ones(32, 32, 3, 3))
    """

    def __init__(self, *, conv_strategy: str | None = None, autotune: bool | None = None) -> None:
        if conv_strategy not in (None, *CONV_STRATEGIES):
            raise ValueError(f"config: conv_strategy must be one of {CONV_STRATEGIES}, but got {conv_strategy!r}")
        if autotune not in (None, True, False):
            raise ValueError(f"config: autotune must be True or False, but got {autotune!r}")
        self._strategy, self._autotune = conv_strategy, autotune
        self._before: list[tuple[str, bool]] = []

    def __enter__(self) -> config:
        self._before.append((forced_conv_strategy(), _extension.tunes_convs))
        if self._strategy is not None:
            force_conv_strategy(self._strategy)
        if self._autotune is not None:
            _tuning.switch(self._autotune)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        strategy, autotune = self._before.pop()
        if self._strategy is not None:
            force_conv_strategy(strategy)
        if self._autotune is not None:
            _tuning.switch(autotune)


def read_environment() -> None:
    """Refuses a misspelt ``NNART_CONV_STRATEGY``, which the compiled half would take for ``auto``, and tunes where
    ``NNART_CONV_AUTOTUNE`` says so."""
    for variable, allowed in (("NNART_CONV_STRATEGY", CONV_STRATEGIES), ("NNART_CONV_AUTOTUNE", ("0", "1"))):
        value = os.environ.get(variable)
        if value is not None and value not in allowed:
            raise ImportError(f"nnart_ops: the environment variable {variable} is {value!r}; allowed are {allowed}")
    if os.environ.get("NNART_CONV_AUTOTUNE") == "1":
        _tuning.switch(True)
