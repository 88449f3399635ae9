"""Convolution and its gradients, in every shape, layout and dtype, against native in float64."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import DTYPES, LAYOUTS, case, check, check_autocast, functions, laid_out, operands, outcome
from devices import DEVICE, cpu_only, threads
from tolerances import SAME_FLOAT32, assert_close
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F

CASES = (
    case((3, 1, 28, 28), (32, 1, 3, 3)),
    case((3, 32, 13, 13), (64, 32, 3, 3)),
    case((2, 3, 9, 8), (5, 3, 3, 3), padding=1, bias=False),
    case((2, 3, 9, 8), (5, 3, 3, 2), stride=2, padding=(2, 1), dilation=(1, 3)),
    case((2, 3, 9, 8), (5, 3, 2, 2), stride=(3, 4)),
    case((2, 4, 9, 8), (4, 4, 3, 3), stride=(2, 3), dilation=2, padding=3),
    case((2, 6, 7, 7), (4, 3, 3, 3), groups=2, padding=1),
    case((2, 20, 7, 7), (20, 1, 3, 3), groups=20, padding=1),
    case((2, 5, 7, 7), (10, 1, 3, 3), groups=5, stride=2),
    case((2, 17, 6, 5), (49, 17, 1, 1)),
    case((4, 70, 1, 1), (50, 70, 1, 1)),
    case((3, 40, 5, 5), (70, 40, 5, 5)),
    case((1, 300, 4, 4), (9, 300, 3, 3), padding=1),
    case((2, 3, 8, 8), (4, 3, 4, 4), padding="same"),
    case((2, 3, 8, 9), (4, 3, 2, 3), padding="same", dilation=(3, 2)),
    case((2, 3, 8, 9), (4, 3, 3, 3), padding="valid"),
    case((2, 2, 4, 4), (3, 2, 1, 1), stride=5, padding=4),
    case((2, 3, 2, 1), (4, 3, 4, 5), stride=(3, 4), padding=2),  # some taps meet no input
    case((1, 2, 3, 200), (3, 2, 3, 3), padding=1),
    case((2, 8, 300, 60), (4, 8, 3, 3), padding=1),
    case((3, 9, 9), (5, 3, 3, 3), stride=2),
    case((0, 3, 9, 9), (5, 3, 3, 3)),
    case((2, 3, 50), (5, 3, 4), stride=2, padding=3, dilation=2),
    case((2, 3, 50), (5, 3, 4), padding="same"),
    case((4, 31), (6, 2, 3), groups=2),
    case((2, 4, 5, 6, 7), (6, 2, 2, 3, 2), stride=(1, 2, 3), padding=(1, 0, 2), dilation=(2, 1, 1), groups=2),
    case((2, 3, 6, 5, 4), (4, 3, 2, 2, 3), padding="same", bias=False),
    case((3, 6, 5, 4), (4, 3, 2, 2, 2)),
    # few channels: lines of taps, in several bands, past the caches; weight gradients that shift either operand
    case((2, 1, 21, 17), (9, 1, 3, 5), stride=2, padding=2),
    case((2, 8, 70, 60), (9, 8, 3, 3), padding=1, dilation=(1, 2)),
    case((4, 3, 64, 64), (64, 3, 3, 3), padding=1),
    case((2, 40, 9, 8), (2, 40, 3, 3), padding=1),
    case((9, 33, 7, 7), (3, 33, 3, 3), padding=(0, 2), dilation=(1, 2)),
    case((2, 3, 50), (16, 3, 5), stride=2, padding=2),
    case((2, 2, 4, 9, 7), (10, 2, 2, 3, 3), padding=1),
)
# Channels that fill blocks, leave a rest, or fill none; every width of filter with code of its own, and others.
DEPTHWISE = (
    case((2, 5, 9, 8), (5, 1, 3, 3), padding=1, groups=5),
    case((2, 16, 9, 17), (16, 1, 3, 3), groups=16, bias=False),
    case((3, 40, 7, 7), (40, 1, 3, 3), padding=1, groups=40),
    case((2, 33, 15, 14), (33, 1, 3, 3), padding=1, stride=2, groups=33),
    case((2, 64, 9, 20), (64, 1, 5, 5), padding=2, groups=64),
    case((2, 32, 13, 12), (32, 1, 5, 5), padding=(1, 2), stride=2, groups=32),
    case((1, 48, 14, 30), (48, 1, 7, 7), padding=3, groups=48),
    case((1, 20, 16, 15), (20, 1, 7, 7), padding=3, stride=2, groups=20),
    case((2, 36, 9, 9), (36, 1, 1, 4), groups=36, stride=(1, 3)),
    case((2, 36, 11, 10), (36, 1, 3, 3), groups=36, dilation=2, padding=2),
    case((2, 34, 11, 23), (34, 1, 2, 9), groups=34, dilation=(3, 2), padding=(2, 5), stride=(2, 1)),
    case((2, 18, 6, 5), (18, 1, 3, 3), groups=18, stride=4, padding=5),  # outputs that read padding alone
    case((40, 1, 1), (40, 1, 3, 3), groups=40, padding=1),
    case((2, 20, 90), (20, 1, 31), groups=20, padding=15),
    case((2, 35, 41), (35, 1, 6), groups=35, stride=2, padding=2),
    case((2, 20, 40), (20, 1, 13), groups=20, padding=6),
    case((2, 20, 40), (20, 1, 15), groups=20, padding=7),
    case((2, 40, 5, 40), (40, 1, 2, 17), groups=40, padding=(0, 8)),
    case((2, 17, 4, 6, 7), (17, 1, 2, 3, 3), groups=17, padding=(0, 1, 1), stride=(1, 2, 1)),
    case((2, 32, 5, 4, 6), (32, 1, 3, 3, 2), groups=32, padding=1, dilation=(2, 1, 1)),
    # long filters in groups of 7, 5 and 3 taps, also longer than the line and padded further than they reach
    *(case((2, 20, 30), (20, 1, taps), groups=20, padding=taps // 2) for taps in (8, 9, 10, 11, 12, 14, 16)),
    case((2, 20, 6), (20, 1, 31), groups=20, padding=20),
    case((1, 18, 25), (18, 1, 11), groups=18, padding=13, bias=False),
    case((2, 36, 12, 21), (36, 1, 9, 9), groups=36, padding=4),
    case((1, 33, 10, 50), (33, 1, 3, 31), groups=33, padding=(1, 15)),
    # tiles of 7 or 8 pixels, at either end of a line, at both, or not padded to the same width
    case((2, 35, 14, 14), (35, 1, 3, 3), groups=35, padding=1),
    case((3, 33, 7, 15), (33, 1, 3, 3), groups=33, padding=1, bias=False),
    case((2, 34, 9, 28), (34, 1, 3, 3), groups=34, padding=1, stride=2),
    case((2, 32, 7, 7), (32, 1, 5, 5), groups=32, padding=2),
    case((2, 32, 14, 14), (32, 1, 5, 5), groups=32, padding=2, stride=2),
    case((1, 40, 28, 28), (40, 1, 5, 5), groups=40, padding=(2, 1), stride=2),
    case((2, 32, 7, 7), (32, 1, 7, 7), groups=32, padding=3),
    case((1, 33, 16, 28), (33, 1, 7, 7), groups=33, padding=3),
    case((1, 32, 14, 30), (32, 1, 7, 7), groups=32, padding=(5, 6), stride=2),
    case((2, 32, 10, 14), (32, 1, 3, 3), groups=32, padding=(0, 2)),
    case((2, 36, 14, 28), (36, 1, 3, 3), groups=36, dilation=2, padding=2),
    case((2, 96, 120, 80), (96, 1, 3, 3), groups=96, padding=1),  # large: stored past the caches
    # lines shorter than those: tiles of 3 or 4 pixels, and lines that are shorter yet; pixels a page apart
    *(case((2, 33, 5, w), (33, 1, 3, 3), groups=33, padding=1, stride=s) for s in (1, 2, 3) for w in range(1, 10)),
    *(case((2, 33, 7, w), (33, 1, 5, 5), groups=33, padding=2) for w in (3, 4, 6)),
    case((1, 1024, 3, 4), (1024, 1, 3, 3), groups=1024, padding=1),
    case((1, 512, 6, 8), (512, 1, 3, 3), groups=512, padding=1, stride=2),
    # each image is one window
    case((3, 5, 4, 4), (6, 5, 4, 4)),
    case((3, 5, 4, 3), (6, 5, 4, 3), stride=2, bias=False),
    case((5, 4, 3), (6, 5, 4, 3)),
    case((2, 5, 9), (3, 5, 9)),
    case((2, 3, 2, 3, 2), (4, 3, 2, 3, 2)),
    case((3, 4, 3, 3), (4, 4, 3, 3)),
    case((70, 40, 4, 4), (70, 40, 4, 4)),
    case((20, 700, 4, 5), (33, 700, 4, 5)),
    # planes in order: pairs of narrow ones, lines of several vectors, bands, phases, borders that are not alike
    case((3, 17, 7, 7), (17, 1, 3, 3), groups=17, padding=1),
    case((2, 7, 5, 6), (7, 1, 5, 5), groups=7, padding=2, bias=False),
    case((2, 5, 15, 16), (5, 1, 3, 3), groups=5, padding=1),
    case((1, 3, 150, 130), (3, 1, 3, 3), groups=3, padding=1),
    case((1, 3, 150, 130), (3, 1, 5, 5), groups=3, padding=2),
    case((2, 6, 40, 33), (6, 1, 3, 3), groups=6, padding=(0, 2)),
    case((2, 6, 30, 50), (6, 1, 4, 4), groups=6, padding="same"),
    case((2, 6, 31, 49), (6, 1, 3, 3), groups=6, padding=1, stride=2),
    case((2, 6, 32, 70), (6, 1, 7, 5), groups=6, padding=(3, 1), stride=(1, 2)),
    case((2, 6, 30, 41), (6, 1, 3, 3), groups=6, padding=2, dilation=2, stride=(3, 2)),
    case((1, 4, 5, 9, 40), (4, 1, 3, 3, 3), groups=4, padding=1),
    case((1, 2, 3, 20), (2, 1, 3, 9), groups=2, padding=(4, 30)),
    # 2, 4 and 8 channels a group
    case((2, 32, 9, 17), (32, 4, 3, 3), groups=8, padding=1),
    case((2, 40, 7, 8), (40, 2, 3, 3), groups=20, padding=1, stride=2),
    case((2, 8, 9, 12), (8, 4, 3, 3), groups=2, padding=(0, 1), bias=False),
    case((1, 48, 11, 10), (48, 8, 5, 5), groups=6, padding=2),
    case((2, 16, 12, 9), (16, 2, 3, 2), groups=8, dilation=(1, 2), stride=(2, 1), padding=1),
    case((2, 24, 40), (24, 4, 9), groups=6, padding=4),
    case((2, 16, 4, 6, 7), (16, 4, 2, 3, 3), groups=4, padding=(0, 1, 1), stride=(1, 2, 1)),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), CASES + DEPTHWISE)
def test_forward_and_gradients(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str) -> None:
    # What torch runs without oneDNN in three dimensions leaves channels-last behind; ours keeps it for every dtype.
    strides = len(weight) < 5 or layout == "contiguous"
    check(operands(x, weight, bias, dtype, layout), numbers, strides=strides)


@cpu_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), CASES)
def test_gemm_takes_everything(x: Any, weight: Any, bias: bool, numbers: Any, dtype: torch.dtype, layout: str) -> None:
    with nnart_ops.config(conv_strategy="gemm"):
        test_forward_and_gradients(x, weight, bias, numbers, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_as_large_as_the_image_is_one_tap(layout: str) -> None:
    """Then the GEMM adds the same products in the same order as for a 1x1 filter of so many channels."""
    x, weight, y = (
        laid_out(torch.randn(size, dtype=torch.float64, device=DEVICE), layout)
        for size in ((5, 3, 4, 2), (7, 3, 4, 2), (5, 7, 1, 1))
    )

    def as_channels(t: Tensor) -> Tensor:
        return (t.movedim(1, -1) if layout == "channels_last" else t).flatten(1)[:, :, None, None]

    with nnart_ops.config(conv_strategy="gemm"):
        assert torch.equal(F.conv2d(x, weight), F.conv2d(as_channels(x), as_channels(weight)))
        grad = F.conv_transpose2d(y, weight)
        assert torch.equal(as_channels(grad), F.conv_transpose2d(y, as_channels(weight)))


@cpu_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [2, 3, 5, 6, 33, 34])
def test_channels_in_pairs(channels: int, layout: str) -> None:
    """bfloat16 is multiplied in pairs of channels, or of pixels, where the CPU can; an odd channel has no partner, and
    pixels may lie any number of elements apart."""
    big = laid_out(torch.randn(3, channels + 3, 9, 19).bfloat16(), layout)
    weight = laid_out(torch.randn(20, channels, 3, 2) / channels, layout).bfloat16()
    with nnart_ops.config(conv_strategy="gemm"):
        for x in (big[:, 3:], big[:, 1:-2, :, 1:], big[:, 2:-1, ::2, ::2], big[:, :1].expand(3, channels, 9, 19)):
            for numbers in ({"padding": 1}, {"stride": 2}, {"stride": (1, 3), "dilation": 2, "padding": 2}):
                check([x, weight, None], numbers, strides=False)
        x = laid_out(torch.randn(2, 3 * channels, 8, 8).bfloat16(), layout)
        check([x, weight[:18], None], {"groups": 3})


@pytest.mark.parametrize(("x_layout", "weight_layout"), [(a, b) for a in LAYOUTS for b in LAYOUTS])
@pytest.mark.parametrize("channels", [(4, 6), (1, 6), (4, 1)], ids=str)
def test_output_layout(channels: tuple[int, int], x_layout: str, weight_layout: str) -> None:
    x = laid_out(torch.randn(2, channels[0], 7, 7), x_layout)
    weight = laid_out(torch.randn(channels[1], channels[0], 3, 3), weight_layout)
    for image in (x, x[0], x[:1], x[:, :, 1:, ::2], x.transpose(2, 3), x[:0]):
        assert F.conv2d(image, weight).stride() == native.conv2d(image, weight).stride()
    x = laid_out(torch.randn(2, channels[0], 7, 7, 7), x_layout)
    weight = laid_out(torch.randn(channels[1], channels[0], 3, 3, 3), weight_layout)
    assert F.conv3d(x, weight).stride() == native.conv3d(x, weight).stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views(dtype: torch.dtype) -> None:
    big, weight = torch.randn(4, 6, 12, 15).to(dtype), (torch.randn(5, 3, 3, 3) / 5).to(dtype)
    long_bias = torch.randn(10).to(dtype)
    views = [big[::2, 1:4, 1:-1, ::2], big[:, :1].expand(4, 3, 12, 15), big[:, :3].flip(3), big[:, ::2].transpose(2, 3)]
    for view in views:
        check([view, weight.transpose(2, 3), long_bias[::2]], {"padding": 1}, strides=False)
    check([big[:, :3], weight[:1].expand(5, 3, 3, 3), long_bias[:1].expand(5)], {"stride": 2}, strides=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_a_sum_is_one_value(dtype: torch.dtype, layout: str) -> None:
    check(operands((2, 3, 9, 8), (20, 3, 3, 3), True, dtype, layout), {"padding": 1}, one_value=True)


@pytest.mark.parametrize("needed", range(1, 8))
def test_only_the_wanted_gradients(needed: int) -> None:
    leaves = [
        t.requires_grad_(bool(needed >> i & 1))
        for i, t in enumerate(operands((2, 3, 8, 8), (4, 3, 3, 3), True, torch.float32, ""))
    ]
    F.conv2d(*leaves).square().sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [bool(needed >> i & 1) for i in range(3)]


@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_only_the_gradients_that_are_asked_for(
    name: str, activation: str | None, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of leaves and of others, where all could have one; and all of them if nothing is left out."""
    leaves = [torch.randn(s, requires_grad=True) for s in ((2, 4, 5, 6), (4, 1, 3, 3), (4,))]
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        return lambda *args: (calls.append(name), function(*args))[1]

    module = nnart_ops.autograd.conv
    forward = getattr(F, name)
    for given in (leaves, [leaf * 1 for leaf in leaves]):
        y = forward(*given, groups=4, activation=activation)
        expected = torch.autograd.grad(y.sum(), given, retain_graph=True)
        with monkeypatch.context() as patch:
            calls.clear()
            for gradient in ("_conv", "_conv_transpose", "_wgrad", "_wgrad_bias", "channel_sum"):
                patch.setattr(module, gradient, counted(gradient, getattr(module, gradient)))
            (grad,) = torch.autograd.grad(y.sum(), given[asked], retain_graph=True)
        of_input = "_conv_transpose" if name == "conv2d" else "_conv"
        assert calls == [[of_input], ["_wgrad"], ["channel_sum"]][asked]
        assert torch.equal(grad, expected[asked])
    y.sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "group"), [(5, 1), (37, 1), (300, 1), (40, 4)], ids=str)
