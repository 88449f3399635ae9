"""Gated activations against float64 and the spelling by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only
from instruction_sets import each_instruction_set, run_on
from tolerances import DTYPES, SAME_FLOAT32, assert_close
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.functional._epilogue import _TABLE

OP_INFO = next(op for op in op_db if op.name == "nn.functional.glu")
SIZES = (1, 3, 8, 15, 16, 17, 31, 33, 64, 65, 130, 1031, 20011)
GATES = ("sigmoid", "silu", "gelu", "relu", None)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
gates = pytest.mark.parametrize("gate", GATES)


def by_hand(input: Tensor, gate: Tensor | None, activation: str | None, dim: int = -1, gate_first: bool = False) -> Any:
    value, opened = (input, gate) if gate is not None else input.chunk(2, dim)
    if gate is None and gate_first:
        value, opened = opened, value
    if activation is None:
        return value * opened
    return value * getattr(torch if activation in ("sigmoid", "tanh") else native, activation)(opened)


def outcome(function: Any, tensors: tuple[Tensor, ...], grad_y: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, grad_y)


def check(ours: Any, peer: Any, tensors: tuple[Tensor, ...], what: str) -> tuple[Tensor, ...]:
    with torch.no_grad():
        grad_y = torch.randn_like(peer(*tensors))
    results = outcome(ours, tensors, grad_y)
    references = outcome(peer, tensors, grad_y)
    oracles = outcome(peer, tuple(t.double() for t in tensors), grad_y.double())
    for result, reference, oracle, name in zip(results, references, oracles, ("y", "grad_x", "grad_gate")):
        assert_close(result, reference, oracle, f"{what} {name}")
    return results


def check_sizes(dtype: torch.dtype, gate: str | None) -> None:
    """Rows enough that native is not exact by luck."""
    torch.manual_seed(0)
    for size in SIZES:
        rows = 1001 if size < 100 else 3
        packed = torch.randn(rows, 2 * size).to(dtype)
        check(lambda x: F.gated(x, None, gate), lambda x: by_hand(x, None, gate), (packed,), f"{gate} {size}")
        pair = torch.randn(rows, size).to(dtype), torch.randn(rows, size).to(dtype)
        check(lambda x, g: F.gated(x, g, gate), lambda x, g: by_hand(x, g, gate), pair, f"{gate} {size} two")


@dtypes
@gates
def test_sizes(dtype: torch.dtype, gate: str | None) -> None:
    check_sizes(dtype, gate)


@pytest.mark.parametrize("activation", [*_TABLE, "identity"])
def test_every_activation(activation: str) -> None:
    name = None if activation == "identity" else activation
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(5, 134) * 2).to(dtype)
        check(lambda x: F.gated(x, None, name), lambda x: by_hand(x, None, name), (x,), f"{name} {dtype}")


@dtypes
@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize("gate_first", [False, True])
def test_layouts(dtype: torch.dtype, dim: int, gate_first: bool) -> None:
    base = torch.randn(4, 6, 8, 10).to(dtype)
    for x in (
        base,
        base.contiguous(memory_format=torch.channels_last),
        base.permute(2, 1, 3, 0),
        torch.stack([base, base])[0].expand(4, 6, 8, 10),
        torch.cat([base, base], 3)[..., ::2],
        base[:0] if dim else base[:, :0],
    ):
        y = check(
            lambda x: F.gated(x, None, "silu", dim=dim, gate_first=gate_first),
            lambda x: by_hand(x, None, "silu", dim, gate_first),
            (x,),
            f"{dim} {x.stride()}",
        )[0]
        if not gate_first:
            assert F.glu(x, dim).stride() == native.glu(x, dim).stride()
        assert y.stride() == F.glu(x, dim).stride()


def test_two_inputs_of_different_layouts() -> None:
    value = torch.randn(2, 3, 4, 5)
    gate = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for pair in ((value, gate), (gate, value)):
        check(lambda x, g: F.gated(x, g, "gelu"), lambda x, g: by_hand(x, g, "gelu"), pair, "layouts")


@pytest.mark.parametrize("name", ["glu", "swiglu", "geglu", "reglu", "bilinear_glu"])
def test_names(name: str) -> None:
    activation = {"glu": "sigmoid", "swiglu": "silu", "geglu": "gelu", "reglu": "relu", "bilinear_glu": None}[name]
    x, function = torch.randn(3, 4, 10), getattr(F, name)
    torch.testing.assert_close(function(x), by_hand(x, None, activation))
    torch.testing.assert_close(function(x, dim=1), by_hand(x, None, activation, 1))
    if name != "glu":
        torch.testing.assert_close(function(x, gate_first=True), by_hand(x, None, activation, -1, True))
        torch.testing.assert_close(function(x, x * 2), by_hand(x, x * 2, activation))
        for dtype in (torch.int64, torch.complex64):  # whatever has no kernel runs the separate operations
            y = torch.arange(-4, 4).to(dtype)
            try:
                expected = by_hand(y, None, activation)
            except (RuntimeError, NotImplementedError):
                continue
            assert torch.equal(function(y), expected)
    half = {"sigmoid": "GLU", "silu": "SwiGLU", "gelu": "GEGLU", "relu": "ReGLU", None: "BilinearGLU"}[activation]
    layer = getattr(nnart_ops, half)(1)
    torch.testing.assert_close(layer(x), function(x, dim=1))
    assert "dim=1" in repr(layer)
    assert repr(copy.deepcopy(layer)) == repr(layer)


def test_geglu_by_tanh() -> None:
    x = torch.randn(3, 10)
    value, gate = x.chunk(2, -1)
    expected = value * native.gelu(gate, approximate="tanh")
    torch.testing.assert_close(F.geglu(x, approximate="tanh"), expected)
    torch.testing.assert_close(nnart_ops.GEGLU(approximate="tanh")(x), expected)
    torch.testing.assert_close(F.geglu(value, gate, approximate="tanh"), expected)


@gates
@pytest.mark.parametrize("two", [False, True])
def test_gradients_of_every_order(gate: str | None, two: bool) -> None:
    shape = (3, 4, 3)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(1 + two)]

    def call(x: Tensor, g: Tensor | None = None) -> Tensor:
        return F.gated(x, g, gate, dim=1, gate_first=not two)

    assert torch.autograd.gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, tensors, check_fwd_over_rev=True)


@gates
def test_gradient_of_a_sum(gate: str | None) -> None:
    """The gradient that sum hands down has stride 0: one value, read once."""
    x = torch.randn(3, 2002)
    grads = []
    for function in (F.gated, by_hand):
        leaf = x.clone().requires_grad_()
        function(leaf, None, gate).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, **SAME_FLOAT32)


def test_only_the_inputs_are_kept() -> None:
    x = torch.randn(4, 10, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.swiglu(x * 1)
    assert [t.shape for t in kept] == [(4, 10)]


@pytest.mark.parametrize("two", [False, True])
def test_recomputed(two: bool) -> None:
    """Within the context the linear layer after it keeps the inputs alone."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 3).double()
    leaves = [torch.randn(5, 6 if two else 12, dtype=torch.float64, requires_grad=True) for _ in range(1 + two)]
    results = []
    for save in (None, "recompute"):
        outputs: list[Any] = []
        with nnart_ops.recompute_activations():
            y = F.swiglu(*(t * 1 for t in leaves), save=save)
            outputs.append(y.untyped_storage()._weak_ref())
            z = linear(y)
            del y
        assert torch.UntypedStorage._expired(outputs[0]) == (save == "recompute")
        torch.UntypedStorage._free_weak_ref(outputs[0])
        results.append(torch.autograd.grad(z.sin().sum(), [*leaves, *linear.parameters()]))
    for a, b in zip(*results):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="geglu: save must be None or one of 'input', 'recompute', but got 'mask'"):
        F.geglu(leaves[0], save="mask")
    with pytest.raises(ValueError, match="SwiGLU: save must be None or one of 'input', 'recompute', but got 'output'"):
        nnart_ops.SwiGLU(save="output")
    with pytest.raises(ValueError, match="glu: save must be None or one of 'input', 'recompute', but got 'mask'"):
        nnart_ops.GLU(save="mask")
    assert repr(nnart_ops.GLU(save="recompute")) == "GLU(dim=-1, save='recompute')"
    assert "save='recompute'" in repr(nnart_ops.GEGLU(save="recompute"))


