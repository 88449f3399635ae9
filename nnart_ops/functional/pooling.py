"""Pooling, with the names, arguments and results of ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd.function import transforms_active
from nnart_ops.autograd.pooling import max_pool2d as _values
from nnart_ops.autograd.pooling import max_pool2d_with_indices as _with_indices
from nnart_ops.functional._native import kernel_takes

_MAX_ELEMENTS = 2**31  # of a plane; the kernels keep an index in 32 bits


def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window: ``y[i, j] = max over (m, n) of x[s i + d m - p, s j + d n - p]``.

    Padding never wins; NaN does; of equal elements the first is the maximum, whose index is reported and which gets the
    gradient. float32, float64, bfloat16 and float16 on the CPU run on our kernels, the rest on the native operation.
    The backward adds in a fixed order, whatever the number of threads.

    Args:
        input: the images, in either memory format; the output has the same.
        kernel_size: height and width of the window, or one number for both.
        stride: steps between windows; ``kernel_size`` if ``None``.
        padding: rows and columns of minus infinity on each side, at most half of ``kernel_size``.
        dilation: steps between the elements of a window.
        ceil_mode: whether a last window that leaves the input counts.
        return_indices: whether to return the maxima's places ``h * W + w`` (int64) too.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output ``(N, C, H', W')`` or ``(C, H', W')`` with
        ``H' = floor((H + 2 p - d (k - 1) - 1) / s) + 1`` (``ceil`` under ``ceil_mode``).

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> nnart_ops.functional.max_pool2d(x, 2)
    tensor([[[[ 5.,  7.],
              [13., 15.]]]])
    """
    if not (
        kernel_takes(input)
        and (input.numel() < _MAX_ELEMENTS or input.size(-1) * input.size(-2) < _MAX_ELEMENTS)
        and _are_integers(kernel_size, padding, dilation)
        and (stride is None or _are_integers(stride))
    ):
        native_max_pool2d: Any = native.max_pool2d
        return native_max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    steps = () if stride is None else stride
    if return_indices or (input.requires_grad and torch.is_grad_enabled()) or transforms_active():
        y, indices = _with_indices(input, kernel_size, steps, padding, dilation, ceil_mode)
        return (y, indices) if return_indices else y
    return _values(input, kernel_size, steps, padding, dilation, ceil_mode)


def _are_integers(*values: Any) -> bool:
    for value in values:
        if type(value) is int:
            continue
        if not (isinstance(value, (tuple, list)) and all(isinstance(part, (int, torch.SymInt)) for part in value)):
            return False
    return True
