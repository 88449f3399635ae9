"""Convolution, with the names, arguments and results of ``torch.nn.functional``."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops._extension import plan_is_native
from nnart_ops.autograd.conv import autocast_operands, known_from_output
from nnart_ops.autograd.conv import conv as _conv
from nnart_ops.autograd.conv import conv_activation as _conv_activation
from nnart_ops.autograd.function import transforms_active
from nnart_ops.functional._epilogue import epilogue_of
from nnart_ops.functional._native import kernel_takes

Ints = int | Sequence[int]


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
    plain = (weight, bias, stride, padding, dilation, groups)
    if activation is None and residual is None:
        return _convolve(1, input, *plain)
    return _with_epilogue(1, input, plain, activation, residual)


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
    order that does not depend on the number of threads; the rest runs the native operation. Under ``torch.autocast``
    the operands are lowered as torch lowers them. Every order of derivative exists.

    Args:
        input: the images. The output is channels-last if input or weight is.
        weight: the filters.
        bias: added to each output channel, or ``None``.
        stride: steps between outputs, one number or one for each dimension.
        padding: zeros on each side, one number or one for each dimension; ``'valid'`` for none; ``'same'`` for as many
        as
            keep the size, the odd one at the end (stride 1 only).
        dilation: steps between the elements of a filter.
        groups: how many independent convolutions the channels are divided into.
        activation: applied to the result, ``y = activation(conv + bias + residual)``: a name of
            ``torch.nn.functional`` (``'relu'``, ``'silu'``, ...) with its defaults, or a module such as
            ``nn.LeakyReLU(0.1)``. In training a ReLU, ReLU6, Hardtanh, LeakyReLU, sigmoid or tanh keeps nothing but the
            output, any other one tensor more.
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
    plain = (weight, bias, stride, padding, dilation, groups)
    if activation is None and residual is None:
        return _convolve(2, input, *plain)
    return _with_epilogue(2, input, plain, activation, residual)


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
    plain = (weight, bias, stride, padding, dilation, groups)
    if activation is None and residual is None:
        return _convolve(3, input, *plain)
    return _with_epilogue(3, input, plain, activation, residual)


def _with_epilogue(dims: int, input: Tensor, plain: tuple[Any, ...], activation: Any, residual: Any) -> Tensor:
    """``activation(conv + residual)`` in one op if its derivative needs no more than the output, or none is wanted."""
    epilogue = epilogue_of(activation)
    call = _call_of(dims, input, *plain)
    takes_residual = residual is None or (call and kernel_takes(call[0], residual))
    if call is None or not takes_residual or transforms_active():
        pre = _convolve(dims, input, *plain)
        return epilogue.function(pre if residual is None else pre + _checked(dims, residual, pre))
    tensors = [*call[:3], residual]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in tensors if t is not None)
    if training and not known_from_output(epilogue.op, epilogue.numbers):
        if residual is None:
            return epilogue.function(_convolve(dims, input, *plain))
        pre = _conv_activation(*call[:3], residual, *call[3:], "identity", [])
        return epilogue.function(pre)
    return _conv_activation(*call[:3], residual, *call[3:], epilogue.op, list(epilogue.numbers))


def _checked(dims: int, residual: Any, pre: Tensor) -> Tensor:
    if not isinstance(residual, Tensor) or residual.shape != pre.shape:
        shape = list(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
        raise RuntimeError(f"conv{dims}d: residual must have the output's shape {list(pre.shape)}, but has {shape}")
    return residual


_NATIVE = {1: native.conv1d, 2: native.conv2d, 3: native.conv3d}


def _convolve(
    dims: int, input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Tensor:
    call = _call_of(dims, input, weight, bias, stride, padding, dilation, groups)
    if call is not None and not (torch.compiler.is_compiling() or transforms_active()):
        wanted = [torch.is_grad_enabled() and operand.requires_grad for operand in call[:2]]
        if plan_is_native(call[0], call[1], *call[3:], *wanted):
            call = None
    if call is None:
        return _NATIVE[dims](input, weight, bias, stride, padding, dilation, groups)
    return _conv(*call)


def _call_of(
    dims: int, input: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Any, ...] | None:
    """The arguments of the op, or None if native has to take the call."""
    operands: tuple[Tensor, ...] = (input, weight) if bias is None else (input, weight, bias)
    if not all(isinstance(operand, Tensor) for operand in operands):
        return None
    if torch.is_autocast_enabled("cpu") and input.is_cpu:
        operands = autocast_operands("cpu", *operands)
    if not kernel_takes(*operands):
        if all(kernel_takes(operand) for operand in operands):  # each for itself: they differ in dtype alone
            raise RuntimeError(_dtype_message(dims, *operands))
        return None
    try:
        steps = _numbers(stride, dims, "stride")
        gaps = _numbers(dilation, dims, "dilation")
        if isinstance(padding, str):
            margins = _margins(dims, padding, operands[1], steps, gaps)
        else:
            margins = _numbers(padding, dims, "padding") * 2
        groups = groups if type(groups) is int else operator.index(groups)
    except TypeError:  # no integers: torch's own message says which argument takes what
        return None
    return operands[0], operands[1], operands[2] if bias is not None else None, steps, margins, gaps, groups


def _numbers(value: Any, dims: int, name: str) -> list[Any]:
    """``value`` as one number for each dimension."""
    if type(value) is int:
        return [value] * dims
    if not isinstance(value, (tuple, list)):
        return [value if isinstance(value, torch.SymInt) else operator.index(value)] * dims
    if len(value) not in (1, dims):
        raise RuntimeError(
            f"conv{dims}d: expected {name} to be a single integer value or a list of {dims} values to match the "
            f"convolution dimensions, but got {name}={list(value)}"
        )
    numbers = [part if isinstance(part, (int, torch.SymInt)) else operator.index(part) for part in value]
    return numbers * dims if len(numbers) < dims else numbers


def _margins(dims: int, padding: str, weight: Tensor, stride: list[int], dilation: list[int]) -> list[int]:
    """The padding before each axis, then after each, that a string stands for."""
    if padding == "valid":
        return [0] * (2 * dims)
    if padding != "same":
        raise RuntimeError(f"conv{dims}d: Invalid padding string: {padding!r}; allowed are 'same', 'valid' and numbers")
    if any(step != 1 for step in stride):
        raise RuntimeError(
            f"conv{dims}d: padding='same' is not supported for strided convolutions; "
            f"stride must be 1, but got {stride}. Give padding as a number, or stride=1"
        )
    if weight.dim() != dims + 2 or any(gap < 1 for gap in dilation):
        return [0] * (2 * dims)  # the op refuses them, naming what is wrong
    total = [gap * (size - 1) for gap, size in zip(dilation, weight.shape[2:])]
    return [amount // 2 for amount in total] + [amount - amount // 2 for amount in total]


def _dtype_message(dims: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    text = f"conv{dims}d: Input type ({input.dtype}) and weight type ({weight.dtype})"
    if bias is not None:
        text += f" and bias type ({bias.dtype})"
    return (
        f"{text} should be the same; convert input with input.to({weight.dtype}) or the layer with .to({input.dtype})"
    )