def test_transforms() -> None:
    x, g = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    for dim in (0, 1, -1):
        for ours, peer in (
            (lambda t: F.gated(t, None, "gelu"), lambda t: by_hand(t, None, "gelu")),
            (lambda t: F.gated(t, None, "relu", dim=-1, gate_first=True), lambda t: by_hand(t, None, "relu", -1, True)),
        ):
            for transform in (
                lambda f, dim=dim: torch.func.vmap(f, dim),
                lambda f, dim=dim: torch.func.vmap(torch.func.grad(lambda v: f(v).sin().sum()), dim),
            ):
                torch.testing.assert_close(transform(ours)(x[:2, :4]), transform(peer)(x[:2, :4]))
    vmap = torch.func.vmap
    torch.testing.assert_close(
        vmap(lambda a, b: F.swiglu(a, b), (0, None))(x, g), vmap(lambda a, b: by_hand(a, b, "silu"), (0, None))(x, g)
    )
    channels_last = torch.randn(2, 4, 6, 3, 3).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(
        vmap(lambda t: F.glu(t, 0))(channels_last), vmap(lambda t: native.glu(t, 0))(channels_last)
    )
    torch.testing.assert_close(
        torch.func.hessian(lambda t: F.swiglu(t).sum())(x[0, 0]),
        torch.func.hessian(lambda t: by_hand(t, None, "silu").sum())(x[0, 0]),
    )


