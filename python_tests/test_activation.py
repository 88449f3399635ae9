"""Element-wise activations against native PyTorch, with float64 as the oracle."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from devices import cpu_only
from opcases import ACTIVATIONS, ActivationCase
from tolerances import DTYPES, assert_close
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F

cases = pytest.mark.parametrize("case", ACTIVATIONS, ids=lambda case: case.id)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# 0, 1, around every vector width and the four of the unrolled loop, a prime, several blocks and a remainder.
SIZES = (0, 1, 3, 4, 5, 8, 15, 16, 17, 63, 64, 65, 127, 129, 4096, 10007)
SPECIAL = (
    0.0,
    -0.0,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-40,
    -1e-40,
    1e-8,
    88.0,
    -88.0,
    1e30,
    -1e30,
    3.0,
    -3.0,
)


def forward_and_gradient(function: object, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)  # type: ignore[operator]
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    return y.detach(), grad_x


def check(case: ActivationCase, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and gradient of ours, after comparing both with native and with the oracle."""
    ours = forward_and_gradient(case.ours, x, grad_y)
    native = forward_and_gradient(case.native, x, grad_y)
    oracle = forward_and_gradient(case.oracle, x.double(), grad_y.double())
    for result, reference, truth, what in zip(ours, native, oracle, ("y", "grad_x")):
        assert_close(result, reference, truth, f"{case.id} {what} {x.dtype} {tuple(x.shape)}")
    if case.function not in ("logsigmoid", "rrelu"):  # native makes these contiguous; ours keep the input's strides
        assert ours[0].stride() == native[0].stride()
    return ours


@cases
@dtypes
def test_sizes(case: ActivationCase, dtype: torch.dtype) -> None:
    for size in SIZES:
        check(case, (torch.randn(size) * 4).to(dtype), torch.randn(size).to(dtype))


@cases
@dtypes
def test_whole_range(case: ActivationCase, dtype: torch.dtype) -> None:
    """Every magnitude from the smallest subnormal up, both signs: not only where randn falls."""
    exponents = torch.linspace(-45, 4.5, 20001, dtype=torch.float64)
    x = torch.cat([10**exponents, -(10**exponents), torch.linspace(-30, 30, 40001, dtype=torch.float64)]).to(dtype)
    check(case, x, torch.ones_like(x))


@cases
@dtypes
def test_special_values(case: ActivationCase, dtype: torch.dtype) -> None:
    """Infinities, NaN, zeros and the kinks give what float64 gives, rounded to the dtype."""
    x = torch.tensor(SPECIAL, dtype=dtype).repeat(8)
    ours, oracle = case.ours(x), case.oracle(x.double()).to(dtype)
    assert torch.equal(torch.isnan(ours), torch.isnan(oracle))
    infinite, finite = torch.isinf(oracle), torch.isfinite(oracle)
    assert torch.equal(ours[infinite], oracle[infinite])
    assert_close(ours[finite], case.native(x)[finite], oracle[finite], case.id)


@cases
@dtypes
def test_nan_in_nan_out(case: ActivationCase, dtype: torch.dtype) -> None:
    x = torch.full((67,), float("nan"), dtype=dtype)
    assert torch.isnan(case.ours(x)).all()


@cases
@dtypes
def test_layouts(case: ActivationCase, dtype: torch.dtype) -> None:
    """Channels-last, transposed, sliced, expanded: the values and the strides that native gives."""
    base = torch.randn(3, 4, 5, 6).to(dtype)
    for x in (
        base.contiguous(memory_format=torch.channels_last),
        base.permute(3, 1, 0, 2),
        base[:, 1:3, ::2],
        base[:, :1].expand(3, 4, 5, 6),
        base[1, 2, 3, 4],
        base[:0],
    ):
        check(case, x, torch.randn(x.shape).to(dtype))


@cases
@dtypes
def test_gradient_of_a_sum(case: ActivationCase, dtype: torch.dtype) -> None:
    """The gradient that sum hands down has stride 0: one value, read once."""
    x = (torch.randn(3, 1001) * 2).to(dtype)
    gradients = []
    for function, leaf in ((case.ours, x), (case.native, x), (case.oracle, x.double())):
        leaf = leaf.detach().requires_grad_()
        function(leaf).sum().backward()
        gradients.append(leaf.grad)
    assert_close(*gradients, case.id)


@cases
@dtypes
def test_unaligned(case: ActivationCase, dtype: torch.dtype) -> None:
    x = torch.randn(1030).to(dtype)[1:]
    check(case, x, torch.randn(1030).to(dtype)[1:])