def test_gradient_of_the_bias_beside_the_weights(channels: int, group: int, dtype: torch.dtype, layout: str) -> None:
    """By the kernel of the weight's, in every order of memory: dense, with gaps between lines, along other axes."""
    big = laid_out(torch.randn(3, channels, 24, 26).to(dtype), layout)
    views = [big, big[..., 1:-1, 2:-3], big[:, :, 9:14], big.transpose(2, 3), big[:1, :, 5:6], big[..., ::2]]
    for grad_y, kernel in [(view, k) for view in views for k in (3, 5)]:
        x = laid_out(torch.randn(grad_y.shape).to(dtype), layout)
        call = (grad_y, x, [kernel] * 2, [1, 1], [kernel // 2] * 4, [1, 1], channels // group)
        with nnart_ops.config(conv_strategy="depthwise" if group == 1 else "grouped"):
            grad_weight, grad_bias = torch.ops.nnart_ops.conv_wgrad_bias(*call)
            assert torch.equal(grad_weight, torch.ops.nnart_ops.conv_wgrad(*call))
        assert_close(grad_bias, grad_y.sum((0, 2, 3)), grad_y.double().sum((0, 2, 3)), "grad_bias")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("x", "weight"), [((2, 0, 6, 6), (4, 0, 3, 3)), ((0, 2, 6, 6), (4, 2, 3, 3))], ids=str)
def test_empty_inputs(x: tuple[int, ...], weight: tuple[int, ...], layout: str) -> None:
    """Of no channels, the output is the bias in the usual shape; torch's has no channels then."""
    leaves = [t.requires_grad_() for t in operands(x, weight, True, torch.float32, layout)]
    y = F.conv2d(*leaves)
    assert torch.equal(y, leaves[2].view(-1, 1, 1).expand(x[0], 4, 4, 4))
    y.sum().backward()
    assert all(t.grad.shape == t.shape and not t.grad.isnan().any() for t in leaves)


DERIVED = (
    case((2, 2, 5, 4), (3, 2, 2, 3), padding=1),
    case((2, 4, 6, 5), (4, 2, 3, 2), stride=2, padding=(1, 2), dilation=(1, 2), groups=2),
    case((2, 5, 5), (2, 2, 4, 2), padding="same"),
    case((2, 2, 9), (2, 2, 3), stride=2),
    case((1, 2, 4, 3, 3), (2, 2, 2, 2, 2), stride=(2, 1, 1), padding=1),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("x", "weight", "bias", "numbers"), DERIVED)
def test_gradcheck(x: Any, weight: Any, bias: bool, numbers: Any, layout: str) -> None:
    leaves = [t.requires_grad_() for t in operands(x, weight, bias, torch.float64, layout)]
    ours = functions(weight)[0]
    call = lambda *tensors: ours(*tensors, **numbers)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, leaves, check_batched_grad=True)


