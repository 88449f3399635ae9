"""RReLU in training: slopes of our own generator, in [lower, upper), the same in forward and backward."""

from __future__ import annotations

import pytest
import torch
from devices import cpu_only
from instruction_sets import each_instruction_set, run_on
from tolerances import DTYPES, chi_square_limit, storage_rounding
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F

LOWER, UPPER = 0.125, 0.375
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def slopes_of(x: Tensor, y: Tensor) -> Tensor:
    """Of the negative elements, in float64."""
    negative = x < 0
    return (y.double() / x.double())[negative]


def check(dtype: torch.dtype, size: int = 10_007) -> None:
    torch.manual_seed(size)
    draws = torch.randn(size) - 0.5
    x = torch.copysign(draws.abs() + 0.1, draws).to(dtype).requires_grad_()  # no subnormal products
    y = F.rrelu(x, LOWER, UPPER, training=True)
    assert torch.equal(y[x >= 0], x[x >= 0])
    slopes, rounding = slopes_of(x.detach(), y.detach()), 2 * storage_rounding(dtype)
    assert bool((slopes >= LOWER * (1 - rounding)).all())
    assert bool((slopes <= UPPER * (1 + rounding)).all())
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert torch.equal(grad[x > 0], torch.ones_like(grad[x > 0]))
    gradients = grad.detach().double()[x.detach() < 0]
    assert bool(((gradients - slopes).abs() <= 2 * rounding * UPPER).all())


def check_all() -> None:
    for dtype in DTYPES:
        for size in (1, 3, 15, 16, 17, 63, 64, 65, 4096, 10_007):
            check(dtype, size)


@dtypes
def test_slopes(dtype: torch.dtype) -> None:
    check(dtype)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    """The same numbers on each, up to the rounding of a product and a sum."""
    code = (
        "import test_rrelu as t, torch, nnart_ops.functional as F\n"
        "t.check_all()\ntorch.manual_seed(5)\n"
        "print(F.rrelu(-torch.ones(1001), 0.1, 0.9, True).double().mul(torch.arange(1001.0).double()).sum().item())"
    )
    result, expected = (float(run_on(name, code)) for name in (isa, "baseline"))
    assert result == pytest.approx(expected, rel=1e-6)


def test_uniform_and_independent() -> None:
    n, bins = 200_000, 50
    x = -torch.ones(n, dtype=torch.float64)
    torch.manual_seed(3)
    first, second = (-F.rrelu(x, 0.0, 1.0, training=True) for _ in range(2))
    for draws in (first, second, (first + second) % 1, (first + first.roll(1)) % 1):
        counts = torch.histc(draws, bins, 0, 1)
        statistic = ((counts - n / bins) ** 2 / (n / bins)).sum().item()
        assert statistic <= chi_square_limit(bins - 1)


@cpu_only
def test_reproducible_for_any_number_of_threads() -> None:
    x = torch.randn(101, 1009)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(11)
            results.append(F.rrelu(x, training=True))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(results[0], other) for other in results[1:])
    torch.manual_seed(12)
    assert not torch.equal(results[0], F.rrelu(x, training=True))


def test_layouts_and_gradients_of_a_sum() -> None:
    base = torch.randn(3, 4, 5, 6)
    for x in (base, base.contiguous(memory_format=torch.channels_last), base[:, ::2], base[:, :1].expand(3, 4, 5, 6)):
        leaf = x.detach().requires_grad_()
        y = F.rrelu(leaf, LOWER, UPPER, training=True)
        assert y.stride() == torch.empty_like(x).stride()  # torch's is contiguous
        (grad,) = torch.autograd.grad(y.sum(), leaf)
        torch.testing.assert_close(grad * x, y.detach())


def test_in_place_and_what_is_kept() -> None:
    x = torch.randn(1000)
    for lower in (0.1, -0.1):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        expected = F.rrelu(leaf, lower, 0.3, training=True)
        (gradient,) = torch.autograd.grad(expected.sum(), leaf)
        for how in ({"inplace": True}, *([{"save": "output"}, {"inplace": True, "save": "output"}] * (lower > 0))):
            torch.manual_seed(1)
            other = x.clone().requires_grad_()
            given = other * 1
            y = F.rrelu(given, lower, 0.3, training=True, **how)
            assert (y is given) == ("inplace" in how)
            assert torch.equal(y, expected)
            assert torch.equal(torch.autograd.grad(y.sum(), other)[0], gradient)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        F.rrelu(leaf, training=True, inplace=True)
    with pytest.raises(ValueError, match="rrelu: save must be None or one of 'input', 'recompute', but got 'output'"):
        F.rrelu(leaf, -0.1, 0.3, training=True, save="output")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.rrelu(leaf * 1, training=True)
    assert sorted(t.numel() for t in kept) == [1, 1000]  # the seed and the input, and no tensor of slopes


def test_every_order_and_transforms() -> None:
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)

    def call(t: Tensor) -> Tensor:
        torch.manual_seed(4)
        return F.rrelu(t, LOWER, UPPER, training=True)

    assert torch.autograd.gradcheck(call, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, x)
    batch = -torch.ones(4, 3000, dtype=torch.float64)
    same = torch.func.vmap(lambda t: F.rrelu(t, LOWER, UPPER, True), randomness="same")(batch)
    different = torch.func.vmap(lambda t: F.rrelu(t, LOWER, UPPER, True), randomness="different")(batch)
    assert torch.equal(same[0], same[1])
    assert not torch.equal(different[0], different[1])
    gradients = torch.func.vmap(torch.func.grad(lambda t: call(t).sum()), randomness="same")(batch)
    torch.testing.assert_close(gradients, -torch.func.vmap(call, randomness="same")(batch))


def test_compile() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.rrelu(x, LOWER, UPPER, training=True), backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 40, requires_grad=True)
    y = compiled(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad * x, y)


def test_module() -> None:
    layer = nnart_ops.RReLU(LOWER, UPPER)
    x = torch.randn(1000)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    assert torch.equal(y, F.rrelu(x, LOWER, UPPER, training=True))
    assert torch.equal(layer.eval()(x), F.leaky_relu(x, (LOWER + UPPER) / 2))
