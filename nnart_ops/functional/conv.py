"""Convolution, with the names, arguments and results of ``torch.nn.functional``."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as native
from torch import Tensor

from nnart_ops._extension import plan_is_native
from nnart_ops.autograd.conv import conv as _conv
from nnart_ops.autograd.conv import conv_activation as _conv_activation
from nnart_ops.autograd.conv import conv_masked_activation as _conv_masked_activation
from nnart_ops.functional._convolution import Ints, Kind


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y[n, o, i] = b[o] + sum over c, k of w[o, c, k] * x[n, c, s i - p + d k]``, :func:`conv2d` in one dimension.

    Args: see :func:`conv2d`.

    Shape: input ``(N, C, L)`` or ``(C, L)``; weight ``(O, C / groups, K)``; bias ``(O,)``; output ``(N, O, L')`` or
        ``(O, L')``.

    Raises:
        RuntimeError: see :func:`conv2d`.

    >>> x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    >>> nnart_ops.functional.conv1d(x, torch.tensor([[[1.0, -1.0]]]))
    tensor([[[-1., -1., -1.]]])
    """
    return _CONV1D(input, weight, bias, (stride, padding, dilation, groups), activation, residual)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y[n, o, i, j] = b[o] + sum over c, k, l of w[o, c, k, l] * x[n, c, s i - p + d k, s j - p + d l]``.

    x is 0 outside the image. With groups, output channel o sums over its own group's input channels alone. float32,
    float64, bfloat16 and float16 on the CPU run on our kernels, which add in float32 (float64 for float64) and in an
    order that does not depend on the number of threads; subnormal numbers in bfloat16 may count as zero, as native's
    do. The rest runs the native operation. Under ``torch.autocast`` the operands are lowered as torch lowers them.
    Every order of derivative exists.

    Args:
        input: the images. The output is channels-last if input or weight is.
        weight: the filters.
        bias: added to each output channel, or ``None``.
        stride: steps between outputs, one number or one for each dimension.
        padding: zeros on each side, one number or one for each dimension; ``'valid'`` for none; ``'same'`` for as many
            as keep the size, the odd one at the end (stride 1 only).
        dilation: steps between the elements of a filter.
        groups: how many independent convolutions the channels are divided into.
        activation: applied to the result, ``y = activation(conv + bias + residual)``: a name of
            ``torch.nn.functional`` (``'relu'``, ``'silu'``, ...) with its defaults, or a module such as
            ``nn.LeakyReLU(0.1)``. In training a ReLU, ReLU6, Hardtanh, LeakyReLU, sigmoid or tanh keeps nothing but the
            output, any other one tensor more; a module with ``save="mask"``, such as
            ``nnart_ops.ReLU(save="mask")``, keeps one bit an element in the place of either.
        residual: added before the activation; of the output's shape and dtype.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; weight ``(O, C / groups, K, L)``; bias ``(O,)``; output
        ``(N, O, H', W')`` or ``(O, H', W')`` with ``H' = floor((H + 2 p - d (K - 1) - 1) / s) + 1``.

    Raises:
        RuntimeError: if sizes or dtypes do not fit together or a number is out of range.

    >>> x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    >>> nnart_ops.functional.conv2d(x, w, padding=1)
    tensor([[[[4., 6., 4.],
              [6., 9., 6.],
              [4., 6., 4.]]]])
    """
    return _CONV2D(input, weight, bias, (stride, padding, dilation, groups), activation, residual)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y[n, o, i] = b[o] + sum over c, k of w[o, c, k] * x[n, c, s i - p + d k]``, i and k triples: :func:`conv2d` in
    three dimensions.

    Args: see :func:`conv2d`.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; weight ``(O, C / groups, K, L, M)``; bias ``(O,)``; output
        ``(N, O, D', H', W')`` or ``(O, D', H', W')``.

    Raises:
        RuntimeError: see :func:`conv2d`.

    >>> nnart_ops.functional.conv3d(torch.ones(1, 2, 2, 2, 2), torch.ones(1, 2, 2, 2, 2))
    tensor([[[[[16.]]]]])
    """
    return _CONV3D(input, weight, bias, (stride, padding, dilation, groups), activation, residual)


def _read(
    kind: Kind, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Any, ...]:
    steps = kind.numbers(stride, "stride")
    gaps = kind.numbers(dilation, "dilation")
    if isinstance(padding, str):
        margins = _margins(kind, padding, weight, steps, gaps)
    else:
        margins = kind.numbers(padding, "padding") * 2
    return steps, margins, gaps, groups if type(groups) is int else operator.index(groups)


def _margins(kind: Kind, padding: str, weight: Tensor, stride: list[int], dilation: list[int]) -> list[int]:
    """The padding before each axis, then after each, that a string stands for."""
    if padding == "valid":
        return [0] * (2 * kind.dims)
    if padding != "same":
        raise RuntimeError(f"{kind.name}: Invalid padding string: {padding!r}; allowed are 'same', 'valid' and numbers")
    if any(step != 1 for step in stride):
        raise RuntimeError(
            f"{kind.name}: padding='same' is not supported for strided convolutions; "
            f"stride must be 1, but got {stride}. Give padding as a number, or stride=1"
        )
    if weight.dim() != kind.dims + 2 or any(gap < 1 for gap in dilation):
        return [0] * (2 * kind.dims)  # the op refuses them, naming what is wrong
    total = [gap * (size - 1) for gap, size in zip(dilation, weight.shape[2:])]
    return [amount // 2 for amount in total] + [amount - amount // 2 for amount in total]


def _leaves_to_native(x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> bool | None:
    *geometry, x_wants, weight_wants = rest
    wanted = {"forward": True, "dgrad": x_wants, "wgrad": weight_wants}
    return plan_is_native(x, x.shape, weight, geometry, False, bias is not None, wanted)


_CONV1D, _CONV2D, _CONV3D = KINDS = tuple(
    Kind(
        *(f"conv{dims}d", dims, _read, _leaves_to_native, _conv, _conv_activation, getattr(native, f"conv{dims}d")),
        op_masked=_conv_masked_activation,
    )
    for dims in (1, 2, 3)
)
