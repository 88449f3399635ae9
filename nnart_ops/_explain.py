"""How convolutions are computed, and how far from the machine's limits."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nnart_ops import _extension

_ops = torch.ops.nnart_ops


@dataclass(frozen=True)
class Pass:
    """One pass of one convolution.

    Attributes:
        layer: the convolution, in words.
        name: ``"forward"``, ``"dgrad"`` (the gradient of the input) or ``"wgrad"`` (of the weight).
        strategy: what computes it, as :class:`nnart_ops.config` names it.
        reason: why the plan chose it.
        flops: floating-point operations, two for a multiply-add; the padding counts.
        bytes: the least that must cross memory: both operands once, the result once.
        seconds: measured, the best of a few calls.
        roofline: the share of the machine's limit that was reached, arithmetic or memory, whichever binds.
        bound: ``"arithmetic"`` or ``"memory"``.
    """

    layer: str
    name: str
    strategy: str
    reason: str
    flops: int
    bytes: int
    seconds: float
    roofline: float
    bound: str

    def __str__(self) -> str:
        return (
            f"  {self.name:8s} {self.strategy:10s} {self.flops / 1e9:8.3f} GFLOP {self.bytes / 1e6:8.2f} MB "
            f"{self.seconds * 1e3:8.3f} ms  {self.roofline:4.0%} of {self.bound:10s}  {self.reason}"
        )


class Explanation(list[Pass]):
    """The passes, printed as a table."""

    def __str__(self) -> str:
        if not self:
            return "no convolution of nnart_ops was called: native kernels took every one, or there was none"
        lines, layer = [], None
        for row in self:
            if row.layer != layer:
                lines.append(row.layer)
                layer = row.layer
            lines.append(str(row))
        return "\n".join(lines)

    __repr__ = __str__


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of every convolution that reaches a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (_ops.conv.kernel, _ops.conv.default, _ops.conv_transpose.kernel, _ops.conv_transpose.default):
            self.calls.append(args)
        elif func in (_ops.conv_activation.kernel, _ops.conv_activation.default):
            self.calls.append((*args[:3], *args[4:8]))
        elif func in (_ops.conv_transpose_activation.kernel, _ops.conv_transpose_activation.default):
            self.calls.append((*args[:3], *args[4:9]))
        return func(*args, **(kwargs or {}))


def explain(function: Callable[..., Any], *inputs: Any, **options: Any) -> Explanation:
    """Prints how the convolutions that ``function(*inputs, **options)`` calls are computed, and returns the table.

    Calls the function once, without gradients, then times the forward and both gradients of each convolution. What it
    compares with, a matrix product and a copy, is measured once a process and dtype (about 50 ms).

    Args:
        function: a module or a function, such as ``nnart_ops.Conv2d(...)`` or a whole model.
        inputs: its arguments; also ``options``.

    Returns:
        A list of rows with the attributes layer, name, strategy, reason, flops, bytes, seconds, roofline and bound.

    Shape: inputs as ``function`` takes them.

    >>> layer = nnart_ops.Conv2d(32, 32, 3, groups=32)
    >>> rows = nnart_ops.explain(layer, torch.zeros(1, 32, 8, 8))
    Conv2d (1, 32, 8, 8) -> (1, 32, 6, 6), weight (32, 1, 3, 3), groups 32, float32...
    >>> [row.name for row in rows]
    ['forward', 'dgrad', 'wgrad']
    """
    _extension.calls_native_directly = False
    try:
        with torch.no_grad(), _Recorder() as recorder:
            function(*inputs, **options)
    finally:
        _extension.calls_native_directly = True
    rows = Explanation()
    with torch.no_grad():
        for call in recorder.calls:
            rows.extend(_passes(*call))
    print(rows)
    return rows


def _passes(x: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> list[Pass]:
    """``where`` is the geometry, after the sizes of y if the convolution is transposed."""
    transposed, geometry = len(where) == 5, where[-4:]
    stride, _, dilation, groups = geometry
    function = _ops.conv_transpose.kernel if transposed else _ops.conv.kernel
    y = function(x, weight, bias, *where)
    layer = f"Conv{'Transpose' * transposed}{len(stride)}d {tuple(x.shape)} -> {tuple(y.shape)}, "
    layer += f"weight {tuple(weight.shape)}"
    layer += "".join(
        f", {name} {value}"
        for name, value, usual in (
            ("stride", stride, [1] * len(stride)),
            ("dilation", dilation, [1] * len(stride)),
            ("groups", groups, 1),
        )
        if value != usual
    )
    layer += f", {str(x.dtype).removeprefix('torch.')}"
    if not x.is_contiguous():
        layer += ", channels-last" if x.stride(-len(stride) - 1) == 1 else ", strided"
    small, large = (x, y) if transposed else (y, x)
    calls: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: function(x, weight, bias, *where),
        "dgrad": lambda: (
            _ops.conv.kernel(y, weight, None, *geometry)
            if transposed
            else _ops.conv_transpose.kernel(y, weight, None, x.shape, *geometry)
        ),
        "wgrad": lambda: _ops.conv_wgrad.kernel(small, large, weight.shape[2:], *geometry),
    }
    flops = 2 * small.numel() * weight[0].numel()
    size = (x.numel() + weight.numel() + y.numel()) * x.element_size()
    rows = []
    for name, call in calls.items():
        call()
        strategy, reason = _extension.last_conv_plan(x.device)
        seconds = _best(call, x.device.type)
        arithmetic = flops / peak_flops(x.dtype, x.device.type)
        memory = size / _bandwidth(x.device.type)
        rows.append(
            Pass(
                layer,
                name,
                strategy,
                reason,
                flops,
                size,
                seconds,
                max(arithmetic, memory) / seconds,
                "arithmetic" if arithmetic > memory else "memory",
            )
        )
    return rows


def _best(call: Callable[[], Any], device: str, budget: float = 0.05) -> float:
    """The shortest of up to seven calls, fewer if they take longer than ``budget`` seconds."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    shortest, spent = float("inf"), 0.0
    for _ in range(7):
        wait()
        start = time.perf_counter()
        call()
        wait()
        seconds = time.perf_counter() - start
        shortest, spent = min(shortest, seconds), spent + seconds
        if spent > budget:
            break
    return shortest


@functools.cache
def peak_flops(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of torch's large matrix product or, on a CPU, dense convolution: the faster,
    for on some processors the products have older kernels. A CPU without instructions for ``dtype`` uses float32's."""
    n = (1024 if device == "cpu" else 8192) // (2 if dtype is torch.float64 else 1)
    kinds = {dtype}
    if device == "cpu" and dtype in (torch.bfloat16, torch.float16):
        kind = "bf16" if dtype is torch.bfloat16 else "fp16"
        native = torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
        kinds = {torch.float32, dtype} if native else {torch.float32}
    best = 0.0
    for each in kinds:
        a = torch.rand(n, n, dtype=each, device=device)
        best = max(best, 2 * n**3 / _best(functools.partial(torch.mm, a, a), device))
        if device == "cpu" and each is not torch.float64:
            x, weight = torch.rand(16, 256, 14, 14, dtype=each), torch.rand(256, 256, 3, 3, dtype=each)
            x, weight = (t.to(device=device, memory_format=torch.channels_last) for t in (x, weight))
            call = functools.partial(torch.nn.functional.conv2d, x, weight, padding=1)
            best = max(best, 2 * x.numel() * 256 * 9 / _best(call, device))
    return best


@functools.cache
def _bandwidth(device: str) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.zeros(1 << (24 if device == "cpu" else 28), device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() * source.element_size() / _best(lambda: target.copy_(source), device)
