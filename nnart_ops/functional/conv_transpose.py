"""Transposed convolution, with the names, arguments and results of ``torch.nn.functional``."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as native
from torch import Tensor

from nnart_ops._extension import plan_is_native
from nnart_ops.autograd.conv import conv_transpose as _conv_transpose
from nnart_ops.autograd.conv import conv_transpose_activation as _conv_transpose_activation
from nnart_ops.functional._convolution import Ints, Kind


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y[n, o, t] = b[o] + sum over c and all i, k with s i - p + d k = t of w[c, o, k] * x[n, c, i]``,
    :func:`conv_transpose2d` in one dimension.

    Args: see :func:`conv_transpose2d`.

    Shape: input ``(N, C, L)`` or ``(C, L)``; weight ``(C, O / groups, K)``; bias ``(O,)``; output ``(N, O, L')`` or
        ``(O, L')``.

    Raises:
        RuntimeError: see :func:`conv_transpose2d`.

    >>> x = torch.tensor([[[1.0, 2.0]]])
    >>> nnart_ops.functional.conv_transpose1d(x, torch.tensor([[[1.0, 10.0, 100.0]]]), stride=2)
    tensor([[[  1.,  10., 102.,  20., 200.]]])
    """
    numbers = (stride, padding, output_padding, groups, dilation)
    return _CONV_TRANSPOSE1D(input, weight, bias, numbers, activation, residual)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Adds each input pixel, times the filter, to the output: the gradient of :func:`conv2d` in its input.

    ``y[n, o, t, u] = b[o] + sum of w[c, o, k, l] * x[n, c, i, j]`` over c and all i, j, k, l with ``s i - p + d k = t``
    and ``s j - p + d l = u``. What runs on our kernels, in which order sums are taken, autocast and derivatives are as
    in :func:`conv2d`.

    Args:
        input: the images. The output is channels-last if input or weight is.
        weight: the filters.
        bias: added to each output channel, or ``None``.
        stride: steps between what two input pixels are added to, one number or one for each dimension.
        padding: lines that are cut off each side of the output, one number or one for each dimension.
        output_padding: lines that are added at the end of each dimension; less than stride or dilation.
        groups: how many independent convolutions the channels are divided into.
        dilation: steps between the elements of a filter.
        activation: applied to the result, ``y = activation(conv_transpose + bias + residual)``, as in :func:`conv2d`.
        residual: added before the activation; of the output's shape and dtype.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; weight ``(C, O / groups, K, L)``; bias ``(O,)``; output
        ``(N, O, H', W')`` or ``(O, H', W')`` with ``H' = (H - 1) s - 2 p + d (K - 1) + output_padding + 1``.

    Raises:
        RuntimeError: if sizes or dtypes do not fit together or a number is out of range.

    >>> x, w = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> nnart_ops.functional.conv_transpose2d(x, w)
    tensor([[[[1., 2., 1.],
              [2., 4., 2.],
              [1., 2., 1.]]]])
    """
    numbers = (stride, padding, output_padding, groups, dilation)
    return _CONV_TRANSPOSE2D(input, weight, bias, numbers, activation, residual)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y[n, o, t] = b[o] + sum over c and all i, k with s i - p + d k = t of w[c, o, k] * x[n, c, i]``, i, k and t
    triples: :func:`conv_transpose2d` in three dimensions.

    Args: see :func:`conv_transpose2d`.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; weight ``(C, O / groups, K, L, M)``; bias ``(O,)``; output
        ``(N, O, D', H', W')`` or ``(O, D', H', W')``.

    Raises:
        RuntimeError: see :func:`conv_transpose2d`.

    >>> nnart_ops.functional.conv_transpose3d(torch.ones(1, 2, 2, 2, 2), torch.ones(2, 3, 2, 2, 2), stride=2).shape
    torch.Size([1, 3, 4, 4, 4])
    """
    numbers = (stride, padding, output_padding, groups, dilation)
    return _CONV_TRANSPOSE3D(input, weight, bias, numbers, activation, residual)


def _read(
    kind: Kind,
    input: Tensor,
    weight: Tensor,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> tuple[Any, ...] | None:
    steps, gaps = kind.numbers(stride, "stride"), kind.numbers(dilation, "dilation")
    margins, extra = kind.numbers(padding, "padding"), kind.numbers(output_padding, "output_padding")
    groups = groups if type(groups) is int else operator.index(groups)
    batched = input.dim() == kind.dims + 2
    if weight.dim() != kind.dims + 2 or not (batched or input.dim() == kind.dims + 1):
        return list(input.shape), steps, margins * 2, gaps, groups  # the op refuses them, naming what is wrong
    for more, step, gap in zip(extra, steps, gaps):
        if more < 0 or more >= max(step, gap, 1):
            problem = "negative output_padding is not supported"
            if more >= 0:
                problem = "output padding must be smaller than either stride or dilation"
            raise RuntimeError(
                f"{kind.name}: {problem}, but got output_padding={extra} with stride={steps} and dilation={gaps}"
            )
        if more >= step:
            return None  # lines that no input reaches, as the gradient of a convolution never has them
    sizes = [
        (size - 1) * step - 2 * margin + gap * (taps - 1) + more + 1
        for size, step, margin, gap, taps, more in zip(
            input.shape[-kind.dims :], steps, margins, gaps, weight.shape[2:], extra
        )
    ]
    if any(size < 1 for size in sizes) and all(number >= 0 for number in margins):
        raise RuntimeError(
            f"{kind.name}: Given input size per channel: {list(input.shape[-kind.dims :])}. Calculated output size per "
            f"channel: {sizes}. Output size is too small; padding={margins} cuts off too much"
        )
    channels = weight.shape[1] * groups
    return [*input.shape[: int(batched)], channels, *sizes], steps, margins * 2, gaps, groups


def _leaves_to_native(x: Tensor, weight: Tensor, bias: Any, y_size: list[int], *rest: Any) -> bool | None:
    *geometry, x_wants, weight_wants = rest
    wanted = {"forward": x_wants, "dgrad": True, "wgrad": weight_wants}
    return plan_is_native(x, y_size, weight, geometry, True, bias is not None, wanted)


_CONV_TRANSPOSE1D, _CONV_TRANSPOSE2D, _CONV_TRANSPOSE3D = (
    Kind(
        f"conv_transpose{dims}d",
        dims,
        _read,
        _leaves_to_native,
        _conv_transpose,
        _conv_transpose_activation,
        getattr(native, f"conv_transpose{dims}d"),
    )
    for dims in (1, 2, 3)
)
