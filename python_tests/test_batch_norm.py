"""Batch normalization with a residual and an activation, against the separate operations of torch."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only, threads
from instruction_sets import each_instruction_set, run_on
from tolerances import ATOL, DTYPES, SAME_FLOAT64, assert_close, storage_rounding
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.functional._epilogue import _TABLE
from nnart_ops.functional.batch_norm import FUSED

MODULE = sys.modules["nnart_ops.functional.batch_norm"]  # its function hides it
LEFT_TO_NATIVE = MODULE.LEFT_TO_NATIVE  # as it is outside the tests

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# Planes shorter and longer than a piece, rows of channels narrower and wider than a strip, in blocks that end anywhere.
LAYOUTS = (
    ((7, 5), None),
    ((2, 1), None),
    ((300, 70), None),
    ((9, 3, 11), None),
    ((4, 24, 9, 7), torch.contiguous_format),
    ((4, 24, 9, 7), torch.channels_last),
    ((2, 3, 70, 71), torch.contiguous_format),
    ((2, 3, 70, 71), torch.channels_last),
    ((2, 67, 5, 5), torch.channels_last),
    ((3, 100, 1, 1), torch.contiguous_format),
    ((1, 300, 20, 17), torch.channels_last),
    ((3, 5, 2, 3, 4), torch.contiguous_format),
    ((3, 17, 2, 3, 4), torch.channels_last_3d),
)
layouts = pytest.mark.parametrize(("shape", "memory_format"), LAYOUTS)


def away_from_kinks(pre: Tensor, dtype: torch.dtype) -> Tensor:
    """1, and 0 where rounding to ``dtype`` may take ``pre`` across a kink of some activation, to another slope."""
    near = [(pre - kink).abs() < 16 * torch.finfo(dtype).eps for kink in (-3, -1, -0.5, 0, 0.5, 1, 3, 6)]
    return (~torch.stack(near).any(0)).to(dtype)


class Call:
    """One call's numbers, to be made by ours, by torch, and by torch in float64."""

    def __init__(
        self,
        shape: Any,
        dtype: torch.dtype,
        memory_format: Any = None,
        *,
        name: Any = None,
        residual: bool = False,
        training: bool = True,
        affine: bool = True,
        narrow_weight: bool = False,
    ) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        of_weight = dtype if narrow_weight else wide
        lay = (lambda t: t) if memory_format is None else (lambda t: t.contiguous(memory_format=memory_format))
        channels = shape[1]
        self.x = lay((torch.randn(shape) * 2 + 1).to(dtype))
        self.residual = lay(torch.randn(shape).to(dtype)) if residual else None
        self.weight = (torch.rand(channels) + 0.5).to(of_weight) if affine else None
        self.bias = torch.randn(channels).to(of_weight) if affine else None
        self.running = [torch.randn(channels).to(of_weight), (torch.rand(channels) + 0.5).to(of_weight)]
        self.name, self.training = name, training
        _, _, pre = self._native(*self._leaves(double=True), name=None)
        self.grad_y = lay(torch.randn(shape).to(dtype) * away_from_kinks(pre.detach(), dtype))

    def _leaves(self, double: bool) -> list[Any]:
        given = (self.x, self.weight, self.bias, self.residual)
        return [t if t is None else (t.double() if double else t).detach().clone().requires_grad_() for t in given]

    def _native(self, x: Any, weight: Any, bias: Any, residual: Any, name: Any) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = (t.to(weight.dtype if weight is not None else x.dtype).clone() for t in self.running)
        y = native.batch_norm(x, mean, var, weight, bias, self.training)
        y = y if residual is None else y + residual
        return mean, var, self._activation(y, name)

    @staticmethod
    def _activation(y: Tensor, name: Any) -> Tensor:
        if name == "hardsigmoid":  # torch's has constants of float32
            return native.hardtanh(y / 3, -1.0, 1.0) / 2 + 0.5
        return getattr(native, name)(y) if name else y

    def _ours(self, x: Any, weight: Any, bias: Any, residual: Any, name: Any) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = (t.to(weight.dtype if weight is not None else x.dtype).clone() for t in self.running)
        y = F.batch_norm(x, mean, var, weight, bias, self.training, activation=name, residual=residual)
        return mean, var, y

    def outcome(self, how: str = "ours") -> dict[str, Tensor]:
        leaves = self._leaves(how == "oracle")
        mean, var, y = (self._ours if how == "ours" else self._native)(*leaves, name=self.name)
        names = ("x", "weight", "bias", "residual")
        wanted = [(name, leaf) for name, leaf in zip(names, leaves) if leaf is not None]
        grads = torch.autograd.grad(y, [leaf for _, leaf in wanted], self.grad_y.to(y.dtype))
        gradients = {f"gradient of {name}": grad for (name, _), grad in zip(wanted, grads)}
        return {"y": y.detach(), "running mean": mean, "running variance": var, **gradients}

    def check(self) -> None:
        """A sum of n terms may be off by as many roundings as a random walk of n steps, of the elements' dtype where
        they are stored in between; a channel of small deviation is divided by it."""
        ours, theirs, oracle = (self.outcome(how) for how in ("ours", "native", "oracle"))
        assert ours["y"].stride() == theirs["y"].stride() or self.name == "logsigmoid"  # torch's has one layout
        channels, dtype = self.x.shape[1], self.x.dtype
        n = self.x.numel() / channels
        values = self.x.double().transpose(0, 1).reshape(channels, -1)
        var = values.var(1, correction=0) if self.training else self.running[1].double()
        slope = ((var + 1e-5).rsqrt() * (1 if self.weight is None else self.weight.double())).max().item()
        for what, got in ours.items():
            steps = n**0.5 if what.endswith(("weight", "bias")) else max(slope, 1)
            limit = 8 * steps * max(ATOL[dtype], storage_rounding(dtype))
            text = f"{what} of {self.name} {tuple(self.x.shape)}"
            assert_close(got, theirs[what], oracle[what], text, terms=max(limit / ATOL[got.dtype], 4))


