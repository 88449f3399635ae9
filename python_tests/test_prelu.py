"""PReLU against float64, in every layout, with one weight and one a channel."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only, generator
from instruction_sets import each_instruction_set, run_on
from tolerances import SAME_FLOAT32, TWICE_NATIVE, storage_rounding, sum_limit
from torch.testing._internal.common_methods_invocations import op_db

from nnart_ops.autograd.prelu import prelu

OPS = torch.ops.nnart_ops
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OP_INFO = next(op for op in op_db if op.name == "nn.functional.prelu")
SHAPES = [
    (),
    (1,),
    (17,),
    (5, 1),
    (6, 7),
    (2, 3, 5),
    (2, 3, 5, 7),
    (3, 33, 4, 4),
    (2, 2, 80, 81),
    (0, 3, 4, 4),
    (2, 3, 0),
]


def tensors(shape: tuple[int, ...], dtype: torch.dtype, per_channel: bool, layout: torch.memory_format) -> tuple:
    draws = generator(0)
    x, grad_y = (torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype) for _ in range(2))
    if x.dim() == 4:
        x = x.to(memory_format=layout)
    weights = shape[1] if per_channel and len(shape) > 1 else 1
    weight = torch.rand(weights, generator=draws, dtype=torch.float64).to(dtype)
    return x, weight, grad_y


def gradients(function, x: torch.Tensor, weight: torch.Tensor, grad_y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, grad_y)


def limits(dtype: torch.dtype, terms: float) -> tuple[float, float, float]:
    """What y, grad_x and grad_weight, a sum over x, may be off by beyond native's own error."""
    return sum_limit(dtype, 0), sum_limit(dtype, 0), sum_limit(dtype, terms)


def check(shape: tuple[int, ...], dtype: torch.dtype, per_channel: bool, layout: torch.memory_format) -> None:
    x, weight, grad_y = tensors(shape, dtype, per_channel, layout)
    ours = gradients(prelu, x, weight, grad_y)
    peer = gradients(native.prelu, x, weight, grad_y)
    oracle = gradients(native.prelu, x.double(), weight.double(), grad_y.double())
    terms = float((x.double() * grad_y.double() * (x <= 0)).abs().sum())
    for a, b, exact, limit in zip(ours, peer, oracle, limits(dtype, terms)):
        assert a.dtype == dtype
        assert a.shape == b.shape
        if exact.numel():
            native_error = (b.double() - exact).abs().max()
            rounding = storage_rounding(dtype) * exact.abs().max()  # of the result itself
            assert (a.double() - exact).abs().max() <= TWICE_NATIVE * native_error + rounding + limit
    assert ours[0].stride() == peer[0].stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_limits_notice_one_missing_element(dtype: torch.dtype) -> None:
    x, weight, grad_y = tensors((2, 2, 80, 81), dtype, False, torch.contiguous_format)
    exact = gradients(native.prelu, x.double(), weight.double(), grad_y.double())[2]
    terms = x.double() * grad_y.double() * (x <= 0)
    limit = limits(dtype, float(terms.abs().sum()))[2] + storage_rounding(dtype) * float(exact.abs())
    assert terms.abs().max() > limit


def check_all() -> None:
    for shape, dtype, per_channel in itertools.product(SHAPES, DTYPES, (False, True)):
        for layout in (torch.contiguous_format, torch.channels_last):
            check(shape, dtype, per_channel, layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple, dtype: torch.dtype, per_channel: bool, layout: torch.memory_format) -> None:
    check(shape, dtype, per_channel, layout)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(isa, "import test_prelu; test_prelu.check_all()")


def test_special_values() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1e-42, -1e-42])
    for weight in (0.25, -2.0, 0.0, inf, nan):
        w = torch.tensor([weight])
        ours, expected = prelu(x, w), native.prelu(x, w)
        assert torch.equal(ours.isnan(), expected.isnan())
        assert torch.equal(ours.nan_to_num(), expected.nan_to_num())
        assert torch.equal(ours.signbit()[1:5], expected.signbit()[1:5])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 4), (2, 3, 2, 2)])
