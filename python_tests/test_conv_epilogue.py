"""``activation=`` and ``residual=`` of a convolution, against the separate operations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import DTYPES, LAYOUTS, SLOPES, away_from_kinks, case, functions, operands, outcome
from tolerances import assert_close
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F

EPILOGUES = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "hardswish", None)
FUSED = (  # a strategy each: depthwise in place or copied, native, GEMM
    case((2, 40, 9, 10), (40, 1, 3, 3), padding=1, groups=40),
    case((2, 5, 9, 10), (5, 1, 3, 3), padding=1, groups=5, bias=False),
    case((2, 5, 7, 7), (5, 1, 3, 3), padding=1, groups=5),
    case((3, 5, 4, 4), (6, 5, 4, 4), bias=False),  # one window: a matrix product
    case((2, 5, 70, 40), (5, 1, 5, 5), padding=2, groups=5),
    case((2, 32, 8, 8), (32, 32, 3, 3), padding=1),
    case((3, 9, 9), (4, 3, 3, 3), stride=2),
    case((2, 3, 20), (4, 3, 3)),
    case((2, 3, 9, 10), (40, 3, 3, 3), padding=1),
    case((1, 4, 100, 60), (9, 4, 3, 3), padding=1),  # GEMM in bands
    case((2, 4, 5, 6, 7), (4, 1, 2, 3, 3), groups=4),
)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), FUSED)
def test_activation_and_residual(
    x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str, with_residual: bool
) -> None:
    """Against the separate operations, with and without gradients, which take different ways."""
    ours, theirs = functions(weight)
    tensors = operands(x, weight, bias, dtype, layout)
    y = theirs(*tensors, **numbers)
    residual = torch.randn(y.shape).to(y) if with_residual else None
    for name in EPILOGUES:

        def separate(x: Any, w: Any, b: Any, r: Any, name: Any = name) -> Tensor:
            pre = theirs(x, w, b, **numbers) if r is None else theirs(x, w, b, **numbers) + r
            return getattr(native, name)(pre) if name else pre

        def fused(x: Any, w: Any, b: Any, r: Any, name: Any = name) -> Tensor:
            return ours(x, w, b, **numbers, activation=name, residual=r)

        given = [*tensors, residual]
        doubles = [t.double() if t is not None else None for t in given]
        grad_y = away_from_kinks(separate(*doubles, name=None), dtype)
        results = [outcome(f, t, grad_y, {}) for f, t in ((fused, given), (separate, given), (separate, doubles))]
        with torch.no_grad():
            results[0].append(fused(*given))
            for i in (1, 2):
                results[i].append(results[i][0])
        for got, want, truth in zip(*results):
            assert_close(got, want, truth, f"{name} of shape {tuple(truth.shape)}")


@pytest.mark.parametrize(("kind", "strategy"), [("conv", None), ("conv", "gemm"), ("conv_transpose", None)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), FUSED)
def test_gradient_before_the_activation_of_x(
    x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str, kind: str, strategy: str | None
) -> None:
    """Against the gradient of x and its product with the derivative."""
    theirs = functions(weight, kind)[1]
    *tensors, _ = operands(x, weight, bias, dtype, layout)
    if kind == "conv_transpose":  # of what the convolution makes of x
        tensors[0] = functions(weight)[1](*tensors, **numbers)
    op = getattr(torch.ops.nnart_ops, f"{kind}_dgrad_activation")
    grad_y = torch.randn_like(theirs(*tensors, **numbers))
    dims = len(weight) - 2
    each = lambda name, default: [numbers.get(name, default)] * dims  # noqa: E731
    geometry = (each("stride", 1), each("padding", 0) * 2, each("dilation", 1), numbers.get("groups", 1))
    for (name, parameters), slope in SLOPES.items():

        def separate(x: Tensor, w: Tensor, g: Tensor, slope: Any = slope) -> Tensor:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(theirs(leaf, w, **numbers), leaf, g)[0] * slope(x)

        given = (getattr(torch.ops.nnart_ops, name)(tensors[0], *parameters), tensors[1], grad_y)
        with nnart_ops.config(conv_strategy=strategy):
            got = op(grad_y, given[1], given[0], *geometry, name, parameters)
        assert_close(got, separate(*given), separate(*(t.double() for t in given)), name)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "silu"])
def test_gradcheck_of_the_fused_form(name: str) -> None:
    leaves = [t.requires_grad_() for t in operands((2, 4, 5, 5), (4, 1, 3, 3), True, torch.float64, "contiguous")]
    leaves.append(torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True))
    call = lambda x, w, b, r: F.conv2d(x, w, b, padding=1, groups=4, activation=name, residual=r)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, leaves)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), call(*leaves))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bias_is_summed_in_the_activations_pass(
    dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of gradients larger than the caches: the same numbers, with and without a batch, of every order."""
    monkeypatch.setattr("nnart_ops.autograd.conv.LARGER_THAN_CACHES", 0)
    for x, weight in (((3, 4, 9, 8), (6, 2, 3, 3)), ((4, 9, 8), (6, 2, 3, 3)), ((2, 4, 20), (6, 2, 3))):
        ours, theirs = functions(weight)
        tensors = operands(x, weight, True, dtype, layout if len(x) == len(weight) else "contiguous")
        doubles = [t.double() for t in tensors]
        pre = theirs(*doubles, groups=2)
        residual = torch.randn(pre.shape).to(dtype)
        for name in ("relu", "leaky_relu", "tanh"):

            def separate(x: Any, w: Any, b: Any, r: Any, name: str = name, theirs: Any = theirs) -> Tensor:
                return getattr(native, name)(theirs(x, w, b, groups=2) + r)

            def fused(x: Any, w: Any, b: Any, r: Any, name: str = name, ours: Any = ours) -> Tensor:
                return ours(x, w, b, groups=2, activation=name, residual=r)

            given, exact = [*tensors, residual], [*doubles, residual.double()]
            grad_y = away_from_kinks(pre + residual.double(), dtype)
            results = [outcome(f, t, grad_y, {}) for f, t in ((fused, given), (separate, given), (separate, exact))]
            for got, want, truth in zip(*results, strict=True):
                assert_close(got, want, truth, f"{name} of shape {tuple(truth.shape)}")
            if dtype == torch.float64:
                leaves = [t.detach().requires_grad_() for t in given]
                assert torch.autograd.gradcheck(fused, leaves)
                assert torch.autograd.gradgradcheck(fused, leaves)