def test_compile() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, g: F.swiglu(x) * F.geglu(g, g), backend="aot_eager", fullgraph=True)
    for size in (4, 6):
        x, g = torch.randn(size, 8, requires_grad=True), torch.randn(size, 4, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(g, 0)
        ours = torch.autograd.grad(compiled(x, g).sin().sum(), (x, g))
        peer = torch.autograd.grad((by_hand(x, None, "silu") * by_hand(g, g, "gelu")).sin().sum(), (x, g))
        for a, b in zip(ours, peer):
            torch.testing.assert_close(a, b, **SAME_FLOAT32)


@cpu_only
def test_threads_do_not_change_the_result() -> None:
    x, grad_y = torch.randn(301, 2 * 997), torch.randn(301, 997)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(F.swiglu, (x,), grad_y))
    finally:
        torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(isa, "import test_gated as t\nfor dtype in t.DTYPES:\n  for gate in t.GATES: t.check_sizes(dtype, gate)")


def test_torchs_samples() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for sample in OP_INFO.sample_inputs(DEVICE, dtype, requires_grad=False):
            ours, peer = (f(sample.input, *sample.args, **sample.kwargs) for f in (F.glu, native.glu))
            oracle = native.glu(sample.input.double(), *sample.args, **sample.kwargs)
            assert_close(ours, peer, oracle, "glu")
            assert ours.stride() == peer.stride()


def test_errors_name_the_argument() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="Halving dimension must be even, but dimension 0"):
        F.glu(x, 0)
    with pytest.raises(RuntimeError, match=r"swiglu: Halving dimension must be even, but dimension 0 .*\[3, 4\] has 3"):
        F.swiglu(x, dim=0)
    with pytest.raises(RuntimeError, match="glu does not support scalars"):
        F.glu(torch.tensor(1.0))
    with pytest.raises(IndexError, match=r"reglu: dim must be in \[-2, 1\] for this input, but got 2"):
        F.reglu(x, dim=2)
    with pytest.raises(RuntimeError, match=r"geglu: gate must have the input's shape \[3, 4\], but has \[3, 2\]"):
        F.geglu(x, x[:, :2])
    with pytest.raises(ValueError, match=r"activation must be one of relu, .* but got 'swish'"):
        F.gated(x, None, "swish")
    with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh, but got 'sigmoid'"):
        F.geglu(x, approximate="sigmoid")
    op = torch.ops.nnart_ops.gated
    with pytest.raises(RuntimeError, match=r"gated: x must have an even size in dimension 0, but has sizes \[3, 4\]"):
        op(x, None, "relu", [], 0, False, [])
    with pytest.raises(RuntimeError, match="there is no activation 'swish'"):
        op(x, None, "swish", [], 1, False, [])
    with pytest.raises(RuntimeError, match="x and gate must have the same dtype"):
        op(x, x.double(), "relu", [], 0, False, [])
    with pytest.raises(RuntimeError, match="at most 3 parameters"):
        op(x, None, "relu", [1.0, 2.0, 3.0, 4.0], 1, False, [])
