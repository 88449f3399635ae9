"""``residual + dropout(activation(x + bias))`` in one pass, against the separate operations."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only
from tolerances import DTYPES, SAME_FLOAT64, assert_close
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.functional._epilogue import _TABLE

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
names = pytest.mark.parametrize("name", [None, *_TABLE], ids=str)
SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 4096, 4099)
# shape, memory format, the bias's dimension
LAYOUTS = (
    ((5, 33), torch.contiguous_format, -1),
    ((700, 3), torch.contiguous_format, -1),
    ((2, 3, 5000), torch.contiguous_format, -1),
    ((2, 3, 5000), torch.contiguous_format, 1),
    ((3, 17, 5, 7), torch.contiguous_format, 1),
    ((3, 17, 5, 7), torch.channels_last, 1),
    ((3, 17, 5, 7), torch.channels_last, -1),
    ((2, 5, 80, 70), torch.contiguous_format, 1),
    ((2, 300, 20, 17), torch.channels_last, 1),
    ((40, 2, 1, 1), torch.contiguous_format, 0),
)


def scale(p: float) -> float:
    return 1 / (1 - p)


def mask(x: Tensor, p: float, seed: int = 11) -> Tensor:
    """What the dropout multiplies by in a call after that seed, in float64."""
    torch.manual_seed(seed)
    ones = torch.ones_like(x)
    return (F.dropout(ones, p) != 0).double() * scale(p) if p else ones.double()


def separate(name: str | None, x: Tensor, bias: Any, residual: Any, kept: Tensor, dim: int) -> Tensor:
    shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    y = x if bias is None else x + bias.view(shape)
    if name == "hardsigmoid" and x.dtype == torch.float64:  # torch's has constants of float32
        y = native.hardtanh(y / 3, -1.0, 1.0) / 2 + 0.5
    elif name:
        y = getattr(native, name)(y)
    y = y * kept.to(x.dtype)
    return y if residual is None else residual + y


def fused(name: str | None, x: Tensor, bias: Any, residual: Any, p: float, dim: int, seed: int = 11) -> Tensor:
    torch.manual_seed(seed)
    return F.bias_activation(x, bias, name, dim=dim, dropout_p=p, residual=residual)


def gradients(y: Tensor, leaves: list[Any], grad_y: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], grad_y)]


def operands(shape: Any, dtype: torch.dtype, memory_format: Any, dim: int, bias: bool, residual: bool) -> list[Any]:
    """The same numbers on every device."""
    x, b, r = (torch.randn(size, device="cpu").to(DEVICE, dtype) for size in (shape, shape[dim], shape))
    b, r = b if bias else None, r if residual else None
    return [t if t is None or t.dim() != 4 else t.contiguous(memory_format=memory_format) for t in (x, b, r)]


def check(name: str | None, tensors: list[Any], p: float, dim: int, grad_y: Tensor | None = None) -> None:
    """Forward and every gradient, against native in the dtype and in float64 on the CPU."""
    kept = mask(tensors[0], p)
    results = []
    for function, double, noise in ((fused, False, p), (separate, False, kept), (separate, True, kept.cpu())):
        leaves = [t if t is None else (t.double().cpu() if double else t).detach().requires_grad_() for t in tensors]
        y = function(name, *leaves, noise, dim)
        if grad_y is None:
            grad_y = torch.randn(y.shape).to(tensors[0].dtype)
        results.append(gradients(y, leaves, grad_y.double().cpu() if double else grad_y))
    for got, want, truth in zip(*results):
        assert_close(got, want, truth, f"{name} of {tuple(tensors[0].shape)} bias dim {dim} p {p}")
    with torch.no_grad():
        assert torch.equal(fused(name, *tensors, p, dim), results[0][0])


SMOOTH = ("elu", "sigmoid", "logsigmoid", "softplus", "tanh", "tanhshrink", "gelu", "silu", "mish", "softsign", None)


@dtypes
@pytest.mark.parametrize(("shape", "memory_format", "dim"), LAYOUTS)
@pytest.mark.parametrize("name", ["gelu", "tanh", None], ids=str)
def test_parts_and_layouts(name: Any, shape: Any, memory_format: Any, dim: int, dtype: torch.dtype) -> None:
    for bias in (True, False):
        for residual in (True, False):
            for p in (0.0, 0.3):
                check(name, operands(shape, dtype, memory_format, dim, bias, residual), p, dim)


@dtypes
@names
def test_every_activation(name: Any, dtype: torch.dtype) -> None:
    """Whole numbers and quarters, whose sums are exact in every dtype: no kink is met from two sides."""
    if name not in SMOOTH:
        x, bias = torch.randint(-20, 20, (50, 37)) + 0.25, torch.randint(-2, 2, (37,)) + 0.125
        tensors = [x.to(dtype), bias.to(dtype), torch.randn(50, 37).to(dtype)]
    else:
        tensors = operands((50, 37), dtype, None, -1, True, True)
    for p in (0.0, 0.3):
        for residual in (True, False):
            check(name, tensors if residual else [*tensors[:2], None], p, -1)


@dtypes
def test_sizes(dtype: torch.dtype) -> None:
    for size in SIZES:
        for shape, dim in (((size,), 0), ((3, size), 1), ((size, 3), 1), ((2, 3, size), 1), ((2, size, 3), 1)):
            check("silu", operands(shape, dtype, None, dim, True, True), 0.3, dim)


@dtypes
def test_strided_operands(dtype: torch.dtype) -> None:
    x, b, r = operands((4, 6, 5, 8), dtype, torch.contiguous_format, 1, True, True)
    doubled = torch.stack([b, b], 1)
    for t in (
        x.permute(3, 1, 0, 2),
        x[:, :, ::2],
        x[:, :, :1].expand(4, 6, 5, 8),
        x[..., 1:],
        x[:0],
    ):
        residual = r.permute(3, 1, 0, 2).reshape(-1)[: t.numel()].reshape(t.shape[::-1]).permute(3, 2, 1, 0)
        check("gelu", [t, doubled[:, 0], residual], 0.3, 1)
        check("gelu", [t, b, residual], 0.3, 1, torch.ones((), dtype=dtype).expand(t.shape))
        assert fused("gelu", t, b, residual, 0.3, 1).stride() == native.gelu(t).stride()


@dtypes
def test_gradient_of_the_bias(dtype: torch.dtype) -> None:
    """Of long sums, in every order of memory: one fixed order of additions for any number of threads."""
    for shape, memory_format, dim in (
        ((20000, 24), torch.contiguous_format, -1),
        ((64, 5000), torch.contiguous_format, -1),
        ((16, 24, 56, 56), torch.contiguous_format, 1),
        ((16, 24, 56, 56), torch.channels_last, 1),
    ):
        tensors = operands(shape, dtype, memory_format, dim, True, False)
        grad_y = torch.randn(shape).to(dtype)
        check("gelu", tensors, 0.1, dim, grad_y)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = [t.detach().requires_grad_() for t in tensors[:2]]
            results.append(gradients(fused("gelu", *leaves, None, 0.1, dim), leaves, grad_y))
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))


def test_large_results_equal_their_parts() -> None:
    x, b = torch.randn(2**13, 101), torch.randn(101)
    whole, part = (F.bias_activation(t, b, "silu") for t in (x, x[5000:5100]))
    assert torch.equal(whole[5000:5100], part)


@cpu_only
@pytest.mark.parametrize("isa", nnart_ops.build_info()["cpu_isa_variants"].split())
def test_every_instruction_set(isa: str) -> None:
    """The tests of values on each path that this CPU can run, in a process of its own."""
    environment = {**os.environ, "NNART_CPU_ISA": isa}
    probe = "import nnart_ops; print(nnart_ops.build_info()['cpu_isa'])"
    run = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    if run.stdout.strip() != isa:
        pytest.skip(f"this CPU has no {isa}")
    if isa == nnart_ops.build_info()["cpu_isa"]:
        return
    selected = "test_parts or test_every_activation or test_sizes or test_gradient or test_large"
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *plugins, "-k", selected, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


# ---- what is kept, derivatives, transforms, compilers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "p", "residual", "kept"),
    [
        ("gelu", 0.0, False, ["x", "bias"]),
        ("gelu", 0.3, True, ["x", "bias", "seed"]),
        ("relu", 0.3, False, ["x", "bias", "seed"]),
        ("relu", 0.0, True, ["x", "bias"]),
        ("relu", 0.0, False, ["y"]),
        ("sigmoid", 0.0, False, ["y"]),
        (None, 0.3, True, ["seed"]),
        (None, 0.0, True, []),
    ],
)
def test_what_is_kept(name: Any, p: float, residual: bool, kept: list[str]) -> None:
    x, bias = torch.randn(4, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    pointers: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: pointers.append(t.data_ptr()) or t, lambda t: t):
        y = fused(name, x, bias, torch.randn(4, 5) if residual else None, p, -1)
    places = {"x": x.data_ptr(), "bias": bias.data_ptr(), "y": y.data_ptr()}
    assert len(pointers) == len(kept)
    assert all(places[what] in pointers for what in kept if what != "seed")


@names
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradcheck(name: Any, p: float) -> None:
    """Of every order, with and without a residual, in both positions of the bias."""
    for shape, dim, has_residual in (((3, 4), -1, True), ((2, 3, 2, 2), 1, False)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(x.shape[dim], dtype=torch.float64, requires_grad=True)
        residual = torch.randn(shape, dtype=torch.float64, requires_grad=True) if has_residual else None
        leaves = [x, bias, *([residual] if has_residual else [])]

        def call(x: Tensor, b: Tensor, r: Any = None, dim: int = dim) -> Tensor:
            return fused(name, x, b, r, p, dim)

        assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("name", ["gelu", "relu", "tanh", "leaky_relu", None], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_transforms(name: Any, p: float) -> None:
    tensors = operands((3, 5), torch.float64, None, -1, True, True)
    x, b, _ = tensors
    kept = mask(x, p)
    ours, theirs = (lambda *t: fused(name, *t, p, -1)), (lambda *t: separate(name, *t, kept, -1))
    for transform in (
        lambda f: torch.func.jacrev(f, (0, 1, 2)),
        lambda f: torch.func.jacfwd(f, (0, 1, 2), randomness="same"),
        lambda f: torch.func.jacfwd(
            torch.func.jacrev(lambda *t: f(*t).square().sum(), (0, 1, 2)), (0, 1, 2), randomness="same"
        ),
        lambda f: torch.func.grad(lambda *t: f(*t).square().sum(), (0, 1, 2)),
    ):
        torch.testing.assert_close(transform(ours)(*tensors), transform(theirs)(*tensors), **SAME_FLOAT64)
    if p:
        call = lambda v: F.bias_activation(v, b, name, dropout_p=p)  # noqa: E731
        with pytest.raises(RuntimeError, match="randomness"):
            torch.func.vmap(call)(x.expand(3, 3, 5))
        xs = x.abs().expand(3, 3, 5) + 3
        same, different = (torch.func.vmap(call, randomness=how)(xs) for how in ("same", "different"))
        assert torch.equal(same[0], same[1])
        assert not torch.equal(different[0], different[1])
        return
    for in_dims in ((0, None, 0), (1, None, 1), (0, 0, None), (None, 0, None)):
        batched = [t if d is None else torch.stack([t, t + 1, t - 1], d) for t, d in zip(tensors, in_dims)]
        for wrap in (
            lambda f: f,
            lambda f: torch.func.grad(lambda *leaves: f(*leaves).square().sum(), (0, 1, 2)),
        ):
            results = [torch.func.vmap(wrap(f), in_dims)(*batched) for f in (ours, theirs)]
            torch.testing.assert_close(*results, **SAME_FLOAT64)


@pytest.mark.parametrize("name", ["gelu", "relu", None], ids=str)
def test_compile_dynamic(name: Any) -> None:
    torch._dynamo.reset()
    call = lambda *t: F.bias_activation(t[0], t[1], name, dim=1, dropout_p=0.3, residual=t[2])  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for size in (5, 9):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            tensors = operands((size, 3, 4, 6), torch.float64, memory_format, 1, True, True)
            torch._dynamo.mark_dynamic(tensors[0], 0)
            torch._dynamo.mark_dynamic(tensors[2], 0)
            for t in tensors:
                t.requires_grad_()
            outcomes = []
            for function in (compiled, call):
                torch.manual_seed(11)
                y = function(*tensors)
                outcomes.append([y.detach(), *torch.autograd.grad(y.square().sum(), tensors)])
            torch.testing.assert_close(*outcomes, **SAME_FLOAT64)
            assert outcomes[0][0].stride() == outcomes[1][0].stride()


# ---- the layer, other tensors, errors --------------------------------------------------------------------------------


def test_layer() -> None:
    layer = nnart_ops.BiasActivation(6, "gelu", dropout=0.5)
    assert repr(layer) == "BiasActivation(6, activation='gelu', dim=-1, dropout=0.5)"
    assert list(layer.state_dict()) == ["bias"]
    torch.nn.init.normal_(layer.bias)
    x, r = torch.randn(3, 6), torch.randn(3, 6)
    torch.manual_seed(11)
    assert torch.equal(layer(x, r), fused("gelu", x, layer.bias, r, 0.5, -1))
    layer.eval()
    torch.testing.assert_close(layer(x, r), native.gelu(x + layer.bias) + r)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert type(nnart_ops.convert(torch.nn.Sequential(layer))[0]) is nnart_ops.BiasActivation
    layer.reset_parameters()
    assert not layer.bias.any()
    image = nnart_ops.BiasActivation(6, torch.nn.LeakyReLU(0.2), dim=1, bias=False, dtype=torch.float64)
    assert list(image.state_dict()) == []
    assert "bias=False" in repr(image)
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(image(x), native.leaky_relu(x, 0.2))
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        nnart_ops.BiasActivation(6, dropout=2)
    with pytest.raises(TypeError, match=r"activation must be a name .* but got PReLU"):
        nnart_ops.BiasActivation(6, torch.nn.PReLU())


def test_convert_leaves_modules_that_are_nothing_else() -> None:
    module = torch.nn.Module()
    assert type(nnart_ops.convert(module)) is torch.nn.Module


def test_other_tensors_take_the_separate_operations() -> None:
    x, b = torch.randn(4, 6, dtype=torch.bfloat16), torch.randn(6)
    y = F.bias_activation(x, b, "relu", residual=b.expand(4, 6))
    assert torch.equal(y, native.relu(x + b) + b)
    x = torch.randn(4, 6)
    assert torch.equal(F.bias_activation(x, b, "relu", dropout_p=1.0, residual=x), x)
    assert torch.equal(F.bias_activation(x, b, "relu", dropout_p=1.0, training=False), native.relu(x + b))
    assert F.bias_activation(x.to("meta"), b.to("meta"), "gelu", dropout_p=0.5).is_meta
    assert torch.equal(F.bias_activation(torch.tensor(-2.0), torch.tensor([1.0]), "relu"), torch.tensor(0.0))


def test_errors() -> None:
    x, b = torch.randn(4, 6), torch.randn(6)
    for error, match, call in (
        (
            ValueError,
            r"dropout probability has to be between 0 and 1, but got -1",
            lambda: fused("relu", x, b, None, -1, 1),
        ),
        (ValueError, r"activation must be one of relu, .* but got 'rule'", lambda: F.bias_activation(x, b, "rule")),
        (TypeError, r"activation must be a name .* Softmax", lambda: F.bias_activation(x, b, torch.nn.Softmax(1))),
        (IndexError, r"dim must be in \[-2, 1\] for this input, but got 2", lambda: F.bias_activation(x, b, dim=2)),
        (RuntimeError, r"bias must have shape \[4\] for dimension 0", lambda: F.bias_activation(x, b, dim=0)),
        (RuntimeError, r"residual must have the input's shape \[4, 6\]", lambda: F.bias_activation(x, residual=b)),
    ):
        with pytest.raises(error, match=match):
            call()
    op, backward = torch.ops.nnart_ops.bias_activation, torch.ops.nnart_ops.bias_activation_backward
    relu = (0.0, "relu", [])
    for match, function, args in (
        (r"bias must have one dimension of 4 elements, but has sizes \[6\]", op, (x, b, None, None, *relu, 0, [])),
        ("x and residual must have the same dtype", op, (x, b, x.double(), None, *relu, 1, [])),
        (r"residual has \[6\] and x has \[4, 6\]", op, (x, b, b, None, *relu, 1, [])),
        ("there is no activation 'rule'", op, (x, b, None, None, 0.0, "rule", [], 1, [])),
        ("dim must be a dimension of x, which has 2, but is 2", op, (x, None, None, None, *relu, 2, [])),
        (r"seed must be one number, but seed has sizes \[2\]", op, (x, b, None, torch.arange(2), *relu, 1, [])),
        ("the derivative of relu needs a saved tensor", backward, (x, None, b, None, *relu, False, True, 1, [])),
    ):
        with pytest.raises(RuntimeError, match=match):
            function(*args)