def test_third_order() -> None:
    x, w = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((1, 2, 5, 5), (2, 2, 3, 3)))

    def third(conv: Any) -> Tensor:
        value = conv(x, w, stride=2, padding=1).pow(4).sum()
        for leaf in (x, w, x):
            value = torch.autograd.grad(value, leaf, create_graph=True)[0].pow(2).sum()
        return value

    torch.testing.assert_close(third(F.conv2d), third(native.conv2d))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_samples(dims: int, dtype: torch.dtype) -> None:
    info = next(op for op in op_db if op.name == f"nn.functional.conv{dims}d")
    compared = 0
    for sample in info.sample_inputs(DEVICE, dtype):
        tensors = [sample.input, *(arg for arg in sample.args if isinstance(arg, Tensor))]
        numbers = dict(sample.kwargs)
        bias = numbers.pop("bias", None)
        if len(tensors) + len([a for a in sample.args if not isinstance(a, Tensor)]) != len(sample.args) + 1:
            continue
        tensors = [*tensors, bias][:3] if len(tensors) < 3 else tensors
        tensors += [None] * (3 - len(tensors))
        if all(a is None or isinstance(a, Tensor) for a in sample.args):
            check(tensors, numbers, strides=False)
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_what_torch_refuses(dims: int) -> None:
    info = next(op for op in op_db if op.name == f"nn.functional.conv{dims}d")
    refused = 0
    for error in info.error_inputs_func(info, DEVICE) if info.error_inputs_func else ():
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            getattr(F, f"conv{dims}d")(sample.input, *sample.args, **sample.kwargs)
        refused += 1
    assert refused > 5


