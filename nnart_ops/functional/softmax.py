"""Softmax, its logarithm and the cross-entropy, with the names, arguments and errors of ``torch.nn.functional``.

float32, float64, bfloat16 and float16 on CPU and CUDA run on our kernels (half precision computes in float32), the rest
on the native operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd.cross_entropy import cross_entropy as _cross_entropy
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.softmax import softmax as _softmax
from nnart_ops.functional._native import device_kernel_takes, float32_under_autocast, trial_kernel_takes


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``dim``, computed from the differences to the largest element; the backward keeps
    the output. One read of memory as long as a row (or, for another than the last dimension, a block of neighbouring
    rows) fits a cache.

    Args:
        input: x.
        dim: the dimension along which the output sums to one.
        dtype: what the input is converted to first.

    Shape: any; the output has the input's and is contiguous, as torch's.

    Raises:
        IndexError: if ``dim`` is out of range.

    >>> nnart_ops.functional.softmax(torch.tensor([[1000.0, 1000.0], [0.0, 2000.0]]), dim=1)
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    x = _converted(input, dtype)
    place = _dimension(x, dim)
    if place is None:
        return native.softmax(input, dim, _stacklevel + 1, dtype)
    result: Tensor = _softmax(x, place, False)
    return result


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """The logarithm of :func:`softmax`, which does not underflow; the backward keeps the output.

    Args: see :func:`softmax`.

    Shape: any; the output has the input's and is contiguous, as torch's.

    Raises:
        IndexError: if ``dim`` is out of range.

    >>> nnart_ops.functional.log_softmax(torch.tensor([0.0, 1000.0]), dim=0)
    tensor([-1000.,     0.])
    """
    x = _converted(input, dtype)
    place = _dimension(x, dim)
    if place is None:
        return native.log_softmax(input, dim, _stacklevel + 1, dtype)
    result: Tensor = _softmax(x, place, True)
    return result


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`softmax` of ``-x``.

    Args: see :func:`softmax`.

    Shape: any; the output has the input's.

    Raises:
        IndexError: if ``dim`` is out of range.

    >>> nnart_ops.functional.softmin(torch.tensor([0.0, 1000.0]), dim=0)
    tensor([1., 0.])
    """
    if _dimension(input, dim) is None:
        return native.softmin(input, dim, _stacklevel + 1, dtype)
    return softmax(-input, dim, dtype=dtype)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    overwrite_logits: bool = False,
) -> Tensor:
    """``-log softmax(x)`` at the label, or its mean under given probabilities, for each row of logits x (Szegedy et al.
    2016, arXiv:1512.00567, for the smoothing).

    The forward reads the logits once and keeps them and two numbers a row; the backward reads them once and writes
    their gradient once. torch's keeps the logarithm of the softmax besides, and makes its gradient in three passes.
    Losses are added in float64, in an order that does not depend on the number of threads.

    Args:
        input: logits, the classes in dimension 1 (0 if that is the only one), in any layout.
        target: class labels (int64 or uint8), or probabilities of the input's shape and dtype. Probabilities that
            require a gradient run the native operation.
        weight: of each class.
        size_average, reduce: torch's older spelling of ``reduction``.
        ignore_index: the label of rows that have no loss.
        reduction: ``'mean'`` (weighted, over the rows that count), ``'sum'`` or ``'none'``.
        label_smoothing: how much of each target is spread evenly over all classes, between 0 and 1.
        overwrite_logits: whether the backward may write the gradient over the logits instead of into new memory. They
            must not be a leaf, nor read by anything after the backward; a second backward through them is an error,
            and so is ``create_graph``.

    Shape: input ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)``; labels the same without C, probabilities the same; output a
    scalar, or for ``'none'`` as the labels.

    Raises:
        ValueError: if batch sizes differ or ``reduction`` is unknown.
        IndexError: if a label is no class.
        RuntimeError: if another shape or dtype does not fit.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> nnart_ops.functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
    tensor([0.1269, 0.6931])
    """
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if not _cross_entropy_fits(input, target, weight, reduction, label_smoothing):
        return native.cross_entropy(
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    labels = target.long() if target.dtype is torch.uint8 else target
    compiling = torch.compiler.is_compiling()
    overwrite = overwrite_logits and input.requires_grad and not compiling
    if overwrite and input.is_leaf and torch.is_grad_enabled():
        raise RuntimeError("cross_entropy: overwrite_logits would destroy the logits, which are a leaf")
    dtype = input.dtype
    if dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(input.device.type):
        dtype = torch.float32  # as torch's autocast has it
    args = (input, labels, weight, reduction, ignore_index, float(label_smoothing), memory_order(input))
    if compiling:
        return _cross_entropy(overwrite, dtype, *args)
    try:
        return _cross_entropy(overwrite, dtype, *args)
    except RuntimeError as error:
        if "is out of bounds" in str(error):
            raise IndexError(str(error)) from None  # torch's type
        raise


def _converted(input: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``input`` in ``dtype``, or in float32 where torch's autocast would make it so: on CUDA alone."""
    if dtype is not None:
        return input.to(dtype)
    return float32_under_autocast(input) if input.is_cuda else input


def _dimension(x: Tensor, dim: int | None) -> int | None:
    """``dim`` from the front, or None if the native operation shall run or refuse."""
    dims = max(x.dim(), 1)
    if dim is None or not trial_kernel_takes(x) or not -dims <= dim < dims:
        return None
    return dim % dims


def _cross_entropy_fits(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> bool:
    """Whether our kernel takes the call; the native operation takes it, or says what is wrong with it, if not."""
    shape = input.shape
    if not shape or reduction not in ("none", "mean", "sum") or not 0 <= label_smoothing <= 1:
        return False
    class_dim = 0 if len(shape) == 1 else 1
    if weight is not None and (
        weight.shape != (shape[class_dim],) or weight.requires_grad or not device_kernel_takes(input, weight)
    ):
        return False
    if target.dtype in (torch.int64, torch.uint8):
        plain = target.device == input.device and type(target) is Tensor and device_kernel_takes(input)
        return plain and target.shape == shape[:class_dim] + shape[class_dim + 1 :]
    return target.shape == shape and not target.requires_grad and device_kernel_takes(input, target)