def test_what_the_fused_form_keeps() -> None:
    x, w = torch.randn(1, 4, 6, 6, requires_grad=True), torch.randn(4, 1, 3, 3, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = F.conv2d(x, w, padding=1, groups=4, activation="relu")
    assert sorted(kept) == sorted([x.numel(), w.numel(), y.numel()])


def test_modules_with_an_activation() -> None:
    plain = torch.nn.Conv2d(4, 4, 3, padding=1)
    for activation in ("relu", torch.nn.LeakyReLU(0.2), nnart_ops.GELU("tanh"), None):
        layer = nnart_ops.Conv2d(4, 4, 3, padding=1, activation=activation)
        layer.load_state_dict(plain.state_dict())
        assert list(layer.state_dict()) == list(plain.state_dict())
        x = torch.randn(2, 4, 6, 6)
        expected = plain(x) + x
        if activation is not None:
            expected = native.relu(expected) if activation == "relu" else activation(expected)
        torch.testing.assert_close(layer(x, x), expected)
        assert repr(activation) in repr(layer) or activation is None
        torch.testing.assert_close(copy.deepcopy(layer)(x, residual=x), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lazy_modules(dims: int) -> None:
    x = torch.randn(2, 3, *(6,) * dims)
    for make in (
        lambda: getattr(nnart_ops, f"LazyConv{dims}d")(3, 3, padding=1, activation="relu"),
        lambda: nnart_ops.convert(getattr(torch.nn, f"LazyConv{dims}d")(3, 3, padding=1)),
    ):
        layer = make()
        activation = layer.activation
        y = layer(x, x)  # the first call, which makes the parameters
        assert type(layer) is getattr(nnart_ops, f"Conv{dims}d")
        pre = getattr(native, f"conv{dims}d")(x, layer.weight, layer.bias, padding=1) + x
        torch.testing.assert_close(y, native.relu(pre) if activation else pre)
        torch.testing.assert_close(layer(x, x), y)


def test_refused_epilogues() -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3)
    with pytest.raises(ValueError, match=r"activation must be one of relu, .* but got 'rule'"):
        F.conv2d(x, w, activation="rule")
    with pytest.raises(TypeError, match=r"activation must be a name .* but got Linear"):
        nnart_ops.Conv2d(2, 2, 3, activation=torch.nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match=r"residual has \[1, 2, 5, 5\] and the output has \[1, 2, 3, 3\]"):
        F.conv2d(x, w, residual=x)
    with pytest.raises(
        RuntimeError, match=r"residual must have the output's shape \[1, 2, 3, 3\], but has \[2, 1, 1\]"
    ):
        F.conv2d(x.cfloat(), w.cfloat(), residual=torch.ones(2, 1, 1))
    with pytest.raises(RuntimeError, match="there is no activation 'rule'; known are identity, relu"):
        torch.ops.nnart_ops.conv_activation(x, w, None, None, [1, 1], [0] * 4, [1, 1], 1, "rule", [])
