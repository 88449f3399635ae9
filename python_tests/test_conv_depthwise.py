"""Depthwise filters of every size of plane and line, where lines of pixels lie in order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from convcases import DTYPES, check

import nnart_ops

# From less than half a vector to several, even and odd, with room for two planes in one and without.
SIZES = ((7, 5), (11, 12), (9, 14), (16, 15), (40, 16), (35, 29), (5, 70))
WALKS: tuple[dict[str, Any], ...] = (
    {"padding": 1},
    {"padding": (0, 2)},
    {"padding": 2, "dilation": (2, 3)},
    {"stride": 2, "padding": 1},
    {"stride": 2, "padding": (2, 0)},
    {"stride": 2, "padding": (1, 2)},
    {"stride": (2, 1), "padding": 3},
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_sizes_of_planes(kernel: int, dtype: torch.dtype) -> None:
    """Three channels: a pair of planes and one that is left over."""
    for height, width in SIZES:
        for numbers in WALKS:
            dilation = numbers.get("dilation", (1, 1))
            padding = numbers["padding"] if isinstance(numbers["padding"], tuple) else (numbers["padding"],) * 2
            reaches = (
                size + 2 * pad > (kernel - 1) * by
                for size, pad, by in zip((height, width), padding, dilation, strict=True)
            )
            if not all(reaches):
                continue
            wide = torch.randn(2, 4, height + 1, width + 2).to(dtype)
            w, bias = (torch.randn(3, 1, kernel, kernel) / kernel).to(dtype), torch.randn(3).to(dtype)
            with nnart_ops.config(conv_strategy="depthwise"):
                check([wide[:, :3, :height, 1:-1].contiguous(), w, bias], {**numbers, "groups": 3})
                check([wide[:, 1:, 1:, :width], w, None], {**numbers, "groups": 3}, strides=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strategy", ["auto", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2), (2, 1, 1)], ids=str)
def test_flat_filters_in_three_dimensions(stride: Any, strategy: str, dtype: torch.dtype) -> None:
    """Each slice has a plane of its own to read, or none in the padding."""
    for size in (6, 20):
        x, w = torch.randn(2, 3, 4, size, size).to(dtype), (torch.randn(3, 1, 1, 3, 3) / 3).to(dtype)
        for padding in ((0, 1, 1), (1, 1, 1)):
            with nnart_ops.config(conv_strategy=strategy):
                check([x, w, torch.randn(3).to(dtype)], {"stride": stride, "padding": padding, "groups": 3})
