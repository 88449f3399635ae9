"""Tensors of more than 2^31 elements: places beyond the reach of a 32-bit index."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as native
from tolerances import assert_close
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F
from nnart_ops import _extension

SIDE = 32800
LAST = 40  # lines that are not zero, at the very end
FREE = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def almost_zero(channels: int) -> tuple[Tensor, Tensor]:
    """2.15e9 elements of which the last lines are random, and those lines by themselves."""
    large = torch.zeros(1, channels, SIDE, SIDE // 2, dtype=torch.bfloat16)
    end = torch.randn(1, channels, LAST, SIDE // 2).bfloat16()
    large[:, :, -LAST:] = end
    assert large.numel() > 2**31
    return large, end


@pytest.mark.skipif(FREE < 14 << 30, reason="needs 14 GiB of free memory")
@pytest.mark.parametrize(
    ("strategy", "groups"),
    [("depthwise", 4), *(pytest.param(*row, marks=pytest.mark.slow) for row in (("gemm", 1), ("grouped", 2)))],
)
def test_more_than_2_to_the_31_elements(strategy: str, groups: int) -> None:
    x, end = almost_zero(4)
    w = torch.randn(4, 4 // groups, 3, 3).bfloat16()
    kernel, geometry = 3, ([1, 1], [1, 1, 1, 1], [1, 1], groups)
    inner = slice(kernel, None)
    with nnart_ops.config(conv_strategy=strategy):
        y = F.conv2d(x, w, padding=1, groups=groups)
        assert _extension.last_conv_plan(x.device)[0] == strategy
        expected, exact = (
            native.conv2d(e, v, padding=1, groups=groups) for e, v in ((end, w), (end.double(), w.double()))
        )
        assert_close(y[:, :, -LAST:][:, :, inner], expected[:, :, inner], exact[:, :, inner], "y")
        assert not y[:, :, : -LAST - 1].any()
        del y
        grad_x = torch.ops.nnart_ops.conv_transpose(x, w, None, list(x.shape), *geometry)
        expected, exact = (
            torch.nn.grad.conv2d_input(list(end.shape), v, e, padding=1, groups=groups)
            for e, v in ((end, w), (end.double(), w.double()))
        )
        assert_close(grad_x[:, :, -LAST:][:, :, inner], expected[:, :, inner], exact[:, :, inner], "grad_x")
        del grad_x
        grad_w = torch.ops.nnart_ops.conv_wgrad(x, x, [3, 3], *geometry)
        expected, exact = (
            torch.nn.grad.conv2d_weight(e, list(w.shape), e, padding=1, groups=groups) for e in (end, end.double())
        )
        assert_close(grad_w, expected, exact, "grad_weight")
