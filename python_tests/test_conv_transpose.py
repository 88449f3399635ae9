"""Transposed convolution and its gradients, in every shape, layout and dtype, against native in float64."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import (
    DTYPES,
    LAYOUTS,
    away_from_kinks,
    case,
    check,
    check_autocast,
    functions,
    laid_out,
    operands,
    outcome,
)
from devices import DEVICE
from tolerances import assert_close
from torch import Tensor
from torch.func import grad, vmap
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F

KIND = "conv_transpose"
CASES = (
    case((2, 8, 7, 6), (8, 5, 3, 3)),
    case((2, 8, 7, 6), (8, 3, 4, 4), stride=2, padding=1),
    case((2, 3, 5, 4), (3, 8, 3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(1, 2)),
    case((2, 64, 6, 6), (64, 32, 2, 2), stride=2),
    case((2, 32, 6, 6), (32, 32, 3, 3), stride=2, padding=1, output_padding=1),
    case((4, 40, 1, 1), (40, 20, 4, 4)),
    case((2, 6, 5, 5), (6, 2, 3, 3), groups=2, stride=2, bias=False),
    case((2, 40, 5, 6), (40, 1, 3, 3), groups=40, stride=2, padding=1, output_padding=1),
    case((2, 40, 9, 6), (40, 1, 5, 5), groups=40, padding=2),
    case((2, 3, 4, 4), (3, 4, 3, 3), dilation=3, output_padding=2),  # lines that no input reaches
    case((2, 3, 2, 2), (3, 4, 1, 1), stride=4, output_padding=3),
    case((3, 9, 8), (3, 5, 3, 3), stride=2),
    case((0, 3, 9, 9), (3, 5, 3, 3)),
    case((2, 3, 20), (3, 5, 4), stride=2, padding=1, output_padding=1),
    case((2, 20, 50), (20, 1, 9), stride=1, padding=4, groups=20),
    case((3, 20), (3, 5, 4), stride=3),
    case((2, 4, 3, 4, 5), (4, 3, 2, 3, 2), stride=(1, 2, 3), padding=(1, 0, 0), output_padding=(0, 1, 2), groups=2),
    case((2, 32, 3, 4, 3), (32, 32, 2, 2, 2), stride=2),
    case((3, 2, 3, 2), (3, 4, 2, 2, 2)),
)


def transposed_operands(x: Any, weight: Any, bias: bool, dtype: torch.dtype, layout: str, groups: int = 1) -> list[Any]:
    tensors = operands(x, weight, False, dtype, layout)
    return [*tensors[:2], torch.randn(weight[1] * groups).to(dtype) if bias else None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), CASES)
def test_forward_and_gradients(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str) -> None:
    tensors = transposed_operands(x, weight, bias, dtype, layout, numbers.get("groups", 1))
    check(tensors, numbers, strides=len(weight) < 5, kind=KIND)


@pytest.mark.parametrize("strategy", ["gemm", "native"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), CASES)
def test_every_strategy(
    x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str, strategy: str
) -> None:
    tensors = transposed_operands(x, weight, bias, dtype, layout, numbers.get("groups", 1))
    with nnart_ops.config(conv_strategy=strategy):
        check(tensors, numbers, strides=False, kind=KIND)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set(isa: str) -> None:
    expression = "forward_and_gradients and (float32 or bfloat16)"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", expression, __file__]
    result = subprocess.run(
        command,
        env={**os.environ, "NNART_CPU_ISA": isa},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


DERIVED = (
    case((2, 2, 3, 4), (2, 3, 2, 3), padding=1, stride=2),
    case((2, 4, 3, 3), (4, 2, 3, 2), stride=2, padding=(1, 0), dilation=(1, 2), output_padding=1, groups=2),
    case((2, 3, 3), (2, 2, 3, 2)),
    case((2, 2, 5), (2, 2, 3), stride=2),
    case((1, 2, 2, 2, 2), (2, 2, 2, 2, 2), stride=(2, 1, 1)),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), DERIVED)
def test_gradcheck(x: Any, weight: Any, bias: bool, numbers: Any, layout: str) -> None:
    tensors = transposed_operands(x, weight, bias, torch.float64, layout, numbers.get("groups", 1))
    leaves = [t.requires_grad_() for t in tensors]
    ours = functions(weight, KIND)[0]
    call = lambda *tensors: ours(*tensors, **numbers)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, leaves, check_batched_grad=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_samples(dims: int, dtype: torch.dtype) -> None:
    info = next(op for op in op_db if op.name == f"nn.functional.conv_transpose{dims}d")
    compared = 0
    for sample in info.sample_inputs(DEVICE, dtype):
        assert all(a is None or isinstance(a, Tensor) for a in sample.args)
        numbers = dict(sample.kwargs)
        tensors = [sample.input, *sample.args, numbers.pop("bias", None)][:3]
        check(tensors, numbers, strides=False, kind=KIND)
        compared += 1
    assert compared > 5


def tensor(*sizes: int) -> Tensor:
    return torch.ones(sizes)


X, W = tensor(2, 4, 5, 5), tensor(4, 3, 3, 3)
REFUSED: tuple[tuple[Any, dict[str, Any], str], ...] = (
    (
        (tensor(2, 5, 8, 8), W),
        {},
        "conv_transpose2d: input has 5 channels, but weight of shape [4, 3, 3, 3] expects 4 (weight.shape[0]), and "
        "input has shape [2, 5, 8, 8]; build the layer with in_channels=5 or feed 4-channel images",
    ),
    ((tensor(2, 8, 8, 4), W), {}, "put the channels first with input.permute(0, 3, 1, 2)"),
    ((tensor(8, 8), tensor(1, 4, 3, 3)), {}, "add the channel dimension with input.unsqueeze(0)"),
    ((X, tensor(4, 3, 3)), {}, "conv_transpose2d needs a weight with 4 dimensions"),
    ((X, W, tensor(4)), {}, "expected bias to be 1-dimensional with 3 elements, but got bias of size [4]"),
    ((X, W.double()), {}, "Input type (torch.float32) and weight type (torch.float64) should be the same"),
    ((X, W), {"groups": 3}, "expected weight to be divisible by 3 at dimension 0"),
    ((X, W), {"groups": 0}, "groups must be at least 1, but is 0"),
    ((X, W), {"stride": 0}, "non-positive stride is not supported"),
    ((X, W), {"padding": -1}, "negative padding is not supported"),
    ((X, W), {"padding": 7}, "Given input size per channel: [5, 5]. Calculated output size per channel: [-7, -7]."),
    ((X, W), {"dilation": 0}, "dilation should be greater than zero"),
    ((X, W), {"output_padding": 1}, "output padding must be smaller than either stride or dilation"),
    ((X, W), {"output_padding": -1}, "negative output_padding is not supported"),
    ((X, W), {"output_padding": (1, 1, 1)}, "expected output_padding to be a single integer value or a list of 2"),
    ((tensor(2, 4, 0, 5), W), {}, "Only zero batch inputs are supported, but got input shape: [2, 4, 0, 5]"),
)


@pytest.mark.parametrize(
    ("args", "numbers", "message"), REFUSED, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_error_messages(args: Any, numbers: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(message)):
        F.conv_transpose2d(*args, **numbers)
    with pytest.raises(RuntimeError):
        native.conv_transpose2d(*args, **numbers)


def test_arguments_of_another_type() -> None:
    for numbers in ({"stride": 1.0}, {"padding": "same"}, {"output_padding": 0.5}, {"groups": "1"}):
        for function in (F.conv_transpose2d, native.conv_transpose2d):
            with pytest.raises(TypeError):
                function(X, W, **numbers)
    for numbers in ({"stride": 2}, {"dilation": 2, "output_padding": 1}):
        assert torch.equal(
            F.conv_transpose2d(X.cfloat(), W.cfloat(), **numbers).real, F.conv_transpose2d(X, W, **numbers)
        )


def test_op_refuses_sizes_that_do_not_belong_together() -> None:
    op = torch.ops.nnart_ops.conv_transpose
    numbers = ([2, 2], [0] * 4, [1, 1], 1)
    with pytest.raises(RuntimeError, match=r"input must have shape \[2, 4, 6, 6\], but has \[2, 4, 5, 5\]"):
        op(X, W, None, [2, 3, 13, 13], *numbers)
    with pytest.raises(RuntimeError, match=r"y_size must have 4 elements, of which the channels are 3"):
        op(X, W, None, [2, 4, 11, 11], *numbers)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("x", "weight", "bias", "numbers"),
    [
        case((2, 40, 5, 6), (40, 1, 3, 3), groups=40, stride=2),
        case((2, 32, 6, 6), (32, 32, 2, 2), stride=2),
        case((2, 20, 6, 6), (20, 36, 3, 3)),
        case((3, 9, 9), (3, 4, 3, 3), stride=2, bias=False),
        case((2, 3, 20), (3, 24, 3)),
    ],
)
def test_activation_and_residual(
    x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str, with_residual: bool
) -> None:
    ours, theirs = functions(weight, KIND)
    tensors = transposed_operands(x, weight, bias, dtype, layout, numbers.get("groups", 1))
    y = theirs(*tensors, **numbers)
    residual = torch.randn(y.shape).to(y) if with_residual else None
    for name in ("relu", "leaky_relu", "silu", "tanh", None):

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


def test_gradcheck_of_the_fused_form() -> None:
    tensors = transposed_operands((2, 4, 3, 3), (4, 1, 3, 3), True, torch.float64, "contiguous", 4)
    leaves = [t.requires_grad_() for t in tensors]
    leaves.append(torch.randn(2, 4, 7, 7, dtype=torch.float64, requires_grad=True))
    call = lambda x, w, b, r: F.conv_transpose2d(x, w, b, 2, groups=4, activation="tanh", residual=r)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, leaves)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), call(*leaves))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_modules(dims: int) -> None:
    """torch's own samples are in test_torch_samples.py; these are output_size, a residual, laziness and conversion."""
    x = torch.randn(2, 4, *(5,) * dims)
    plain = getattr(torch.nn, f"ConvTranspose{dims}d")(4, 6, 3, stride=2)
    layer = getattr(nnart_ops, f"ConvTranspose{dims}d")(4, 6, 3, stride=2, activation=torch.nn.LeakyReLU(0.1))
    layer.load_state_dict(plain.state_dict())
    layer = pickle.loads(pickle.dumps(layer))
    assert "activation=LeakyReLU" in repr(layer)
    expected = plain(x, output_size=[12] * dims)
    residual = torch.randn_like(expected)
    torch.testing.assert_close(layer(x, [12] * dims, residual), native.leaky_relu(expected + residual, 0.1))
    with pytest.raises(ValueError, match="requested an output size of"):
        layer(x, output_size=[14] * dims)
    lazy = nnart_ops.convert(getattr(torch.nn, f"LazyConvTranspose{dims}d")(6, 3, stride=2))
    y = lazy(x)
    assert type(lazy) is type(layer)
    torch.testing.assert_close(y, getattr(native, f"conv_transpose{dims}d")(x, lazy.weight, lazy.bias, stride=2))
    assert type(nnart_ops.convert(plain)) is type(layer)