def test_gradients_of_every_order(shape: tuple[int, ...], per_channel: bool) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=generator(1)).requires_grad_()
    weight = torch.rand(shape[1] if per_channel else 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(prelu, (x, weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(prelu, (x, weight))
    assert torch.autograd.gradcheck(OPS.prelu, (x, weight))
    assert torch.autograd.gradgradcheck(OPS.prelu, (x, weight))


@pytest.mark.parametrize("weights", [1, 3])
def test_strides(weights: int) -> None:
    base, weight = torch.randn(4, 6, 5, 7), torch.rand(weights)
    for x in (
        base[:, ::2],
        base[:2, :1].expand(2, 3, 5, 7),
        base[:, :3].transpose(0, 2),
        base[:, :3].permute(2, 1, 3, 0),
    ):
        grad_y = torch.randn(x.shape)
        for a, b in zip(gradients(prelu, x, weight, grad_y), gradients(native.prelu, x, weight, grad_y)):
            assert torch.allclose(a, b, **SAME_FLOAT32)
    leaf = base[:, :3].clone().requires_grad_()
    (ours,) = torch.autograd.grad(prelu(leaf, weight).sum(), leaf)
    assert torch.equal(ours, torch.autograd.grad(native.prelu(leaf, weight).sum(), leaf)[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("weights", [1, 3])
def test_opcheck(weights: int, layout: torch.memory_format) -> None:
    x, weight = torch.randn(2, 3, 4, 5).to(memory_format=layout), torch.rand(weights)
    for requires_grad in (False, True):
        leaves = x.clone().requires_grad_(requires_grad), weight.clone().requires_grad_(requires_grad)
        torch.library.opcheck(OPS.prelu.default, leaves)
        torch.library.opcheck(OPS.prelu_backward.default, (torch.randn(2, 3, 4, 5), *leaves))


def test_vmap_and_transforms() -> None:
    x, weight = torch.randn(4, 2, 3, 5, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    vmap, grad = torch.func.vmap, torch.func.grad
    for dims in ((0, None), (0, 0), (None, 0)):
        args = (x if dims[0] == 0 else x[0], weight if dims[1] == 0 else weight[0])
        assert torch.allclose(vmap(prelu, dims)(*args), vmap(native.prelu, dims)(*args))
        ours, expected = (
            vmap(grad(lambda a, b, f=f: f(a, b).sin().sum(), argnums=(0, 1)), dims)(*args)
            for f in (prelu, native.prelu)
        )
        for a, b in zip(ours, expected):
            assert torch.allclose(a, b)


def test_compile() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w: prelu(x, w) * 2, backend="aot_eager", fullgraph=True)
    x, weight = torch.randn(2, 3, 4, 5).requires_grad_(), torch.rand(3).requires_grad_()
    ours = torch.autograd.grad(compiled(x, weight).sin().sum(), (x, weight))
    expected = torch.autograd.grad((native.prelu(x, weight) * 2).sin().sum(), (x, weight))
    for a, b in zip(ours, expected):
        assert torch.allclose(a, b, **SAME_FLOAT32)


@cpu_only
@pytest.mark.parametrize("weights", [1, 24])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_threads_do_not_change_the_result(weights: int, layout: torch.memory_format) -> None:
    x = torch.randn(5, 24, 61, 67).to(memory_format=layout)
    weight, grad_y = torch.rand(weights), torch.randn(x.shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(prelu, x, weight, grad_y)
        torch.set_num_threads(2)
        for a, b in zip(one, gradients(prelu, x, weight, grad_y)):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_opinfo_samples() -> None:
    from nnart_ops import functional

    for sample in OP_INFO.sample_inputs(DEVICE, torch.float32, requires_grad=True):
        ours = functional.prelu(sample.input, *sample.args, **sample.kwargs)
        expected = native.prelu(sample.input, *sample.args, **sample.kwargs)
        assert torch.allclose(ours, expected)
        assert ours.stride() == expected.stride()


def test_error_inputs() -> None:
    from nnart_ops import functional

    for error in OP_INFO.error_inputs(DEVICE):
        sample = error.sample_input
        with pytest.raises(error.error_type):
            functional.prelu(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.rand(4), ["weight must have 1 element or one for each of the 3 channels", "has 4"]),
        (torch.rand(1, 3), ["weight must have 0 or 1 dimensions", "[1, 3]"]),
        (torch.rand(3).double(), ["same dtype", "float32", "float64"]),
    ],
)
def test_errors_name_the_argument(weight: torch.Tensor, words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        OPS.prelu(torch.randn(2, 3, 4), weight)
    assert all(word in str(caught.value) for word in words)