def tensor(*sizes: int) -> Tensor:
    return torch.ones(sizes)


REFUSED = (
    (
        (tensor(2, 1, 8, 8), tensor(32, 3, 3, 3)),
        {},
        "conv2d: input has 1 channel, but weight of shape [32, 3, 3, 3] expects 3 (weight.shape[1] * groups = 3 * 1), "
        "and input has shape [2, 1, 8, 8]; build the layer with in_channels=1 or feed 3-channel images",
    ),
    ((tensor(2, 8, 8, 3), tensor(4, 3, 3, 3)), {}, "put the channels first with input.permute(0, 3, 1, 2)"),
    ((tensor(8, 8, 3), tensor(4, 3, 3, 3)), {}, "put the channels first with input.permute(2, 0, 1)"),
    ((tensor(64, 8, 8), tensor(4, 1, 3, 3)), {}, "give it as input.unsqueeze(1)"),
    ((tensor(8, 8), tensor(4, 1, 3, 3)), {}, "add the channel dimension with input.unsqueeze(0)"),
    (
        (
            tensor(
                8,
            ),
            tensor(4, 1, 3, 3),
        ),
        {},
        "Expected 3D (unbatched) or 4D (batched) input to conv2d",
    ),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 9, 9)), {}, "padded input size per channel: (8 x 8). Kernel size: (9 x 9)"),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3), tensor(3)), {}, "expected bias to be 1-dimensional with 4 elements"),
    (
        (tensor(2, 3, 8, 8), tensor(4, 3, 3, 3).double()),
        {},
        "(torch.float32) and weight type (torch.float64) should be",
    ),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)), {"stride": 0}, "non-positive stride is not supported"),
    (
        (tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)),
        {"stride": (1, 2, 3)},
        "expected stride to be a single integer value or a",
    ),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)), {"padding": -1}, "negative padding is not supported"),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)), {"padding": "full"}, "Invalid padding string: 'full'"),
    (
        (tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)),
        {"padding": "same", "stride": 2},
        "not supported for strided convolutions",
    ),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)), {"dilation": 0}, "dilation should be greater than zero"),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 3, 3)), {"groups": 0}, "groups must be at least 1, but is 0"),
    ((tensor(2, 4, 8, 8), tensor(3, 2, 3, 3)), {"groups": 2}, "out_channels must be a multiple of groups"),
    ((tensor(2, 3, 8, 8), tensor(4, 3, 0, 3)), {}, "kernel size should be greater than zero"),
    ((tensor(2, 3, 0, 8), tensor(4, 3, 3, 3)), {"padding": 2}, "Only zero batch or zero channel inputs are supported"),
)


