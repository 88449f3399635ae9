"""A convolution and the batch normalization behind it as one, against the two of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import DTYPES, LAYOUTS, away_from_kinks, case, operands
from tolerances import assert_close
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F

CASES = (  # a strategy each: GEMM, depthwise, native, a window as large as the image
    case((3, 3, 9, 10), (8, 3, 3, 3), padding=1),
    case((2, 40, 9, 10), (40, 1, 3, 3), padding=1, groups=40, bias=False),
    case((2, 32, 8, 8), (32, 32, 3, 3), stride=2, padding=1),
    case((3, 5, 4, 4), (6, 5, 4, 4), bias=False),
    case((2, 4, 20), (6, 2, 3), groups=2, dilation=2),
    case((2, 4, 5, 6, 7), (6, 4, 2, 3, 3), padding=1),
)
cases = pytest.mark.parametrize(("x", "weight", "bias", "numbers"), CASES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NAMES = ("grad_x", "grad_weight", "grad_bias", "grad_norm_weight", "grad_norm_bias", "grad_residual")


class Norm:
    """Numbers of the channels."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.statistics = [torch.randn(channels).to(wide), (torch.rand(channels) + 0.5).to(wide)]
        self.weights = [(torch.rand(channels) + 0.5).to(wide), torch.randn(channels).to(wide)]

    def double(self) -> Norm:
        other = copy.copy(self)
        other.statistics, other.weights = ([t.double() for t in ts] for ts in (self.statistics, self.weights))
        return other


def torchs(x: Tensor, w: Tensor, b: Any, norm: Norm, residual: Any, training: bool, name: Any, numbers: Any) -> Any:
    """The result, and the statistics after it."""
    statistics = [t.clone() for t in norm.statistics]
    y = getattr(native, f"conv{x.dim() - 2}d")(x, w, b, **numbers)
    y = native.batch_norm(y, *statistics, *norm.weights, training)
    y = y if residual is None else y + residual
    return getattr(native, name)(y) if name else y, statistics


def ours(x: Tensor, w: Tensor, b: Any, norm: Norm, residual: Any, training: bool, name: Any, numbers: Any) -> Any:
    statistics = [t.clone() for t in norm.statistics]
    options = {"activation": name, "residual": residual}
    return F.conv_batch_norm(x, w, b, *statistics, *norm.weights, training, **numbers, **options), statistics


def outcome(function: Any, tensors: list[Any], norm: Norm, grad_y: Tensor, *how: Any) -> list[Tensor]:
    """The result, the statistics and the gradients of all that has one."""
    *given, residual = [t if t is None else t.detach().requires_grad_() for t in tensors]
    norm = copy.copy(norm)
    norm.weights = [t.detach().requires_grad_() for t in norm.weights]
    y, statistics = function(*given, norm, residual, *how)
    leaves = [t for t in (*given, *norm.weights, residual) if t is not None]
    return [y.detach(), *statistics, *torch.autograd.grad(y, leaves, grad_y.to(y.dtype))]


