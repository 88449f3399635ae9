"""Pooling, with the names, arguments and results of ``torch.nn.functional``.

float32, float64, bfloat16 and float16 on CPU and CUDA run on our kernels, in either memory format; every other dtype
and device, and arguments of a wrong type, go to the native operation. Gradients are added in a fixed order, whatever
the number of threads, so all of it runs under ``torch.use_deterministic_algorithms``. Under ``torch.autocast`` the
three-dimensional forms compute in float32, as torch's do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd import pooling as _ops
from nnart_ops.autograd.function import transforms_active
from nnart_ops.functional._native import float32_under_autocast, trial_kernel_takes

Size = int | Sequence[int]


def _as_sizes(value: Any, space: int) -> Any:
    """One number for each of the ``space`` axes; None for what is no number or list of numbers."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return (value,) * space
    if not (isinstance(value, (tuple, list)) and all(type(v) is int or isinstance(v, torch.SymInt) for v in value)):
        return None
    return tuple(value) * space if len(value) == 1 else tuple(value)


def _window(space: int, kernel_size: Any, stride: Any, *others: Any) -> Any:
    """The window's numbers as the ops take them, or None where native is to judge them."""
    steps = kernel_size if stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0) else stride
    sizes = [_as_sizes(value, space) for value in (kernel_size, steps, *others)]
    return None if any(size is None for size in sizes) else tuple(sizes)


def _under_autocast(input: Tensor, is_affected: bool) -> Tensor:
    """``input`` in float32 where torch's autocast would make it so: on the CPU alone."""
    return float32_under_autocast(input) if is_affected and input.is_cpu else input


def _like_native(y: Tensor, space: int) -> Tensor:
    """In three dimensions torch gives a contiguous result whatever the input's memory format."""
    return y.contiguous() if space == 3 else y


def _finds_offsets_again(input: Tensor) -> bool:
    """Whether a gradient of the op for maxima alone has to find where they stood."""
    return transforms_active() or (torch.compiler.is_compiling() and input.requires_grad and torch.is_grad_enabled())


def _refused(error: RuntimeError, name: str, *arguments: Any) -> Exception:
    """Our error for what torch refuses too, of torch's type and with its words behind ours."""
    try:
        getattr(native, name)(*arguments)
    except Exception as torchs:
        return type(torchs)(f"{name}: {str(error).partition(': ')[2]} ({torchs})")
    return error


