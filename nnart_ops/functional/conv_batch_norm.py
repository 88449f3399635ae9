"""Convolution and the batch normalization behind it, as one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.batch_norm import batch_norm as _batch_norm
from nnart_ops.autograd.batch_norm import statistics_dtype
from nnart_ops.autograd.conv_batch_norm import conv_batch_norm as _conv_batch_norm
from nnart_ops.autograd.conv_batch_norm import conv_moments as _conv_moments
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.function import transforms_active
from nnart_ops.functional._convolution import Ints, Kind
from nnart_ops.functional._epilogue import epilogue_of
from nnart_ops.functional.batch_norm import batch_norm, move_running, split_epilogue
from nnart_ops.functional.conv import KINDS

_KINDS = {kind.dims + 2: kind for kind in KINDS}


def conv_batch_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(batch_norm(conv(input)) + residual)``: :func:`batch_norm` of :func:`conv1d`, :func:`conv2d` or
    :func:`conv3d`, whichever the dimensions of ``weight`` say.

    With the running statistics a normalization is a factor and a summand for each channel ("Folding", Jacob et al.
    2018, arXiv:1712.05877, section 3.2): ``scale = norm_weight / sqrt(running_var + eps)`` goes into the weight and
    ``norm_bias + (bias - running_mean) scale`` into the bias, in float32 at least, wherever that moves fewer elements
    than the normalization would: nothing of the output's size is written but the output. It is not done where a
    gradient of ``norm_weight`` or ``norm_bias`` is wanted, which would be a difference of large sums. Every derivative
    exists. With the batch's statistics the two operations follow each other; on CUDA, where our implicit GEMM is asked
    for, it adds up the statistics of each tile that it writes, so that they cost no pass of their own.

    Args:
        input, weight, bias, stride, padding, dilation, groups: see :func:`conv2d`; the input has a batch dimension.
        running_mean, running_var, training, momentum, eps: see :func:`batch_norm`.
        norm_weight, norm_bias: one number a channel of the output, or ``None`` for 1 and 0.
        activation: a name of ``torch.nn.functional`` with its defaults, or a module such as ``nn.LeakyReLU(0.1)``.
        residual: added before the activation; of the output's shape.

    Shape: as :func:`conv1d`, :func:`conv2d` and :func:`conv3d`; statistics and norm_weight, norm_bias ``(O,)``.

    Raises:
        ValueError: as :func:`batch_norm`, and if the input has no batch dimension.
        RuntimeError: if sizes or dtypes do not fit together or a number is out of range.

    >>> x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    >>> mean, var = torch.tensor([1.0]), torch.tensor([4.0])
    >>> nnart_ops.functional.conv_batch_norm(x, w, None, mean, var, eps=0.0)
    tensor([[[[4.]]]])
    """
    kind = _KINDS.get(weight.dim())
    if kind is None or input.dim() != weight.dim():
        dims = weight.dim() if kind else "3 to 5"
        raise ValueError(f"conv_batch_norm: expected input and weight with {dims} dimensions, but got {input.dim()}")
    numbers = (stride, padding, dilation, groups)
    statistics = (running_mean, running_var)
    for name, t in zip(
        ("running_mean", "running_var", "norm_weight", "norm_bias"), (*statistics, norm_weight, norm_bias)
    ):
        if t is not None and t.shape != weight.shape[:1]:
            raise RuntimeError(
                f"conv_batch_norm: {name} must have {weight.shape[0]} elements, one for each channel of the output, "
                f"but has shape {list(t.shape)}"
            )
    norm = (*statistics, norm_weight, norm_bias, training, momentum, eps)
    call = kind.call(input, weight, bias, numbers) if input.is_cuda and not transforms_active() else None
    if not training and running_mean is not None and running_var is not None:
        of_norm = _want_gradients(norm_weight, norm_bias)
        if call is not None and not of_norm and not _want_gradients(input, weight, bias, residual):
            return _in_kernel(call, norm, activation, residual)
        if not of_norm and _folding_pays(kind, input, weight, numbers):
            folded = _folded(weight, bias, running_mean, running_var, norm_weight, norm_bias, eps)
            return kind(input, *folded, numbers, activation, residual)
    elif training and call is not None:
        return _with_moments(call, norm, activation, residual)
    return batch_norm(kind.plain(input, weight, bias, numbers), *norm, activation=activation, residual=residual)


def _want_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _folding_pays(kind: Kind, input: Tensor, weight: Tensor, numbers: tuple[Any, ...]) -> bool:
    """Whether the weight has fewer elements than the output, nearly: padding and the kernel's size do not count."""
    steps = kind.numbers(numbers[0], "stride")
    places = math.prod(-(-size // max(step, 1)) for size, step in zip(input.shape[2:], steps))
    return weight.numel() <= input.shape[0] * weight.shape[0] * places


def _folded(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The weight and the bias of the convolution that normalizes, too."""
    wide = statistics_dtype(weight.dtype)
    scale = torch.rsqrt(var.to(wide) + eps)
    if norm_weight is not None:
        scale = scale * norm_weight
    shift = (-mean if bias is None else bias - mean) * scale
    if norm_bias is not None:
        shift = shift + norm_bias
    return (weight * scale.view(-1, *(1,) * (weight.dim() - 1))).to(weight.dtype), shift.to(weight.dtype)


def _in_kernel(call: tuple[Any, ...], norm: tuple[Any, ...], activation: Any, residual: Tensor | None) -> Tensor:
    """With the running statistics, by one op without a derivative; ``call`` are the arguments of the convolution's."""
    mean, var, norm_weight, norm_bias, *_, eps = norm
    x, weight, bias, *where = call
    wide = statistics_dtype(x.dtype)
    inner, after = split_epilogue(epilogue_of(activation), False)
    what = (inner.op, list(inner.numbers))
    statistics = (mean.to(wide), var.to(wide), eps)
    y: Tensor = _conv_batch_norm(x, weight, bias, norm_weight, norm_bias, residual, *statistics, *where, *what)
    return after.function(y)


def _with_moments(call: tuple[Any, ...], norm: tuple[Any, ...], activation: Any, residual: Tensor | None) -> Tensor:
    """With the batch's statistics, which the convolution finds."""
    running_mean, running_var, norm_weight, norm_bias, _, momentum, eps = norm
    pre, mean, var = _conv_moments(*call)
    n = pre.numel() // pre.size(1)
    if n == 1 or eps <= 0:  # torch says what is wrong with that
        return batch_norm(pre, *norm, activation=activation, residual=residual)
    inner, after = split_epilogue(epilogue_of(activation), residual is not None)
    how = (mean, var, eps, True, inner.op, list(inner.numbers), memory_order(pre))
    y, _, _ = _batch_norm(pre, norm_weight, norm_bias, residual, *how)
    move_running(running_mean, running_var, mean, var, momentum, n)
    return after.function(y)