@pytest.mark.parametrize(
    ("args", "numbers", "message"), REFUSED, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_error_messages(args: Any, numbers: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(message)):
        F.conv2d(*args, **numbers)
    with pytest.raises(RuntimeError):
        native.conv2d(*args, **numbers)


def test_wrong_argument_types_raise_what_torch_raises() -> None:
    x, w = tensor(1, 1, 4, 4), tensor(1, 1, 3, 3)
    for numbers in ({"stride": 1.0}, {"padding": 0.5}, {"groups": "1"}, {"dilation": [1.5]}):
        for conv in (F.conv2d, native.conv2d):
            with pytest.raises(TypeError):
                conv(x, w, **numbers)
    with pytest.raises(TypeError):
        F.conv2d([1.0], w)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
def test_other_dtypes_run_natively(dtype: torch.dtype) -> None:
    x, w = torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype)
    assert torch.equal(F.conv2d(x, w), native.conv2d(x, w))
    assert F.conv2d(x.to("meta"), w.to("meta")).shape == (1, 1, 2, 2)


# ---- modules

MODES = ("zeros", "reflect", "replicate", "circular")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_modules(dims: int, mode: str) -> None:
    ours_class, native_class = (getattr(package, f"Conv{dims}d") for package in (nnart_ops, torch.nn))
    for numbers in ({"padding": 1, "stride": 2}, {"padding": "same", "dilation": 2}, {"groups": 2, "bias": False}):
        torch.manual_seed(3)
        ours = ours_class(4, 6, 3, padding_mode=mode, **numbers)
        torch.manual_seed(3)
        theirs = native_class(4, 6, 3, padding_mode=mode, **numbers)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        ours = pickle.loads(pickle.dumps(ours))
        for x in (torch.randn(2, 4, *(6,) * dims), torch.randn(4, *(6,) * dims)):
            torch.testing.assert_close(ours(x), theirs(x), **SAME_FLOAT32)
    for wrong in ({"groups": 3}, {"padding": "full"}, {"padding": "same", "stride": 2}, {"padding_mode": "none"}):
        with pytest.raises(ValueError) as refused:
            ours_class(4, 6, 3, **wrong)
        with pytest.raises(ValueError, match=re.escape(str(refused.value))):
            native_class(4, 6, 3, **wrong)