def kept_by(forward: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The result, and the tensors that autograd keeps of it."""
    kept = list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        return forward(), kept


@pytest.mark.parametrize("layout", LAYOUTS)
@dtypes
@cases
def test_against_the_two(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str) -> None:
    tensors = operands(x, weight, bias, dtype, layout)
    norm = Norm(weight[0], dtype)
    doubles = [t if t is None else t.double() for t in tensors]
    shape = torchs(*doubles, norm.double(), None, False, None, numbers)[0].shape
    residual = torch.randn(shape).to(dtype)
    for training in (True, False):
        for name, beside in ((None, None), ("relu", residual), ("silu", None), ("gelu", residual)):
            given, exact = [*tensors, beside], [*doubles, None if beside is None else beside.double()]
            how = (training, name, numbers)
            pre, _ = torchs(*exact[:3], norm.double(), exact[3], training, None, numbers)
            grad_y = away_from_kinks(pre, dtype)
            results = [
                outcome(function, these, these_numbers, grad_y, *how)
                for function, these, these_numbers in (
                    (ours, given, norm),
                    (torchs, given, norm),
                    (torchs, exact, norm.double()),
                )
            ]
            # A sum over a channel is as far off as its terms, each rounded; small deviations make them larger.
            for got, want, truth in zip(*results, strict=True):
                assert_close(got, want, truth, f"{how} of {x}", terms=64)
            with torch.no_grad():
                y, _ = ours(*given[:3], norm, beside, *how)
            assert_close(y, results[1][0], results[2][0], f"{how} of {x} without gradients", terms=64)


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
@cases
def test_the_ops(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str) -> None:
    """Moments are those of the result that was stored; given statistics give the normalized result."""
    tensors = operands(x, weight, bias, dtype, layout)
    norm, dims = Norm(weight[0], dtype), len(weight) - 2
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **numbers}
    where = [[full[name]] * dims * (2 if name == "padding" else 1) for name in ("stride", "padding", "dilation")]
    y, mean, var = torch.ops.nnart_ops.conv_moments(*tensors, *where, full["groups"])
    assert torch.equal(y, torch.ops.nnart_ops.conv(*tensors, *where, full["groups"]))
    others = [0, *range(2, y.dim())]
    exact_var, exact_mean = torch.var_mean(y.double(), others, correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0)
    numbers_of_norm = (*norm.weights, y, *norm.statistics, 1e-5)
    got = torch.ops.nnart_ops.conv_batch_norm(*tensors, *numbers_of_norm, *where, full["groups"], "relu", [])
    doubles = [t if t is None else t.double() for t in tensors]
    want, _ = torchs(*tensors, norm, y, False, "relu", numbers)
    truth, _ = torchs(*doubles, norm.double(), y.double(), False, "relu", numbers)
    assert_close(got, want, truth, "conv_batch_norm", terms=16)


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training: bool) -> None:
    x, w, b = operands((2, 4, 5, 5), (6, 2, 3, 3), True, torch.float64, "channels_last")
    norm = Norm(6, torch.float64)
    leaves = [t.requires_grad_() for t in (x, w, b, *norm.weights, torch.randn(2, 6, 3, 3, dtype=torch.float64))]

    def call(x: Any, w: Any, b: Any, norm_weight: Any, norm_bias: Any, residual: Any) -> Tensor:
        statistics = [t.clone() for t in norm.statistics]
        options = {"groups": 2, "activation": "leaky_relu", "residual": residual}
        return F.conv_batch_norm(x, w, b, *statistics, norm_weight, norm_bias, training, **options)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_nothing_of_the_outputs_size_is_kept_but_the_output() -> None:
    """In evaluation, with gradients: the normalization is in the filters."""
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    weight = torch.randn(8, 3, 3, 3, requires_grad=True)
    norm = Norm(8, torch.float32)
    numbers = (*norm.statistics, *norm.weights)
    y, kept = kept_by(lambda: F.conv_batch_norm(x, weight, None, *numbers, padding=1, activation="relu"))
    assert {t.data_ptr() for t in kept if t.numel() >= x.numel()} == {x.data_ptr(), y.data_ptr()}
    assert "BatchNorm" not in str(graph_of(y))


def graph_of(y: Tensor) -> list[str]:
    names, nodes = list[str](), [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.append(type(node).__name__)
            nodes += [following for following, _ in node.next_functions]
    return names


def test_large_filters_are_not_folded() -> None:
    """Where they have more elements than the output, a pass over that is the shorter one."""
    norm = Norm(64, torch.float32)
    x, weight = torch.randn(1, 64, 4, 4), torch.randn(64, 64, 3, 3, requires_grad=True)
    y = F.conv_batch_norm(x, weight, None, *norm.statistics, *norm.weights, padding=1)
    assert "BatchNorm" in str(graph_of(y))
    expected, _ = torchs(x, weight, None, norm, None, False, None, {"padding": 1})
    torch.testing.assert_close(y, expected)


def test_autocast() -> None:
    norm = Norm(8, torch.float32)
    x, weight = torch.randn(2, 3, 12, 12), torch.randn(8, 3, 3, 3)
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = ours(x, weight, None, norm, None, training, "relu", {})
        expected, _ = torchs(x, weight, None, norm, None, training, "relu", {})
        assert y.dtype == torch.bfloat16
        assert (y.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_errors() -> None:
    x, w, three = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.ones(3)
    for error, match, args in (
        (ValueError, "expected input and weight with 4 dimensions, but got 3", (x[0], w, None, three, three)),
        (ValueError, "with 3 to 5 dimensions, but got 4", (x, w[0, 0], None, three, three)),
        (RuntimeError, "running_var must have 3 elements, one for each channel of the output, but has shape \\[1\\]",
         (x, w, None, three, three[:1])),
        (RuntimeError, "norm_bias must have 3 elements", (x, w, None, three, three, three, three[:2])),
        (RuntimeError, "input has 4 channels", (x, w[:, :2], None, three, three)),
        (ValueError, "activation must be one of", (x, w, None, three, three)),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            F.conv_batch_norm(*args, activation="a" if "activation" in match else None)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.conv_batch_norm(x[:1, :, :3, :3], w, None, None, None, training=True)
    where = ([1, 1], [0] * 4, [1, 1], 1)
    ops = torch.ops.nnart_ops
    for match, call in (
        ("conv_moments: x must have a batch dimension", lambda: ops.conv_moments(x[0], w, None, *where)),
        ("conv_batch_norm: mean must have the sizes \\[3\\]",
         lambda: ops.conv_batch_norm(x, w, None, None, None, None, three[:1], three, 1e-5, *where, "relu", [])),
        ("conv_batch_norm: no kernel has tanh in it",
         lambda: ops.conv_batch_norm(x, w, None, None, None, None, three, three, 1e-5, *where, "tanh", [])),
        ("the derivative of silu takes more than two values",
         lambda: ops.conv_masked_activation(x, w, None, None, *where, "silu", [])),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=match):
            call()


# ---- masks -----------------------------------------------------------------------------------------------------------


def activations() -> Iterator[tuple[str, Any]]:
    for name, module in (
        ("relu", "ReLU"),
        ("leaky_relu", "LeakyReLU"),
        ("relu6", "ReLU6"),
        ("hardshrink", "Hardshrink"),
    ):
        yield name, getattr(nnart_ops, module)(save="mask")


@pytest.mark.parametrize("with_residual", [False, True])
@dtypes
@cases
def test_masks(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, with_residual: bool) -> None:
    """``save="mask"`` of the activation is obeyed, and the numbers are the separate operations'."""
    tensors = operands(x, weight, bias, dtype, "channels_last")
    function, theirs = (getattr(place, f"conv{len(x) - 2}d") for place in (F, native))
    doubles = [t if t is None else t.double() for t in tensors]
    pre = theirs(*doubles, **numbers)
    residual = torch.randn(pre.shape).to(dtype) if with_residual else None
    for name, module in activations():
        exact = pre if residual is None else pre + residual.double()
        near = (exact.abs() - 0.5).abs() < 1e-2  # of hardshrink, which jumps there
        grad_y = away_from_kinks(exact, dtype).masked_fill(near, 0)
        results = []
        for call, these, beside in (
            (function, tensors, residual),
            (theirs, tensors, residual),
            (theirs, doubles, residual),
        ):
            leaves = [t if t is None else t.detach().requires_grad_() for t in these]
            if call is function:
                y, kept = kept_by(lambda t=leaves, m=module: function(*t, **numbers, activation=m, residual=residual))
                assert any(t.dtype is torch.uint8 and t.numel() == (y.numel() + 7) // 8 for t in kept)
                assert not any(t.data_ptr() == y.data_ptr() for t in kept)
            else:
                y = call(*leaves, **numbers)
                y = getattr(native, name)(y if beside is None else y + beside.to(y))
            wanted = [t for t in leaves if t is not None]
            y = y.masked_fill(near, 0)
            results.append([y.detach(), *torch.autograd.grad(y, wanted, grad_y.to(y.dtype))])
        for got, want, truth in zip(*results, strict=True):
            assert_close(got, want, truth, f"{name} of {x}", terms=16)


def test_masks_have_every_derivative() -> None:
    leaves = [t.requires_grad_() for t in operands((2, 4, 5, 5), (6, 2, 3, 3), True, torch.float64, "contiguous")]
    module = nnart_ops.LeakyReLU(0.1, save="mask")
    call = lambda *t: F.conv2d(*t, groups=2, activation=module)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), call(*leaves))
    samples = torch.randn(3, 2, 4, 5, 5, dtype=torch.float64)
    mapped = torch.func.vmap(call, (0, None, None))(samples, *leaves[1:])
    torch.testing.assert_close(mapped, torch.stack([call(x, *leaves[1:]) for x in samples]))


def test_what_is_recomputed_is_not_kept() -> None:
    x, w = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    for save in ("recompute", "mask", None):
        y, kept = kept_by(lambda how=save: F.conv2d(x, w, activation=nnart_ops.ReLU(save=how)))
        assert any(t.data_ptr() == y.data_ptr() for t in kept) == (save is None)