def calls(shape: Any, dtype: torch.dtype, memory_format: Any, name: Any) -> Iterator[Call]:
    for training in (True, False):
        for residual in (False, True):
            yield Call(shape, dtype, memory_format, name=name, residual=residual, training=training)


@dtypes
@layouts
@pytest.mark.parametrize("name", [None, "relu", "silu"], ids=str)
def test_layouts(name: Any, shape: Any, memory_format: Any, dtype: torch.dtype) -> None:
    for call in calls(shape, dtype, memory_format, name):
        call.check()


@dtypes
@pytest.mark.parametrize("name", [*_TABLE])
def test_every_activation(name: str, dtype: torch.dtype) -> None:
    """Those that the kernel has, and those that follow it."""
    for call in calls((6, 5, 8, 3), dtype, torch.channels_last, name):
        call.check()


@dtypes
def test_without_weights_and_with_narrow_ones(dtype: torch.dtype) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for options in ({"affine": False}, {"narrow_weight": True}):
            for training in (True, False):
                Call((5, 6, 4, 7), dtype, memory_format, name="relu", training=training, **options).check()


@dtypes
def test_strided_operands(dtype: torch.dtype) -> None:
    x = torch.randn(4, 6, 5, 8).to(dtype)
    for t in (x.permute(3, 1, 0, 2), x[:, :, ::2], x[:, :, :1].expand(4, 6, 5, 8), x[..., 1:]):
        call = Call(t.shape, dtype, name="relu", residual=True)
        call.x, call.residual = t, call.residual.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
        call.grad_y = torch.ones((), dtype=dtype).expand(t.shape)
        call.grad_y = call.grad_y * (call.outcome("oracle")["y"] > 1e-2)
        call.check()