# ---- transforms, autocast, compile


@pytest.mark.parametrize(
    "in_dims", [(0, None, None), (1, 0, 0), (None, 0, None), (None, None, 0), (2, 1, None)], ids=str
)
@pytest.mark.parametrize("batched", [True, False])
def test_vmap(in_dims: tuple[int | None, ...], batched: bool) -> None:
    sizes = [(2, 4, 6, 5) if batched else (4, 6, 5), (6, 2, 3, 3), (6,)]
    tensors = [
        torch.randn(*size[:dim], 3, *size[dim:], dtype=torch.float64)
        if dim is not None
        else torch.randn(size, dtype=torch.float64)
        for size, dim in zip(sizes, in_dims)
    ]
    ours, theirs = (
        vmap(lambda x, w, b, conv=conv: conv(x, w, b, stride=2, padding=1, groups=2), in_dims)(*tensors)
        for conv in (F.conv2d, native.conv2d)
    )
    torch.testing.assert_close(ours, theirs)


def test_per_sample_gradients_and_jacobians() -> None:
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((3, 2, 5, 5), (4, 2, 3, 3), (4,)))
    for unbatched in (True, False):

        def loss(w: Tensor, b: Tensor, image: Tensor, conv: Any, unbatched: bool = unbatched) -> Tensor:
            return conv(image if unbatched else image.unsqueeze(0), w, b, padding=1).pow(2).sum()

        got, want = (
            vmap(grad(lambda w, b, image, conv=conv: loss(w, b, image, conv), argnums=(0, 1, 2)), (None, None, 0))(
                w, b, x
            )
            for conv in (F.conv2d, native.conv2d)
        )
        for a, c in zip(got, want):
            torch.testing.assert_close(a, c)
    for argument in range(3):
        got, want = (jacrev(conv, argnums=argument)(x[:1], w, b) for conv in (F.conv2d, native.conv2d))
        torch.testing.assert_close(got, want)
    got, want = (jvp(conv, (x, w, b), (x + 1, w * 2, b)) for conv in (F.conv2d, native.conv2d))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    op = lambda x, w, b: torch.ops.nnart_ops.conv(x, w, b, [1, 1], [0] * 4, [1, 1], 1)  # noqa: E731
    check_autocast((F.conv2d, op), native.conv2d, operands((2, 3, 8, 8), (4, 3, 3, 3), True, torch.float32, ""), dtype)


