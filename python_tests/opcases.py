"""One row for every schema of the library: how to call it. test_ops.py asserts that no schema lacks one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

import nnart_ops.functional as ours


@dataclass(frozen=True)
class ActivationCase:
    """An activation: its op, the numbers it takes, and the public function beside torch's.

    ``arguments`` go to both functions, ``parameters`` to the op. ``formula`` stands in for the native function where
    that is no oracle: torch computes some float64 derivatives with float32 constants, and some have no forward mode.
    """

    op: str
    function: str
    parameters: tuple[float, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    inplace: bool = False
    formula: Callable[[Tensor], Tensor] | None = None

    @property
    def id(self) -> str:
        return "-".join([self.function, *(str(value) for value in self.arguments.values())])

    def ours(self, x: Tensor, **more: Any) -> Tensor:
        return getattr(ours, self.function)(x, **self.arguments, **more)

    def native(self, x: Tensor, **more: Any) -> Tensor:
        function = getattr(torch if self.function in ("sigmoid", "tanh") else native, self.function)
        return function(x, **self.arguments, **more)

    def oracle(self, x: Tensor) -> Tensor:
        """On the CPU wherever ``x`` is: native CUDA kernels have constants in float32 (hardswish)."""
        there = x.cpu()
        return (self.formula(there) if self.formula else self.native(there)).to(x.device)


_SELU = (1.6732632423543772, 1.0507009873554805, 1.0)

ACTIVATIONS = (
    ActivationCase("relu", "relu", inplace=True),
    ActivationCase("hardtanh", "relu6", (0.0, 6.0), inplace=True),
    ActivationCase("leaky_relu", "leaky_relu", (0.1,), {"negative_slope": 0.1}, inplace=True),
    ActivationCase(
        "leaky_relu",
        "rrelu",
        (0.25,),
        {"lower": 0.2, "upper": 0.3},
        inplace=True,
        formula=lambda x: native.leaky_relu(x, 0.25),
    ),
    # A threshold that every dtype has: torch rounds it to the input's on CUDA, and not on the CPU.
    ActivationCase("threshold", "threshold", (0.125, 20.0), {"threshold": 0.125, "value": 20.0}, inplace=True),
    ActivationCase("hardtanh", "hardtanh", (-0.5, 1.5), {"min_val": -0.5, "max_val": 1.5}, inplace=True),
    ActivationCase(
        "hardsigmoid", "hardsigmoid", inplace=True, formula=lambda x: native.hardtanh(x / 3, -1.0, 1.0) / 2 + 0.5
    ),
    ActivationCase("hardswish", "hardswish", inplace=True),
    ActivationCase("hardshrink", "hardshrink", (0.7,), {"lambd": 0.7}),
    ActivationCase("softshrink", "softshrink", (0.7,), {"lambd": 0.7}),
    ActivationCase("elu", "elu", (1.3, 1.0, 1.0), {"alpha": 1.3}, inplace=True),
    ActivationCase(
        "elu",
        "celu",
        (1.3, 1.0, 1 / 1.3),
        {"alpha": 1.3},
        inplace=True,
        formula=lambda x: torch.where(x > 0, x, 1.3 * torch.expm1(x.clamp(max=0) / 1.3)),
    ),
    ActivationCase("elu", "selu", _SELU, inplace=True),
    ActivationCase("sigmoid", "sigmoid"),
    ActivationCase("logsigmoid", "logsigmoid"),
    ActivationCase("softplus", "softplus", (1.5, 20.0), {"beta": 1.5}),
    ActivationCase("softplus", "softplus", (1.0, 2.0), {"threshold": 2.0}),
    ActivationCase("softsign", "softsign"),
    ActivationCase("tanh", "tanh"),
    ActivationCase("tanhshrink", "tanhshrink"),
    ActivationCase("gelu", "gelu"),
    ActivationCase("gelu_tanh", "gelu", (), {"approximate": "tanh"}),
    ActivationCase("silu", "silu", inplace=True),
    ActivationCase("mish", "mish", inplace=True),
)

Sample = Callable[[], tuple[Any, ...]]


def _tensor(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64, requires_grad=True)


def _plain(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64)


def _activation_rows() -> dict[str, Sample]:
    rows: dict[str, Sample] = {}
    for case in ACTIVATIONS:
        rows[case.op] = lambda p=case.parameters: (_tensor(3, 5), *p)
        rows[case.op + "_"] = lambda p=case.parameters: (_plain(3, 5), *p)
        rows[case.op + "_backward"] = lambda p=case.parameters: (_tensor(3, 5), _tensor(3, 5), *p)
    return rows


_CONV = ([2, 1], [1, 0, 1, 2], [1, 2], 2)  # stride, padding before and after, dilation, groups
_POOL = ([2, 3], [2, 1], [1, 1], [1, 1])  # kernel, stride, padding, dilation


def _pooled() -> tuple[Tensor, Tensor]:
    y, offsets = torch.ops.nnart_ops.max_pool_with_offsets(_tensor(2, 3, 6, 7), *_POOL, False)
    return torch.randn_like(y).requires_grad_(), offsets


def _unpooled() -> tuple[Tensor, Tensor]:
    offsets = torch.ops.nnart_ops.max_pool_with_offsets(_plain(2, 3, 6, 7), [2, 2], [2, 2], [0, 0], [1, 1], False)[1]
    indices = torch.ops.nnart_ops.max_pool_indices(offsets, [6, 7], [2, 2], [2, 2], [0, 0], [1, 1])
    return _tensor(2, 3, 3, 3), indices


def _moments(channels: int = 2) -> tuple[Tensor, Tensor]:
    return _plain(channels), _plain(channels).abs() + 0.5


_CROSS_ENTROPY = ("mean", 1, 0.2, [0, 2, 3, 1])  # reduction, ignore_index, label_smoothing, order


def _labels() -> Tensor:
    return torch.arange(40).reshape(2, 4, 5) % 3


def _with_statistics() -> tuple[Any, ...]:
    """The statistics are x's, so x does not change here; test_cross_entropy.py has its second derivative."""
    x, weight = _plain(2, 3, 4, 5), _plain(3).abs()
    _, *kept = torch.ops.nnart_ops.cross_entropy(x, _labels(), weight, *_CROSS_ENTROPY)
    return (x, _labels(), weight, *kept, *_CROSS_ENTROPY)