def test_a_large_mean_costs_no_precision() -> None:
    """Deviations of 1 around a mean of 10000: their squares are lost in a sum of squares, and not in ours."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = (torch.randn(8, 4, 60, 60) + 1e4).contiguous(memory_format=memory_format)
        mean, var = torch.zeros(4), torch.zeros(4)
        F.batch_norm(x, mean, var, training=True, momentum=1.0)
        torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-7, atol=0)
        torch.testing.assert_close(var.double(), x.double().var((0, 2, 3)), rtol=1e-6, atol=0)


@cpu_only
def test_small_inputs_are_left_to_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "LEFT_TO_NATIVE", LEFT_TO_NATIVE)
    for memory_format, name, largest in (
        (torch.channels_last, None, LEFT_TO_NATIVE),
        (torch.channels_last, "relu", LEFT_TO_NATIVE // 8),
        (torch.contiguous_format, None, LEFT_TO_NATIVE // 8),
    ):
        for pixels in (largest // 64 - 1, largest // 64):
            x = torch.randn(1, 64, pixels, 1, requires_grad=True).contiguous(memory_format=memory_format)
            y = F.batch_norm(x, None, None, training=True, activation=name)
            names = {type(y.grad_fn).__name__, type(y.grad_fn.next_functions[0][0]).__name__}
            assert ("NativeBatchNormBackward0" in names) == (pixels * 64 < largest)


@cpu_only
@dtypes
def test_any_number_of_threads(dtype: torch.dtype) -> None:
    for shape in ((16, 24, 40, 40), (4, 2, 150, 150)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            call = Call(shape, dtype, memory_format, name="silu", residual=False)
            outcomes = []
            for n in (1, 2, 3):
                with threads(n):
                    outcomes.append(call.outcome())
            for other in outcomes[1:]:
                assert all(torch.equal(other[what], outcomes[0][what]) for what in other)


def test_special_values() -> None:
    """A channel with a NaN or an infinity is NaN, and no other; statistics of one value have no deviation."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 37, 6, 5).contiguous(memory_format=memory_format)
        x[1, 3, 2, 2], x[2, 20, 0, 0], x[:, 5] = float("nan"), float("inf"), 7.0
        y, expected = (f(x, None, None, training=True) for f in (F.batch_norm, native.batch_norm))
        assert torch.equal(torch.isnan(y), torch.isnan(expected))
        assert y[:, [3, 20]].isnan().all()
        assert not y[:, 5].any()


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    code = """
import sys
import torch
import nnart_ops
sys.modules["nnart_ops.functional.batch_norm"].LEFT_TO_NATIVE = 0
torch.set_num_threads(1)
torch.manual_seed(0)
from test_batch_norm import LAYOUTS, calls
from tolerances import DTYPES
for shape, memory_format in LAYOUTS:
    for dtype in DTYPES:
        for name in (None, "relu", "mish"):
            for call in calls(shape, dtype, memory_format, name):
                call.check()
"""
    run_on(isa, code)


# ---- what is kept, derivatives, transforms, compilers -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "residual", "kept"),
    [("relu", False, ["x"]), ("silu", False, ["x"]), (None, True, ["x"]), ("relu", True, ["x", "y"])],
)
def test_what_is_kept(name: Any, residual: bool, kept: list[str]) -> None:
    x = torch.randn(4, 5, 3, 3, requires_grad=True)
    pointers: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (pointers.append(t.data_ptr()) if t.numel() == x.numel() else None, t)[1], lambda t: t
    ):
        r = torch.randn_like(x) if residual else None
        y = F.batch_norm(x, None, None, training=True, activation=name, residual=r)
    places = {"x": x.data_ptr(), "y": y.data_ptr()}
    assert pointers == [places[what] for what in kept]


@pytest.mark.parametrize("name", [None, *sorted(_TABLE)], ids=str)
def test_gradcheck(name: Any) -> None:
    """Of every order."""
    for shape in ((3, 2, 2, 2), (4, 3)):
        for training in (True, False):
            call = Call(shape, torch.float64, residual=True, training=training)
            leaves = [call.x, call.weight, call.bias]
            for more in ([], [call.residual]):
                inputs = [t.detach().requires_grad_() for t in (*leaves, *more)]

                def function(x: Any, w: Any, b: Any, r: Any = None, call: Any = call, t: bool = training) -> Tensor:
                    mean, var = (s.clone() for s in call.running)
                    return F.batch_norm(x, mean, var, w, b, t, activation=name, residual=r)

                assert torch.autograd.gradcheck(function, inputs, check_batched_grad=False)
                assert torch.autograd.gradgradcheck(function, inputs)


def formula(x: Tensor, w: Tensor) -> Tensor:
    """torch's own third derivative takes the batch's statistics for constants."""
    var, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
    return native.silu((x - mean) / (var + 1e-5).sqrt() * w[:, None])


def ours_of(x: Tensor, w: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, w, training=True, activation="silu")