def test_compile_with_dynamic_batch() -> None:
    layer = nnart_ops.Conv2d(3, 4, 3, stride=2, padding=1)
    compiled = torch.compile(lambda x: layer(x).relu(), fullgraph=True, backend="aot_eager")
    for batch in (2, 5, 7):
        x = torch.randn(batch, 3, 9, 9).to(memory_format=torch.channels_last)
        torch._dynamo.mark_dynamic(x, 0)
        results = []
        for function in (compiled, lambda x: layer(x).relu()):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            grads = torch.autograd.grad(y.pow(2).sum(), (leaf, layer.weight, layer.bias))
            results.append([y.detach(), *grads])
            assert y.is_contiguous(memory_format=torch.channels_last)
        for a, b in zip(*results):
            assert torch.equal(a, b)


# ---- determinism and instruction sets


@cpu_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("x", "weight", "numbers"),
    [
        ((33, 8, 13, 13), (48, 8, 3, 3), {}),
        ((1, 64, 30, 30), (96, 64, 3, 3), {"padding": 1}),
        ((5, 16, 20, 20), (32, 8, 3, 3), {"stride": 2, "groups": 2}),
        ((7, 3, 40, 40), (32, 3, 3, 3), {"padding": 1}),
        ((7, 32, 40, 40), (3, 32, 3, 3), {"padding": 1}),
        ((5, 40, 60, 60), (40, 1, 3, 3), {"padding": 1, "groups": 40}),
        ((5, 40, 60, 60), (40, 4, 3, 3), {"padding": 1, "groups": 10}),
        ((3, 200, 8, 8), (200, 1, 3, 3), {"padding": 1, "groups": 200}),  # shares of the channels, not of the pixels
    ],
    ids=str,
)
def test_bits_do_not_depend_on_threads(x: Any, weight: Any, numbers: Any, layout: str) -> None:
    strategy = {1: "depthwise", 4: "grouped"}.get(weight[1], "gemm")  # native's own sums may depend on them
    tensors = operands(x, weight, True, torch.float32, layout)
    grad_y = torch.randn(native.conv2d(*tensors, **numbers).shape)
    results = []
    for n in (1, 2, 3):
        with threads(n), nnart_ops.config(conv_strategy=strategy):
            results.append(outcome(F.conv2d, tensors, grad_y, numbers))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@cpu_only
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    expression = "(forward_and_gradients or takes_everything) and (float32 or bfloat16) or strided_views"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", expression, __file__]
    result = subprocess.run(
        command,
        env={**os.environ, "NNART_CPU_ISA": isa},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_random_geometry(seed: int) -> None:
    draw = random.Random(seed)
    dims, groups = draw.choice((1, 2, 2, 3)), draw.choice((1, 1, 2, 3))
    kernel = [draw.randint(1, 4) for _ in range(dims)]
    dilation, stride, padding = ([draw.randint(low, 3) for _ in range(dims)] for low in (1, 1, 0))
    sizes = [d * (k - 1) + 1 + draw.randint(0, 14 // dims) for d, k in zip(dilation, kernel)]
    x = (draw.choice((1, 2, 5)), groups * draw.choice((1, 2, 3, 17)), *sizes)
    weight = (groups * draw.choice((1, 2, 5, 33)), x[1] // groups, *kernel)
    numbers = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    tensors = operands(x, weight, draw.random() < 0.5, draw.choice(DTYPES), draw.choice(LAYOUTS))
    check(tensors, numbers, strides=dims < 3)
