"""What an activation keeps for its backward, and that each choice has the same derivatives."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from devices import cpu_only
from instruction_sets import each_instruction_set, run_on
from opcases import ACTIVATIONS, ActivationCase
from tolerances import DTYPES, SAME_FLOAT64, assert_close, storage_rounding
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.autograd.masked_activation import masked_activation, masked_backward
from nnart_ops.functional._saving import allowed

CHOICES = [
    (case, save)
    for case, save in itertools.product(ACTIVATIONS, ("input", "output", "mask", "recompute"))
    if save in allowed(case.op, case.parameters)
]
choices = pytest.mark.parametrize(("case", "save"), CHOICES, ids=lambda value: getattr(value, "id", value))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 129, 4096, 4097, 10007)


def gradient(case: ActivationCase, x: Tensor, grad_y: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = case.ours(leaf, **how)
    return y.detach(), torch.autograd.grad(y, leaf, grad_y)[0]


def check(case: ActivationCase, save: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for size in SIZES:
        x, grad_y = (torch.randn(size) * 3).to(dtype), torch.randn(size).to(dtype)
        y, grad = gradient(case, x, grad_y, save=save)
        expected_y, expected = gradient(case, x, grad_y)
        assert torch.equal(y, expected_y)
        if save == "output":  # the derivative of what the output is, not of what it was before it was rounded
            _, oracle = gradient(case, x.double(), grad_y.double())
            largest = max(1.0, float(y.double().abs().amax())) if size else 1.0
            slack = 4 * storage_rounding(dtype) * largest * grad_y.double().abs() + torch.finfo(dtype).tiny
            assert bool(((grad.double() - oracle).abs() <= slack).all()), (case.id, dtype, size)
        else:
            assert torch.equal(grad, expected), (case.id, save, dtype, size)


@choices
@dtypes
def test_the_same_derivative(case: ActivationCase, save: str, dtype: torch.dtype) -> None:
    check(case, save, dtype)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(
        isa, "import test_save as t\nfor case, save in t.CHOICES:\n  for dtype in t.DTYPES: t.check(case, save, dtype)"
    )


@choices
def test_layouts(case: ActivationCase, save: str) -> None:
    base = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    for x in (
        base.contiguous(memory_format=torch.channels_last),
        base.permute(3, 1, 0, 2),
        base[:, 1:3, ::2],
        base[:, :1].expand(3, 4, 5, 6),
        base[1, 2, 3, 4],
    ):
        grad_y = torch.randn(x.shape, dtype=torch.float64)
        for given in (
            grad_y,
            grad_y[..., :1].expand(x.shape) if x.dim() else grad_y,
            torch.ones(()).double().expand(x.shape),
        ):
            result, expected = gradient(case, x, given, save=save), gradient(case, x, given)
            assert result[0].stride() == expected[0].stride()
            for a, b in zip(result, expected):
                torch.testing.assert_close(a, b, **SAME_FLOAT64)


@choices
def test_every_order_and_transforms(case: ActivationCase, save: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: case.ours(t, save=save), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: case.ours(t, save=save), x)
    plain = x.detach()
    for transform in (
        lambda f: torch.func.vmap(torch.func.grad(lambda v: f(v).sum())),
        torch.func.jacrev,
        lambda f: torch.func.hessian(lambda v: f(v).sum()),
    ):
        torch.testing.assert_close(
            transform(lambda t: case.ours(t, save=save))(plain), transform(case.ours)(plain), **SAME_FLOAT64
        )


@choices
def test_compile(case: ActivationCase, save: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda t: case.ours(t, save=save), backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(case.ours(x).sum(), x)[0], **SAME_FLOAT64)


def kept_by(function: Any, x: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(x)
    return kept


@choices
def test_what_is_kept(case: ActivationCase, save: str) -> None:
    x = torch.randn(640, requires_grad=True) * 1
    y: list[Tensor] = []
    (kept,) = kept_by(lambda t: y.append(case.ours(t, save=save)), x)
    if save == "mask":
        assert (kept.dtype, kept.numel()) == (torch.uint8, 80)
    else:
        assert kept.data_ptr() == (y[0] if save == "output" else x).data_ptr()


@pytest.mark.parametrize("case", [case for case in ACTIVATIONS if case.inplace], ids=lambda case: case.id)
def test_in_place_keeps_no_copy_where_the_output_suffices(case: ActivationCase) -> None:
    leaf = torch.randn(640, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(case.ours(leaf).sum(), leaf)[0]
    suffices = "output" in allowed(case.op, case.parameters)
    for how in ({}, {"save": "output"}) if suffices else ({},):
        x = leaf * 1
        (kept,) = kept_by(lambda t, how=how: case.ours(t, inplace=True, **how), x)
        assert (kept.data_ptr() == x.data_ptr()) == suffices
        x = leaf * 1
        grad = torch.autograd.grad(case.ours(x, inplace=True, **how).sum(), leaf)[0]
        torch.testing.assert_close(grad, expected, **SAME_FLOAT64)
    for save in {"input", "mask", "recompute"} & set(allowed(case.op, case.parameters)):
        with pytest.raises(ValueError, match="inplace=True overwrites the input, so save must be None or 'output'"):
            case.ours(leaf * 1, inplace=True, save=save)


@pytest.mark.parametrize("case", ACTIVATIONS, ids=lambda case: case.id)
def test_other_choices_are_refused(case: ActivationCase) -> None:
    x = torch.randn(3)
    for save in {"output", "mask", "all"} - set(allowed(case.op, case.parameters)):
        with pytest.raises(ValueError, match=rf"{case.function}: save must be None or one of 'input', .* got '{save}'"):
            case.ours(x, save=save)


def test_numbers_for_which_the_output_does_not_suffice() -> None:
    x = torch.randn(3)
    for call in (
        lambda: F.leaky_relu(x, -0.1, save="output"),
        lambda: F.threshold(x, 0.1, 20.0, save="output"),
        lambda: F.elu(x, -1.0, save="output"),
        lambda: F.celu(x, -1.0, save="output"),
        lambda: F.softplus(x, threshold=2.0, save="output"),
        lambda: F.softplus(x, beta=-1.0, save="output"),
    ):
        with pytest.raises(ValueError, match="save must be None or one of"):
            call()
    # Where it suffices, the elements at the kinks go as they do without it.
    x = torch.tensor([-2.0, -0.0, 0.0, 0.5, 1.0, 6.0, 7.0, float("nan"), float("inf"), -float("inf")])
    calls: list[Any] = [
        lambda t, **how: F.threshold(t, 0.5, 0.25, **how),
        lambda t, **how: F.leaky_relu(t, 0.0, **how),
        lambda t, **how: F.relu6(t, **how),
        lambda t, **how: F.hardtanh(t, 0.5, 1.0, **how),
        lambda t, **how: F.hardshrink(t, 1.0, **how),
        lambda t, **how: F.softshrink(t, 0.5, **how),
        lambda t, **how: F.relu(t, **how),
    ]
    for call, save in itertools.product(calls, ("output", "mask")):
        leaf = x.clone().requires_grad_()
        grads = [torch.autograd.grad(call(leaf, **how).sum(), leaf)[0] for how in ({}, {"save": save})]
        torch.testing.assert_close(*grads, equal_nan=True, rtol=0, atol=0)


def test_a_zero_slope_stays_zero() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0], requires_grad=True)
    (grad,) = torch.autograd.grad(F.relu(x, save="mask"), x, torch.tensor([inf, inf, nan, nan]))
    torch.testing.assert_close(grad, torch.tensor([0.0, inf, 0.0, nan]), equal_nan=True)


@cpu_only
def test_threads_do_not_change_the_mask() -> None:
    x = torch.randn(200_003)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(torch.ops.nnart_ops.masked_activation(x, "relu", [], []))
    finally:
        torch.set_num_threads(1)
    for y, mask in results:
        assert torch.equal(y, results[0][0])
        assert torch.equal(mask, results[0][1])
    bits = (results[0][1].unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    assert torch.equal(bits.reshape(-1)[: x.numel()].bool(), x > 0)


@dtypes
@pytest.mark.parametrize(("name", "numbers"), [("leaky_relu", [0.1]), ("hardsigmoid", []), ("relu", [])])
@pytest.mark.parametrize("order", [[], [1, 0]], ids=str)
def test_ops_of_the_mask_are_batched(dtype: torch.dtype, name: str, numbers: list[float], order: list[int]) -> None:
    x, vmap = torch.randn(3, 4, 5).to(dtype), torch.func.vmap
    forward, backward = torch.ops.nnart_ops.masked_activation, torch.ops.nnart_ops.masked_activation_backward
    y, mask = vmap(masked_activation, (0, None, None, None))(x, name, numbers, order)
    grads = vmap(masked_backward, (0, 0, None, None, None))(x, mask, name, numbers, order)
    for i in range(3):
        expected = forward(x[i], name, numbers, order)
        assert torch.equal(y[i], expected[0])
        assert torch.equal(mask[i], expected[1])
        gradient = backward(x[i], mask[i], name, numbers, order)
        assert_close(grads[i], gradient, gradient.double())


def test_modules() -> None:
    for name, arguments, save in (
        ("ReLU", {}, "mask"),
        ("ELU", {"alpha": 0.5}, "output"),
        ("GELU", {"approximate": "tanh"}, "recompute"),
        ("Hardtanh", {"min_val": -2.0}, "mask"),
        ("Softplus", {}, "output"),
        ("RReLU", {}, "output"),
        ("Sigmoid", {}, "input"),
    ):
        layer, plain = getattr(nnart_ops, name)(**arguments, save=save), getattr(torch.nn, name)(**arguments)
        body = repr(plain)[:-1]
        assert repr(layer) == f"{body}{', ' if not body.endswith('(') else ''}save={save!r})"
        assert copy.deepcopy(layer).save == save
        x = torch.randn(640, requires_grad=True)
        torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="gelu: save must be None or one of 'input', 'recompute', but got 'mask'"):
        nnart_ops.GELU(save="mask")
    with pytest.raises(ValueError, match="inplace=True overwrites the input"):
        nnart_ops.SiLU(inplace=True, save="input")
    state = torch.get_rng_state()
    nnart_ops.RReLU(save="output")
    assert torch.equal(torch.get_rng_state(), state)
    assert nnart_ops.convert(torch.nn.Sequential(torch.nn.ReLU()))[0].save is None
    conv = nnart_ops.Conv2d(2, 2, 1, activation=nnart_ops.ReLU(save="mask"))
    assert (conv(torch.randn(1, 2, 3, 3)) >= 0).all()


# ---- recompute ----


def feed_forward(save: str | None) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 32),
        nnart_ops.GELU(save=save),
        torch.nn.Unflatten(-1, (4, 8)),
        torch.nn.Linear(8, 8),
        nnart_ops.SiLU(save=save),
        torch.nn.Linear(8, 3),
    ).double()


def test_recomputed_outputs_are_not_kept() -> None:
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    plain, layer = feed_forward(None), feed_forward("recompute")
    expected = torch.autograd.grad(plain(x).sin().sum(), [x, *plain.parameters()])
    alive = []
    for context in (
        nnart_ops.recompute_activations(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ):
        outputs: list[Any] = []
        hook = layer[1].register_forward_hook(lambda m, i, o, to=outputs: to.append(o.untyped_storage()._weak_ref()))
        with context:
            y = layer(x)
        hook.remove()
        alive.append(not torch.UntypedStorage._expired(outputs[0]))
        result = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])
        for a, b in zip(result, expected):
            torch.testing.assert_close(a, b, **SAME_FLOAT64)
        torch.UntypedStorage._free_weak_ref(outputs[0])
    assert alive == [False, True]


def test_recomputing_heeds_changes() -> None:
    weight = torch.randn(8, 8, requires_grad=True)
    x = torch.randn(5, 8, requires_grad=True)
    with nnart_ops.recompute_activations():
        given = x * 1
        y = F.gelu(given, save="recompute")
        z = y @ weight
        y2 = F.gelu(x, save="recompute")
        y2 += 1  # no longer what it was computed as: kept
        z2 = y2 @ weight
    expected = torch.autograd.grad(((torch.nn.functional.gelu(x) + 1) @ weight).sum(), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(z2.sum(), weight)[0], expected)
    with torch.no_grad():
        given += 1
    with pytest.raises(RuntimeError, match="was modified by an inplace operation"):
        z.sum().backward()


def test_recompute_of_random_slopes_and_second_derivatives() -> None:
    layer = torch.nn.Sequential(nnart_ops.RReLU(0.1, 0.3, save="recompute"), torch.nn.Linear(8, 8)).double()
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for context in (nnart_ops.recompute_activations(), torch.enable_grad()):
        torch.manual_seed(2)
        with context:
            y = layer(x).sin().sum()
        (grad,) = torch.autograd.grad(y, x, create_graph=True)
        results.append(torch.autograd.grad(grad.sin().sum(), [x, *layer.parameters()]))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, **SAME_FLOAT64)

    @nnart_ops.recompute_activations()
    def decorated(t: Tensor) -> Tensor:
        return layer(t)

    decorated(x).sum().backward()