@cases
def test_gradcheck(case: ActivationCase) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(case.ours, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(case.ours, x)


@cases
def test_transforms(case: ActivationCase) -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    for transform in (
        lambda f: torch.func.vmap(torch.func.grad(lambda v: f(v).sum())),
        torch.func.jacrev,
        torch.func.jacfwd,
        lambda f: torch.func.vmap(f, in_dims=1, out_dims=1),
        lambda f: torch.func.hessian(lambda v: f(v).sum()),
    ):
        torch.testing.assert_close(transform(case.ours)(x), transform(case.oracle)(x))


@cases
def test_compile_dynamic(case: ActivationCase) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.ours, fullgraph=True, backend="aot_eager")
    for size in (5, 9):
        x = torch.randn(size, 4, dtype=torch.float64)
        torch._dynamo.mark_dynamic(x, 0)
        x.requires_grad_()
        y = compiled(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(y, case.native(x))
        torch.testing.assert_close(grad, torch.autograd.grad(case.native(x).sum(), x)[0])


@pytest.mark.parametrize("case", [case for case in ACTIVATIONS if case.inplace], ids=lambda case: case.id)
def test_inplace(case: ActivationCase) -> None:
    x = torch.randn(3, 9, dtype=torch.float64)
    expected = case.native(x)
    for view in (x.clone(), x.t().clone().t(), torch.cat([x, x], 1)[:, ::2].clone()):
        version = view._version
        want = case.native(view)
        assert case.ours(view, inplace=True) is view
        torch.testing.assert_close(view, want)
        assert view._version > version
    sliced = torch.stack([x, x])[:, :, ::2]
    want = case.native(sliced)
    case.ours(sliced, inplace=True)
    torch.testing.assert_close(sliced, want)

    leaf = x.clone().requires_grad_()
    y = case.ours(leaf * 1, inplace=True)
    y.sum().backward()
    other = x.clone().requires_grad_()
    case.native(other).sum().backward()
    torch.testing.assert_close(y.detach(), expected)
    torch.testing.assert_close(leaf.grad, other.grad)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        case.ours(leaf, inplace=True)


@cases
def test_dtypes_without_a_kernel_run_native(case: ActivationCase) -> None:
    for dtype in (torch.int64, torch.complex64, torch.bool):
        x = torch.ones(3, dtype=dtype)
        try:
            expected = case.native(x)
        except (RuntimeError, NotImplementedError) as error:
            with pytest.raises(type(error)):
                case.ours(x)
        else:
            assert torch.equal(case.ours(x), expected)


@cpu_only
def test_same_result_for_any_thread_count() -> None:
    x, grad_y = torch.randn(200_003), torch.randn(200_003)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(forward_and_gradient(F.gelu, x, grad_y))
    torch.set_num_threads(1)
    for y, grad_x in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(grad_x, results[0][1])


@dtypes
@pytest.mark.parametrize("name", ["relu", "silu"])
def test_large_results_equal_their_parts(name: str, dtype: torch.dtype) -> None:
    """A large result is stored past the caches, a small one is not: the numbers are the same."""
    n = 2**22 // dtype.itemsize + 37
    x, grad_y = torch.randn(n).to(dtype), torch.randn(n).to(dtype)
    activation, derivative = getattr(F, name), getattr(torch.ops.nnart_ops, f"{name}_backward")
    y, grad_x = activation(x), derivative(grad_y, x)
    assert torch.equal(y, torch.cat([activation(part) for part in x.split(100_003)]))
    parts = zip(grad_y.split(100_003), x.split(100_003))
    assert torch.equal(grad_x, torch.cat([derivative(*part) for part in parts]))
    shifted = torch.cat([x[:1], x])[1:]  # not aligned to a vector
    assert torch.equal(activation(shifted, inplace=True), y)
    assert torch.equal(shifted, y)


@cpu_only
@pytest.mark.parametrize("isa", nnart_ops.build_info()["cpu_isa_variants"].split())
def test_every_instruction_set(isa: str) -> None:
    """The tests above on each path that this CPU can run, in a process of its own since the choice is made at load."""
    environment = {**os.environ, "NNART_CPU_ISA": isa}
    probe = "import nnart_ops; print(nnart_ops.build_info()['cpu_isa'])"
    run = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    if run.stdout.strip() != isa:
        pytest.skip(f"this CPU has no {isa}")
    if isa == nnart_ops.build_info()["cpu_isa"]:
        return
    names = "test_sizes or test_whole_range or test_special_values or test_layouts or test_unaligned or test_large"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        names,
        __file__,
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


def test_messages_name_the_argument() -> None:
    x = torch.randn(3)
    with pytest.raises(RuntimeError, match=r"softshrink: lambda must be in range \[0, 3.40282e\+38\] .* but found -1"):
        F.softshrink(x, -1)
    with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh, but got 'exact'"):
        F.gelu(x, approximate="exact")
    with pytest.raises(ValueError, match="min_val=2, max_val=1"):
        F.hardtanh(x, 2, 1)
    with pytest.raises(RuntimeError, match="alpha cannot be 0"):
        F.celu(x, alpha=0)
    with pytest.raises(RuntimeError, match="grad_y has \\[2\\] and the saved tensor has \\[3\\]"):
        torch.ops.nnart_ops.silu_backward(torch.randn(2), x)
    with pytest.raises(RuntimeError, match="x has dtype int64; allowed are float32, float64, bfloat16 and float16"):
        torch.ops.nnart_ops.silu(torch.ones(3, dtype=torch.int64))