def _pair() -> list[Tensor]:
    """Two tensors without negative elements, which serve as parameters, gradients and moments alike."""
    return [_plain(3).abs(), _plain(2, 2).abs()]


OPS: dict[str, Sample] = {
    **_activation_rows(),
    "elu_backward_from_output": lambda: (_tensor(3, 5), _tensor(3, 5), 1.3, 1.1, 0.7),
    "logsigmoid_backward_from_output": lambda: (_tensor(3, 5), _tensor(3, 5)),
    "softplus_backward_from_output": lambda: (_tensor(3, 5), _tensor(3, 5), 1.5, 20.0),
    "masked_activation": lambda: (_tensor(2, 3, 4, 5), "leaky_relu", [0.1], [0, 2, 3, 1]),
    "masked_activation_backward": lambda: (
        *(_tensor(2, 3, 5), torch.tensor([7, 129, 0, 255], dtype=torch.uint8)),
        *("hardsigmoid", [], []),
    ),
    "rrelu": lambda: (_tensor(2, 3, 4, 5), _plain(2, 3, 4, 5), torch.tensor(7), 0.1, 0.3, [0, 2, 3, 1]),
    "prelu": lambda: (_tensor(2, 3, 4), _tensor(3)),
    "prelu_backward": lambda: (_tensor(2, 3, 4), _tensor(2, 3, 4), _tensor(3)),
    "dropout": lambda: (_tensor(2, 3, 4, 5), torch.tensor(7), 0.3, 1.5, 0.25, -0.5, False, []),
    "dropout_": lambda: (_plain(2, 3, 4, 5), torch.tensor(7), 0.3, 1.5, 0.25, -0.5, True, [0, 2, 3, 1]),
    "bias_activation": lambda: (
        *(_tensor(2, 3, 4, 5), _tensor(3), _tensor(2, 3, 4, 5), torch.tensor(7)),
        *(0.3, "gelu", [], 1, [0, 2, 3, 1]),
    ),
    "bias_activation_backward": lambda: (
        *(_tensor(2, 3, 4, 5), _tensor(2, 3, 4, 5), _tensor(3), torch.tensor(7)),
        *(0.3, "tanh", [], False, True, 1, []),
    ),
    "channel_sum": lambda: (_tensor(2, 6, 4, 5), 1),
    "batch_norm": lambda: (
        *(_tensor(3, 2, 2, 3), _tensor(2), _tensor(2), _tensor(3, 2, 2, 3), None, None),
        *(1e-3, True, "leaky_relu", [0.1], [0, 2, 3, 1]),
    ),
    "batch_norm_backward": lambda: (
        *(_tensor(3, 2, 4), _tensor(3, 2, 4), _tensor(2), _tensor(2), None, *_moments()),
        *(1e-3, False, True, "silu", [], []),
    ),
    "gated": lambda: (_tensor(2, 6, 4, 5), None, "gelu", [], 1, False, [0, 2, 3, 1]),
    "gated_backward": lambda: (
        *(_tensor(2, 3, 4, 5), _tensor(2, 3, 4, 5), _tensor(2, 3, 4, 5)),
        *("sigmoid", [], 0, False, []),
    ),
    "softmax": lambda: (_tensor(2, 3, 4, 5), 1, True),
    "softmax_backward": lambda: (_tensor(2, 3, 4, 5), _tensor(2, 3, 4, 5), 3, False),
    "cross_entropy": lambda: (_tensor(2, 3, 4, 5), _labels(), _plain(3).abs(), *_CROSS_ENTROPY),
    "cross_entropy_backward": lambda: (_tensor(), *_with_statistics()),
    "cross_entropy_backward_": lambda: (_plain(), *_with_statistics()),
    "conv": lambda: (_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(6), *_CONV),
    "conv_activation": lambda: (
        *(_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(6), _tensor(2, 6, 4, 6)),
        *(*_CONV, "tanh", []),
    ),
    "conv_masked_activation": lambda: (
        *(_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(6), _tensor(2, 6, 4, 6)),
        *(*_CONV, "leaky_relu", [0.1]),
    ),
    "conv_moments": lambda: (_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(6), *_CONV),
    "conv_batch_norm": lambda: (
        *(_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(6), _tensor(6), _tensor(6), _tensor(2, 6, 4, 6)),
        *(*_moments(6), 1e-3, *_CONV, "leaky_relu", [0.1]),
    ),
    "conv_transpose": lambda: (_tensor(2, 6, 4, 6), _tensor(6, 2, 3, 2), _tensor(4), [2, 4, 7, 6], *_CONV),
    "conv_transpose_activation": lambda: (
        *(_tensor(2, 6, 4, 6), _tensor(6, 2, 3, 2), _tensor(4), _tensor(2, 4, 7, 6)),
        *([2, 4, 7, 6], *_CONV, "tanh", []),
    ),
    "conv_dgrad_activation": lambda: (
        *(_tensor(2, 6, 4, 6), _tensor(6, 2, 3, 2), _tensor(2, 4, 7, 6), *_CONV),
        *("tanh", []),
    ),
    "conv_transpose_dgrad_activation": lambda: (
        *(_tensor(2, 4, 7, 6), _tensor(6, 2, 3, 2), _tensor(2, 6, 4, 6), *_CONV),
        *("sigmoid", []),
    ),
    "conv_wgrad": lambda: (_tensor(2, 6, 4, 6), _tensor(2, 4, 7, 6), [3, 2], *_CONV),
    "conv_wgrad_bias": lambda: (_tensor(2, 6, 4, 6), _tensor(2, 4, 7, 6), [3, 2], *_CONV),
    "max_pool": lambda: (_tensor(2, 3, 6, 7), *_POOL, False),
    "max_pool_with_offsets": lambda: (_tensor(2, 3, 6, 7), *_POOL, True),
    "adaptive_max_pool": lambda: (_tensor(2, 3, 6, 7), [4, 3]),
    "adaptive_max_pool_with_offsets": lambda: (_tensor(2, 3, 6, 7), [4, 3]),
    "max_pool_indices": lambda: (_pooled()[1], [6, 7], *_POOL),
    "max_pool_backward": lambda: (*_pooled(), [6, 7], *_POOL),
    "max_unpool": lambda: (*_unpooled(), [6, 7]),
    "avg_pool": lambda: (_tensor(2, 3, 6, 7), *_POOL[:3], True, False, 0),
    "adaptive_avg_pool": lambda: (_tensor(2, 3, 6, 7), [4, 3]),
    "avg_pool_backward": lambda: (_tensor(2, 3, 4, 7), [6, 7], *_POOL[:3], True, False, 0),
    "optimizer_step_": lambda: (
        "adam",
        *([0.1, 0.9, 0.99, 1e-8], 0.1, True, False),
        *(_pair(), _pair(), [t.abs() for t in (*_pair(), *_pair())], [], [torch.tensor(1.0), torch.tensor(2.0)]),
    ),
    "hold_tensors_": lambda: (_pair(),),
    "optimizer_launch_": lambda: (_tensor(2), 0),
}
