"""What lies around an image, or beside it in memory, reaches no result of a convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import LAYOUTS, laid_out

import nnart_ops
import nnart_ops.functional as F


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [5, 7, 14, 20])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_an_infinite_pixel_reaches_only_its_own_taps(kernel: int, stride: int, size: int, layout: str) -> None:
    x = laid_out(torch.zeros(2, 20, size, size), layout)
    x[0, 3, 0, 0] = x[1, 5, -1, -1] = x[1, 6, 0, -1] = torch.inf
    w = torch.randn(20, 1, kernel, kernel, requires_grad=True)
    outputs = (size - 1) // stride + 1
    grad_y = laid_out(torch.ones(2, 20, outputs, outputs), layout)
    call = {"stride": stride, "padding": kernel // 2, "groups": 20}
    ours, theirs = (torch.autograd.grad(f(x, w, **call), w, grad_y)[0] for f in (F.conv2d, native.conv2d))
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    assert torch.equal(ours.isnan(), theirs.isnan())


def test_elements_of_the_filter_that_meet_no_input() -> None:
    """oneDNN leaves their bfloat16 gradient unwritten, which shows where the memory held something else before."""
    x = torch.randn(2, 3, 2, 1).bfloat16().contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 3, 4, 5).bfloat16().requires_grad_()
    for _ in range(20):
        stale = [torch.full((n,), 1e30) for n in (120, 240, 480, 1000)]
        del stale
        (grad,) = torch.autograd.grad(F.conv2d(x, w, stride=(3, 4), padding=2).sum(), w)
        assert grad.abs().max() < 100
        assert not grad[..., 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("depth", "kernel", "stride", "padding"), [(2, 3, 1, 1), (3, 4, 1, 1), (5, 5, 2, 3), (2, 4, 2, 3)]
)
def test_windows_that_all_read_padding_along_the_depth(
    depth: int, kernel: int, stride: int, padding: int, dtype: torch.dtype
) -> None:
    """oneDNN leaves part of the weight's gradient unwritten there, which shows as above, or writes past its end."""
    x = torch.randn(2, 16, depth, 6, 6).to(dtype)
    w = torch.randn(16, 16, kernel, 3, 3).to(dtype)
    call = {"stride": (stride, 1, 1), "padding": (padding, 1, 1)}

    def gradient(function: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        w = w.detach().requires_grad_()
        return torch.autograd.grad(function(x, w, **call).sum(), w)[0]

    expected = gradient(native.conv3d, x.double(), w.double())
    for _ in range(10):
        stale = [torch.full((n * w.numel(),), 1e30) for n in (1, 2, 4)]
        del stale
        error = (gradient(F.conv3d, x, w).double() - expected).abs().max()
        assert error < torch.finfo(dtype).eps * expected.abs().max() * (1 if dtype == torch.bfloat16 else 16)


@pytest.mark.parametrize("channels", [(1, 20), (3, 32)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_infinities_stay_where_they_are(dtype: torch.dtype, channels: tuple[int, int], layout: str) -> None:
    """The last pixel is read by the last tap alone; lanes beside it that do not exist must not meet it."""
    x = laid_out(torch.randn(2, channels[0], 9, 7).to(dtype), layout)
    x[0, 0, -1, -1] = torch.inf
    w = laid_out(torch.randn(channels[1], channels[0], 3, 3).to(dtype), layout).requires_grad_()
    with nnart_ops.config(conv_strategy="gemm"):
        y = F.conv2d(x, w)
        (grad_w,) = torch.autograd.grad(y.sum(), w)
    assert y[..., :-1, :].isfinite().all()
    assert y[..., :-1].isfinite().all()
    assert not y.isnan().any()
    reached = torch.zeros(w.shape, dtype=torch.bool)
    reached[:, 0, -1, -1] = True
    assert torch.equal(grad_w == torch.inf, reached)
    assert grad_w[~reached].isfinite().all()
