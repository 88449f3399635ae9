"""Whole networks: converted, they give torch's outputs and gradients, and hold no more memory."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import cpu_only
from torch import Tensor

import nnart_ops
from benchmarks.models import MODELS
from nnart_ops.demo.train import most_bytes_held


def step(model: torch.nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_outputs_and_gradients(name: str, layout: torch.memory_format) -> None:
    native = MODELS[name](8).double().to(memory_format=layout)
    ours = nnart_ops.convert(copy.deepcopy(native))
    assert {type(m).__module__.split(".")[0] for m in ours.modules() if isinstance(m, torch.nn.Conv2d)} == {"nnart_ops"}
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=layout)
    fused = nnart_ops.fuse(copy.deepcopy(ours))
    expected = step(native, x)
    for model in (ours, fused):
        for a, b in zip(step(model, x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def largest_allocation(model: torch.nn.Module, x: Tensor) -> int:
    """The most bytes of tensors that a training step holds, as torch's profiler counts them."""
    model(x).sum().backward()  # the parameters' gradients are there from now on
    return most_bytes_held(lambda: model(x).sum().backward())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_peak_memory(name: str) -> None:
    native = MODELS[name](16)
    ours = nnart_ops.convert(copy.deepcopy(native))
    x = torch.randn(4, 3, 64, 64)
    most = largest_allocation(native, x)
    assert largest_allocation(ours, x) <= most
    assert largest_allocation(nnart_ops.fuse(ours), x) <= most


@cpu_only
def test_a_native_weight_gradient_needs_its_memory_once() -> None:
    """A layer of which native computes that pass alone, from operands that are larger than the weight."""
    x, grad_y = torch.randn(2, 64, 32, 32), torch.randn(2, 128, 32, 32)
    weight, ones = torch.empty(128, 64, 3, 3), [1, 1]
    wanted = (None, ones, ones, ones, False, [0, 0], 1, [False, True, False])
    native = most_bytes_held(lambda: torch.ops.aten.convolution_backward(grad_y, x, weight, *wanted))
    with nnart_ops.config(conv_strategy="native"):
        ours = most_bytes_held(lambda: torch.ops.nnart_ops.conv_wgrad(grad_y, x, [3, 3], ones, ones * 2, ones, 1))
    assert ours <= native