def _max_pool(
    space: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    given = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    window = _window(space, kernel_size, stride, padding, dilation) if trial_kernel_takes(input) else None
    if window is None:
        return getattr(native, f"max_pool{space}d")(*given)
    input = _under_autocast(input, space == 3)
    try:
        if not return_indices and not _finds_offsets_again(input):
            y = _ops.max_pool(input, *window, ceil_mode)
            return y.contiguous() if space == 1 and input.is_cpu and not y.requires_grad else y  # as torch's
        y, offsets = _ops.max_pool_with_offsets(input, *window, ceil_mode)
    except RuntimeError as error:
        raise _refused(error, f"max_pool{space}d", *given) from None
    if not return_indices:
        return y
    return y, _ops.max_pool_indices(offsets, input.shape[input.dim() - space :], *window)


def _avg_pool(
    space: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    *divisor_override: int | None,
) -> Tensor:
    given = (input, kernel_size, stride, padding, ceil_mode, count_include_pad, *divisor_override)
    window = _window(space, kernel_size, stride, padding) if trial_kernel_takes(input) else None
    divisor = divisor_override[0] if divisor_override else None
    if window is None or divisor == 0:
        return getattr(native, f"avg_pool{space}d")(*given)
    input = _under_autocast(input, space == 3)
    try:
        return _like_native(_ops.avg_pool(input, *window, ceil_mode, count_include_pad, divisor or 0), space)
    except RuntimeError as error:
        raise _refused(error, f"avg_pool{space}d", *given) from None


def _output_size(space: int, input: Tensor, output_size: Any) -> Any:
    """One number for each axis, those that are None taken from the input; None where native is to judge."""
    if isinstance(output_size, (tuple, list)):
        if not len(output_size) == space < input.dim():
            return None
        sizes = input.shape[input.dim() - space :]
        output_size = [size if given is None else given for given, size in zip(output_size, sizes)]
    return _as_sizes(output_size, space)


def _adaptive_max_pool(space: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    sizes = _output_size(space, input, output_size) if trial_kernel_takes(input) else None
    if sizes is None:
        return getattr(native, f"adaptive_max_pool{space}d")(input, output_size, return_indices)
    input = _under_autocast(input, space == 3)
    try:
        if not return_indices and not _finds_offsets_again(input):
            return _like_native(_ops.adaptive_max_pool(input, sizes), space)
        y, offsets = _ops.adaptive_max_pool_with_offsets(input, sizes)
    except RuntimeError as error:
        raise _refused(error, f"adaptive_max_pool{space}d", input, output_size, return_indices) from None
    if not return_indices:
        return _like_native(y, space)
    indices = _ops.max_pool_indices(offsets, input.shape[input.dim() - space :], *_ops.ADAPTIVE)
    return _like_native(y, space), _like_native(indices, space)


def _adaptive_avg_pool(space: int, input: Tensor, output_size: Any) -> Tensor:
    sizes = _output_size(space, input, output_size) if trial_kernel_takes(input) else None
    if sizes is None:
        return getattr(native, f"adaptive_avg_pool{space}d")(input, output_size)
    input = _under_autocast(input, space == 3)
    try:
        return _like_native(_ops.adaptive_avg_pool(input, sizes), space)
    except RuntimeError as error:
        raise _refused(error, f"adaptive_avg_pool{space}d", input, output_size) from None


def _lp_pool(space: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Tensor:
    sizes = _window(space, kernel_size, stride) if trial_kernel_takes(input) else None
    if sizes is None:
        return getattr(native, f"lp_pool{space}d")(input, norm_type, kernel_size, stride, ceil_mode)
    if norm_type in (math.inf, -math.inf):
        sign = 1 if norm_type > 0 else -1
        return sign * _max_pool(space, sign * input.abs(), kernel_size, stride, 0, 1, ceil_mode, False)
    powers = input.pow(norm_type)
    means = _avg_pool(space, powers, kernel_size, stride, 0, ceil_mode, True)
    return (torch.sign(means) * native.relu(torch.abs(means))).mul(math.prod(sizes[0])).pow(1.0 / norm_type)


def _max_unpool(
    space: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    sizes = _window(space, kernel_size, stride, padding) if trial_kernel_takes(input) else None
    takes = sizes is not None and input.dim() in (space + 1, space + 2) and input.shape == indices.shape
    takes = takes and input.device == indices.device
    if not takes or indices.dtype != torch.int64 or any(size == 0 for size in input.shape[-space - 1 :]):
        return getattr(native, f"max_unpool{space}d")(input, indices, kernel_size, stride, padding, output_size)
    resolved = native._unpool_output_size(input, *map(list, sizes), output_size)  # type: ignore[attr-defined,arg-type]
    return _like_native(_ops.max_unpool(_under_autocast(input, True), indices, resolved), space)


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window, and its index in the plane if ``return_indices``.

    Padding never wins; NaN does; of equal elements the first is the maximum, is reported and gets the gradient. For the
    gradient, a byte an output is kept (two for windows of more than 256 elements); without one nothing is.

    Shape: input ``(N, C, L)`` or ``(C, L)``; output the same with pooled ``L``.
        The size is ``floor((n + 2 p - d (k - 1) - 1) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.max_pool1d(torch.arange(4.0).view(1, 4), 2)
    tensor([[1., 3.]])
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window, and its index in the plane if ``return_indices``.

    Padding never wins; NaN does; of equal elements the first is the maximum, is reported and gets the gradient. For the
    gradient, a byte an output is kept (two for windows of more than 256 elements); without one nothing is.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output the same with pooled ``H and W``.
        The size is ``floor((n + 2 p - d (k - 1) - 1) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.max_pool2d(torch.arange(4.0).view(1, 1, 4), (1, 2))
    tensor([[[1., 3.]]])
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window, and its index in the plane if ``return_indices``.

    Padding never wins; NaN does; of equal elements the first is the maximum, is reported and gets the gradient. For the
    gradient, a byte an output is kept (two for windows of more than 256 elements); without one nothing is.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; output the same with pooled ``D, H and W``.
        The size is ``floor((n + 2 p - d (k - 1) - 1) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.max_pool3d(torch.arange(4.0).view(1, 1, 1, 4), (1, 1, 2))
    tensor([[[[1., 3.]]]])
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The average of each window: its sum divided by its elements, those in the padding included if
    ``count_include_pad``.

    Shape: input ``(N, C, L)`` or ``(C, L)``; output the same with pooled ``L``.
        The size is ``floor((n + 2 p - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.avg_pool1d(torch.arange(4.0).view(1, 4), 2)
    tensor([[0.5000, 2.5000]])
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The average of each window: its sum divided by its elements, those in the padding included if
    ``count_include_pad``, or by ``divisor_override``.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output the same with pooled ``H and W``.
        The size is ``floor((n + 2 p - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.avg_pool2d(torch.arange(4.0).view(1, 1, 4), (1, 2))
    tensor([[[0.5000, 2.5000]]])
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The average of each window: its sum divided by its elements, those in the padding included if
    ``count_include_pad``, or by ``divisor_override``.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; output the same with pooled ``D, H and W``.
        The size is ``floor((n + 2 p - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.avg_pool3d(torch.arange(4.0).view(1, 1, 1, 4), (1, 1, 2))
    tensor([[[[0.5000, 2.5000]]]])
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_max_pool1d(
    input: Tensor,
    output_size: Size,
    return_indices: bool = False,
) -> Any:
    """The largest element of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. Ties, NaN and ``return_indices`` are as in :func:`max_pool1d`.

    Shape: input ``(N, C, L)`` or ``(C, L)``; output the same with ``output_size`` for ``L``.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_max_pool1d(torch.arange(4.0).view(1, 4), 2)
    tensor([[1., 3.]])
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Any:
    """The largest element of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. Ties, NaN and ``return_indices`` are as in :func:`max_pool2d`.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output the same with ``output_size`` for ``H and W``.
        An element of ``output_size`` that is ``None`` keeps the input's.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_max_pool2d(torch.arange(4.0).view(1, 1, 4), (1, 2))
    tensor([[[1., 3.]]])
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Any:
    """The largest element of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. Ties, NaN and ``return_indices`` are as in :func:`max_pool3d`.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; output the same with ``output_size`` for ``D, H and W``.
        An element of ``output_size`` that is ``None`` keeps the input's.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_max_pool3d(torch.arange(4.0).view(1, 1, 1, 4), (1, 1, 2))
    tensor([[[[1., 3.]]]])
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def adaptive_avg_pool1d(
    input: Tensor,
    output_size: Size,
) -> Tensor:
    """The average of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. An ``output_size`` of 1 is global average pooling.

    Shape: input ``(N, C, L)`` or ``(C, L)``; output the same with ``output_size`` for ``L``.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_avg_pool1d(torch.arange(4.0).view(1, 4), 2)
    tensor([[0.5000, 2.5000]])
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
) -> Tensor:
    """The average of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. An ``output_size`` of 1 is global average pooling.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output the same with ``output_size`` for ``H and W``.
        An element of ``output_size`` that is ``None`` keeps the input's.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_avg_pool2d(torch.arange(4.0).view(1, 1, 4), (1, 2))
    tensor([[[0.5000, 2.5000]]])
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
) -> Tensor:
    """The average of each of ``output_size`` windows that share the input among them: window ``o`` runs from
    ``floor(o n / m)`` to ``ceil((o + 1) n / m)``. An ``output_size`` of 1 is global average pooling.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; output the same with ``output_size`` for ``D, H and W``.
        An element of ``output_size`` that is ``None`` keeps the input's.

    Raises:
        RuntimeError: if ``output_size`` is negative or ``input`` has another number of dimensions.

    >>> nnart_ops.functional.adaptive_avg_pool3d(torch.arange(4.0).view(1, 1, 1, 4), (1, 1, 2))
    tensor([[[[0.5000, 2.5000]]]])
    """
    return _adaptive_avg_pool(3, input, output_size)


def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of each window, ``(sum of x^p)^(1 / p)`` with ``p = norm_type``, by :func:`avg_pool1d` of the powers.

    Shape: input ``(N, C, L)`` or ``(C, L)``; output the same with pooled ``L``.
        The size is ``floor((n - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.lp_pool1d(torch.ones(1, 4), 2.0, 4)
    tensor([[2.]])
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of each window, ``(sum of x^p)^(1 / p)`` with ``p = norm_type``, by :func:`avg_pool2d` of the powers.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``; output the same with pooled ``H and W``.
        The size is ``floor((n - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.lp_pool2d(torch.ones(1, 1, 4), 2.0, (1, 4))
    tensor([[[2.]]])
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The p-norm of each window, ``(sum of x^p)^(1 / p)`` with ``p = norm_type``, by :func:`avg_pool3d` of the powers.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; output the same with pooled ``D, H and W``.
        The size is ``floor((n - k) / s) + 1`` along an axis, ``ceil`` under ``ceil_mode``.

    Raises:
        RuntimeError: if the window does not fit the input or a number is out of range.

    >>> nnart_ops.functional.lp_pool3d(torch.ones(1, 1, 1, 4), 2.0, (1, 1, 4))
    tensor([[[[2.]]]])
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of :func:`max_pool1d`: each element at the index that it came from, zeros elsewhere. Of elements
    with one index the last stays, on every run.

    Shape: input ``(N, C, L)`` or ``(C, L)``, indices the same; output ``(n - 1) s - 2 p + k`` along an axis,
        or ``output_size`` where several sizes pool to the input's.

    Raises:
        RuntimeError: if an index lies outside the output.

    >>> nnart_ops.functional.max_unpool1d(torch.tensor([[5.0]]), torch.ones(1, 1, dtype=torch.int64), 2)
    tensor([[0., 5.]])
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of :func:`max_pool2d`: each element at the index that it came from, zeros elsewhere. Of elements
    with one index the last stays, on every run.

    Shape: input ``(N, C, H, W)`` or ``(C, H, W)``, indices the same; output ``(n - 1) s - 2 p + k`` along an axis,
        or ``output_size`` where several sizes pool to the input's.

    Raises:
        RuntimeError: if an index lies outside the output.

    >>> index = torch.ones(1, 1, 1, dtype=torch.int64)
    >>> nnart_ops.functional.max_unpool2d(torch.full((1, 1, 1), 5.0), index, (1, 2))
    tensor([[[0., 5.]]])
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of :func:`max_pool3d`: each element at the index that it came from, zeros elsewhere. Of elements
    with one index the last stays, on every run.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, indices the same; output ``(n - 1) s - 2 p + k`` along an
        axis, or ``output_size`` where several sizes pool to the input's.

    Raises:
        RuntimeError: if an index lies outside the output.

    >>> index = torch.ones(1, 1, 1, 1, dtype=torch.int64)
    >>> nnart_ops.functional.max_unpool3d(torch.full((1, 1, 1, 1), 5.0), index, (1, 1, 2))
    tensor([[[[0., 5.]]]])
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
