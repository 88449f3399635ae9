"""Softmax and its logarithm against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only
from instruction_sets import each_instruction_set, run_on
from tolerances import DTYPES, SAME_FLOAT32, assert_close
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops.functional as F

CLASSES = (1, 2, 3, 8, 15, 16, 17, 31, 33, 64, 65, 130, 1000, 5003)
INNER = (2, 7, 16, 17, 63, 64, 65, 130, 1100)
NAMES = ("softmax", "log_softmax", "softmin")
names = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def outcome(function: Callable[..., Tensor], x: Tensor, dim: int, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = function(leaf, dim)
    return y.detach(), torch.autograd.grad(y, leaf, grad_y)[0]


def check(name: str, x: Tensor, dim: int) -> None:
    ours, peer, grad_y = getattr(F, name), getattr(native, name), torch.randn(x.shape).to(x.dtype)
    results, references = outcome(ours, x, dim, grad_y), outcome(peer, x, dim, grad_y)
    oracles = outcome(peer, x.double(), dim, grad_y.double())
    for result, reference, oracle, what in zip(results, references, oracles, ("y", "grad_x")):
        assert_close(result, reference, oracle, f"{name} {tuple(x.shape)} {dim} {what}")
        assert result.stride() == reference.stride() or result.numel() == 0


def check_sizes(name: str, dtype: torch.dtype) -> None:
    """Rows enough that neither side is right by luck: a large y's last place decides the error of the gradient."""
    torch.manual_seed(0)
    for classes in CLASSES:
        check(name, (torch.randn(1001 if classes < 200 else 67, classes) * 4).to(dtype), 1)
    for inner in INNER:
        check(name, (torch.randn(1 + 130 // inner, 5, inner) * 4).to(dtype), 1)


@names
@dtypes
def test_sizes(name: str, dtype: torch.dtype) -> None:
    check_sizes(name, dtype)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(isa, "import test_softmax as t\nfor dtype in t.DTYPES:\n  for name in t.NAMES: t.check_sizes(name, dtype)")


@names
@pytest.mark.parametrize("dim", range(-4, 4))
def test_layouts(name: str, dim: int) -> None:
    base = torch.randn(3, 4, 5, 6)
    for x in (
        base,
        base.contiguous(memory_format=torch.channels_last),
        base.permute(3, 1, 0, 2),
        base[:, 1:3, ::2],
        base[:, :1].expand(3, 4, 5, 6),
        base[:0],
        base[:, :0],
    ):
        check(name, x, dim)


@names
def test_scalars_and_vectors(name: str) -> None:
    for x in (torch.randn(()), torch.randn(7)):
        for dim in (0, -1):
            check(name, x, dim)


@dtypes
@names
def test_far_from_zero(name: str, dtype: torch.dtype) -> None:
    """Differences to the largest element count, not magnitudes; what underflows is zero, or its logarithm finite."""
    for offset in (-1e4, -100.0, 100.0, 1e4):
        check(name, (torch.randn(4, 77) * 3 + offset).to(dtype), 1)
        check(name, (torch.randn(2, 7, 19) * 3 + offset).to(dtype), 1)
    check(name, torch.tensor([[0.0, -200.0, -1e4, 1e4]]).to(dtype), 1)


@names
@pytest.mark.parametrize("inner", [1, 20])
def test_special_values(name: str, inner: int) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [[1.0, nan, 2.0], [1.0, inf, 2.0], [1.0, -inf, 2.0], [-inf, -inf, -inf], [inf, -inf, 0.0], [nan, inf, -inf]]
    x = torch.tensor(rows).unsqueeze(2).expand(-1, -1, inner).contiguous()
    ours, peer = getattr(F, name)(x, 1), getattr(native, name)(x, 1)
    assert torch.equal(ours.isnan(), peer.isnan())
    torch.testing.assert_close(ours, peer, equal_nan=True, **SAME_FLOAT32)


@names
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gradients_of_every_order(name: str, dim: int) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    function = getattr(F, name)
    assert torch.autograd.gradcheck(lambda t: function(t, dim), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: function(t, dim), x, check_fwd_over_rev=True)


@names
def test_transforms(name: str) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    ours, peer = getattr(F, name), getattr(native, name)
    for dim in (0, 1, -1):
        for transform in (
            lambda f, dim=dim: torch.func.vmap(lambda t: f(t, 0), dim),
            lambda f, dim=dim: torch.func.vmap(torch.func.grad(lambda t: f(t, -1).sin().sum()), dim),
            lambda f, dim=dim: torch.func.jacrev(lambda t: f(t, dim)),
            lambda f, dim=dim: torch.func.hessian(lambda t: f(t, dim).sin().sum()),
            lambda f, dim=dim: torch.func.vmap(torch.func.vmap(torch.func.vmap(lambda t: f(t, 0)))),
        ):
            torch.testing.assert_close(transform(ours)(x), transform(peer)(x))


@names
def test_compile(name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: getattr(F, name)(x, 1), backend="aot_eager", fullgraph=True)
    for size in (5, 9):
        x = torch.randn(size, 4, 3, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        (ours,) = torch.autograd.grad(compiled(x).sin().sum(), x)
        torch.testing.assert_close(ours, torch.autograd.grad(getattr(native, name)(x, 1).sin().sum(), x)[0])


@names
def test_without_a_dimension_and_with_a_dtype(name: str) -> None:
    ours, peer = getattr(F, name), getattr(native, name)
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        expected = peer(x)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        torch.testing.assert_close(ours(x), expected)
    for dtype in (torch.float64, torch.bfloat16):
        torch.testing.assert_close(ours(x, 1, dtype=dtype), peer(x, 1, dtype=dtype))
        whole = torch.arange(12).reshape(3, 4)
        torch.testing.assert_close(ours(whole, 1, dtype=dtype), peer(whole, 1, dtype=dtype))
    for dim in (2, -3):
        with pytest.raises(IndexError):
            ours(x, dim)
    with pytest.raises((RuntimeError, NotImplementedError)):
        ours(torch.arange(4), 0)


@cpu_only
@pytest.mark.parametrize("inner", [1, 50])
def test_threads_do_not_change_the_result(inner: int) -> None:
    x, grad_y = torch.randn(301, 997, inner), torch.randn(301, 997, inner)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(F.softmax, x, 1, grad_y))
    finally:
        torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


INFOS = {"softmax": "softmax", "log_softmax": "log_softmax", "softmin": "nn.functional.softmin"}


@names
@pytest.mark.parametrize("variant", ["", "with_dtype"])
def test_torchs_samples(name: str, variant: str) -> None:
    info = next(op for op in op_db if op.name == INFOS[name] and op.variant_test_name == variant)
    ours, compared = getattr(F, name), 0
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for sample in info.sample_inputs(DEVICE, dtype, requires_grad=False):
            kwargs = {key: value for key, value in sample.kwargs.items() if key in ("dim", "dtype")}
            peer = getattr(native, name)(sample.input, *sample.args, **kwargs)
            result = ours(sample.input, *sample.args, **kwargs)
            if result.dtype == torch.bfloat16:
                oracle = getattr(native, name)(
                    sample.input.double(), *sample.args, **{**kwargs, "dtype": torch.float64}
                )
                assert_close(result, peer, oracle)
            else:
                torch.testing.assert_close(result, peer, **SAME_FLOAT32, check_stride=True)
            compared += 1
    assert compared


def test_the_op_names_its_argument() -> None:
    with pytest.raises(RuntimeError, match="softmax: dim must be a dimension of x, which has 2, but is 2"):
        torch.ops.nnart_ops.softmax(torch.randn(2, 3), 2, False)
    with pytest.raises(RuntimeError, match="softmax_backward: grad_y and y must have the same sizes"):
        torch.ops.nnart_ops.softmax_backward(torch.randn(2), torch.randn(3), 0, False)