def test_third_derivatives() -> None:
    def third(function: Any) -> Tensor:
        x = torch.linspace(-1, 2, 24, dtype=torch.float64).reshape(4, 2, 3).sin().requires_grad_()
        w = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
        value = function(x, w).pow(3).sum()
        for leaf in (x, w, x):
            (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = slope.pow(2).sum()
        return value

    torch.testing.assert_close(third(ours_of), third(formula), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("transform", "batched"),
    [
        (lambda f: torch.func.grad(lambda *t: f(*t).square().sum(), (0, 1)), False),
        (lambda f: torch.func.jacfwd(f, (0, 1)), False),
        (lambda f: torch.func.jacrev(torch.func.jacrev(f)), False),
        (lambda f: torch.func.vmap(f, (0, None)), True),
        (lambda f: torch.func.vmap(torch.func.grad(lambda *t: f(*t).square().sum()), (0, None)), True),
    ],
    ids=["grad", "jacfwd", "jacrev", "vmap", "vmap of grad"],
)
def test_transforms(transform: Any, batched: bool) -> None:
    x, w = torch.randn(4, 3, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    given = (torch.stack([x, 2 - x]), w) if batched else (x, w)
    torch.testing.assert_close(transform(ours_of)(*given), transform(formula)(*given), **SAME_FLOAT64)


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", None], ids=str)
def test_compile_dynamic(name: Any) -> None:
    torch._dynamo.reset()

    def call(x: Tensor, r: Tensor, mean: Tensor, var: Tensor, w: Tensor) -> Tensor:
        return F.batch_norm(x, mean, var, w, training=True, activation=name, residual=r)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for size in (5, 9):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            given = Call((size, 3, 4, 6), torch.float64, memory_format, residual=True)
            outcomes = []
            for function in (compiled, call):
                x, r, w = (t.detach().clone().requires_grad_() for t in (given.x, given.residual, given.weight))
                if function is compiled:
                    for t in (x, r):
                        torch._dynamo.mark_dynamic(t, 0)
                mean, var = (s.clone() for s in given.running)
                y = function(x, r, mean, var, w)
                outcomes.append([y.detach(), mean, var, *torch.autograd.grad(y.square().sum(), (x, r, w))])
            torch.testing.assert_close(*outcomes, **SAME_FLOAT64)
            assert outcomes[0][0].stride() == outcomes[1][0].stride()


# ---- the layers, other tensors, errors --------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("tracks", [True, False])
def test_layer_over_several_steps(momentum: Any, tracks: bool) -> None:
    """Buffers, counts and outputs stay torch's through training and evaluation."""
    theirs = torch.nn.BatchNorm2d(5, momentum=momentum, track_running_stats=tracks)
    ours = nnart_ops.convert(copy.deepcopy(theirs))
    assert type(ours) is nnart_ops.BatchNorm2d
    for step in range(4):
        x = torch.randn(3, 5, 6, 6) * (step + 1)
        for layer in (ours, theirs):
            layer.train(step != 2)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_layer_with_activation_and_residual() -> None:
    layer = nnart_ops.BatchNorm2d(4, activation=torch.nn.LeakyReLU(0.2))
    assert "activation=LeakyReLU" in repr(layer)
    assert list(layer.state_dict()) == list(torch.nn.BatchNorm2d(4).state_dict())
    x, r = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    expected = native.leaky_relu(torch.nn.BatchNorm2d(4)(x) + r, 0.2)
    torch.testing.assert_close(layer(x, residual=r), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x, r), expected)
    with pytest.raises(TypeError, match=r"activation must be a name .* but got PReLU"):
        nnart_ops.BatchNorm1d(4, activation=torch.nn.PReLU())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_lazy_layers(dims: int) -> None:
    ours = getattr(nnart_ops, f"LazyBatchNorm{dims}d")(activation="relu")
    theirs = getattr(torch.nn, f"LazyBatchNorm{dims}d")()
    x = torch.randn(2, 4, *(3,) * dims)
    torch.testing.assert_close(ours(x), theirs(x).relu())
    assert type(ours) is getattr(nnart_ops, f"BatchNorm{dims}d")
    assert list(ours.state_dict()) == list(theirs.state_dict())


@dtypes
def test_torchs_own_samples(dtype: torch.dtype) -> None:
    info = next(info for info in op_db if info.name == "nn.functional.batch_norm" and not info.variant_test_name)
    compared = 0
    for sample in info.sample_inputs(DEVICE, dtype, requires_grad=False):
        outcomes = []
        for function, double in ((F.batch_norm, False), (native.batch_norm, False), (native.batch_norm, True)):
            x, *args = (
                (t.double() if double else t).clone() if isinstance(t, Tensor) else t
                for t in (sample.input, *sample.args)
            )
            kwargs = {
                k: (v.double() if double else v).clone() if isinstance(v, Tensor) else v
                for k, v in sample.kwargs.items()
            }
            try:
                outcomes.append([function(x, *args, **kwargs), *args[:2]])
            except (RuntimeError, ValueError) as error:
                outcomes.append([type(error)])
        for got, want, truth in zip(*outcomes):
            if not isinstance(want, Tensor):
                assert got is want
                continue
            assert_close(got, want, truth, str(tuple(sample.input.shape)), terms=10)
            assert got.stride() == want.stride()
            compared += 1
    assert compared


def test_autocast() -> None:
    """bfloat16 stays bfloat16 beside float32 weights, as torch's does."""
    layer = nnart_ops.BatchNorm2d(4)
    x = torch.randn(2, 4, 5, 5).bfloat16()
    with torch.autocast("cpu"):
        ours, theirs = layer(x), torch.nn.BatchNorm2d(4)(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)


def test_other_tensors_take_the_separate_operations() -> None:
    meta = torch.randn(2, 3, 4, device="meta")
    assert F.batch_norm(meta, None, None, training=True, activation="relu", residual=meta).is_meta
    x = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    mixed = torch.randn(3, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        native.batch_norm(x, None, None, mixed, training=True)
    with pytest.raises(RuntimeError):
        F.batch_norm(x, None, None, mixed, training=True)
    empty = torch.randn(0, 3, 4, requires_grad=True)
    assert F.batch_norm(empty, torch.zeros(3), torch.ones(3), activation="relu").shape == empty.shape


def test_errors() -> None:
    x, four = torch.randn(2, 3, 4), torch.randn(4)
    for error, match, call in (
        (ValueError, "more than 1 value per channel", lambda: F.batch_norm(x[:1, :, :1], None, None, training=True)),
        (ValueError, "eps must be positive", lambda: F.batch_norm(x, None, None, training=True, eps=0.0)),
        (ValueError, "activation must be one of", lambda: F.batch_norm(x, None, None, training=True, activation="a")),
        (RuntimeError, r"residual must have the input's shape \[2, 3, 4\], but has \[4\]",
         lambda: F.batch_norm(x, None, None, training=True, residual=four)),
        (RuntimeError, "running_mean should contain 3 elements not 4", lambda: F.batch_norm(x, four, four)),
        (RuntimeError, "weight should contain 3 elements not 4",
         lambda: F.batch_norm(x, None, None, four, training=True)),
        (ValueError, "expected 4D input", lambda: nnart_ops.BatchNorm2d(3)(x)),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            call()
    op, backward = torch.ops.nnart_ops.batch_norm, torch.ops.nnart_ops.batch_norm_backward
    three, how = torch.ones(3), (1e-5, True, "relu", [], [])
    for match, function, args in (
        ("mean and var must be given both or neither", op, (x, None, None, None, three, None, *how)),
        (r"weight must have the sizes \[3\], one for each channel, but has \[4\]", op, (x, four, *(None,) * 4, *how)),
        ("weight and bias must have one dtype", op, (x.half(), three, three.half(), None, None, None, *how)),
        ("mean must be float32, or float64 if x is", op, (x, None, None, None, three.half(), three.half(), *how)),
        ("mean and var must be given where they are not those of x", op, (x, *(None,) * 5, 1e-5, False, *how[2:])),
        ("no kernel has tanh in it", op, (x, *(None,) * 5, 1e-5, True, "tanh", [], [])),
        ("x must have its channels in dimension 1", op, (three, *(None,) * 5, *how)),
        ("x and grad_y must have the same dtype", backward,
         (x.half(), x, None, None, None, three, three, 1e-5, True, False, "relu", [], [])),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=match):
            function(*args)
    leaf = x.clone().requires_grad_()
    y, _, _ = op(leaf, None, None, x, None, None, 1e-5, True, "silu", [], [])
    with pytest.raises(NotImplementedError, match="the output of silu"):
        y.sum().backward()


def test_what_python_calls_fused_the_kernel_has() -> None:
    """And no more: what it refuses is computed after it."""
    x = torch.randn(4, 3)
    for name in {row[1] for row in _TABLE.values()} | {"identity", "gelu_tanh"}:
        numbers = {"leaky_relu": [0.1], "hardtanh": [0.0, 6.0], "elu": [1.0, 1.0, 1.0]}.get(name, [])
        call = lambda n=name, p=numbers: torch.ops.nnart_ops.batch_norm(x, *(None,) * 5, 1e-5, True, n, p, [])  # noqa: E731
        if name in FUSED:
            call()
        else:
            with pytest.raises(RuntimeError, match=f"no kernel has {name} in it"):
                call()