@pytest.mark.parametrize("in_dims", [(0, None, None), (1, 0, 0), (None, 0, None), (None, None, 0)], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_vmap(in_dims: tuple[int | None, ...], batched: bool) -> None:
    sizes = [(2, 6, 4, 5) if batched else (6, 4, 5), (6, 2, 3, 3), (4,)]
    tensors = [
        torch.randn(*size[:dim], 3, *size[dim:], dtype=torch.float64)
        if dim is not None
        else torch.randn(size, dtype=torch.float64)
        for size, dim in zip(sizes, in_dims)
    ]
    ours, theirs = (
        vmap(lambda x, w, b, f=f: f(x, w, b, stride=2, padding=1, groups=2), in_dims)(*tensors)
        for f in (F.conv_transpose2d, native.conv_transpose2d)
    )
    torch.testing.assert_close(ours, theirs)


def test_per_sample_gradients() -> None:
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((3, 4, 5, 5), (4, 2, 3, 3), (2,)))
    got, want = (
        vmap(grad(lambda w, b, x, f=f: f(x, w, b, stride=2).pow(2).sum(), argnums=(0, 1, 2)), (None, None, 0))(w, b, x)
        for f in (F.conv_transpose2d, native.conv_transpose2d)
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    tensors = transposed_operands((2, 3, 8, 8), (3, 4, 3, 3), True, torch.float32, "contiguous")
    op = lambda x, w, b: torch.ops.nnart_ops.conv_transpose(x, w, b, [2, 4, 10, 10], [1, 1], [0] * 4, [1, 1], 1)  # noqa: E731
    check_autocast((F.conv_transpose2d, op), native.conv_transpose2d, tensors, dtype)


def test_compile_with_dynamic_batch() -> None:
    layer = nnart_ops.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    compiled = torch.compile(lambda x: layer(x).relu(), fullgraph=True, backend="aot_eager")
    for batch in (2, 5, 7):
        x = laid_out(torch.randn(batch, 3, 9, 9), "channels_last")
        torch._dynamo.mark_dynamic(x, 0)
        results = []
        for function in (compiled, lambda x: layer(x).relu()):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            results.append([y.detach(), *torch.autograd.grad(y.pow(2).sum(), (leaf, layer.weight, layer.bias))])
            assert y.is_contiguous(memory_format=torch.channels_last)
        for a, b in zip(*results):
            assert torch.equal(a, b)
