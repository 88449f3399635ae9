"""Convolution with the batch normalization behind it: what the op of one leaves to the other.

``conv_moments`` finds the statistics of the convolution's result while it is computed, for ``batch_norm`` to go by.
``conv_batch_norm`` normalizes with given statistics before anything is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.activation import known_from_output
from nnart_ops.autograd.batch_norm import batch_norm_backward, statistics_dtype
from nnart_ops.autograd.conv import Conv
from nnart_ops.autograd.conv import conv as _conv
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.function import OpFunction, by_sample, differentiable

_ops = torch.ops.nnart_ops


class ConvMoments(OpFunction):
    """``(x, weight, bias, *geometry)`` to y and the mean and the variance of its channels, which are no variables."""

    op = _ops.conv_moments.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        found = (x.new_empty([weight.shape[0]], dtype=statistics_dtype(x.dtype)) for _ in range(2))
        return Conv.fake(x, weight, *rest), *found

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.where = inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *_: Any) -> tuple[Any, ...]:
        grads = (None,) * 3 if grad_y is None else Conv.gradients(ctx, grad_y, *ctx.saved_tensors)
        return *grads, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return by_sample(ConvMoments.apply, info, in_dims, *args)


class ConvBatchNorm(OpFunction):
    """``(x, weight, bias, norm_weight, norm_bias, residual, mean, var, eps, *geometry, name, numbers)`` to y; mean and
    var are no variables. The backward convolves again."""

    op = _ops.conv_batch_norm.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        return Conv.fake(x, weight, bias, *rest[6:10])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        x, weight, bias, norm_weight, norm_bias, residual, mean, var, ctx.eps, *where, ctx.name, ctx.numbers = inputs
        ctx.where = where
        keeps_output = residual is not None and ctx.name != "identity"
        return x, weight, bias, norm_weight, norm_bias, output if keeps_output else None, mean, var

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        x, weight, bias, norm_weight, norm_bias, output, mean, var = ctx.saved_tensors
        if output is not None and not known_from_output(ctx.name, ctx.numbers):
            raise NotImplementedError(
                f"conv_batch_norm: the output of {ctx.name} with {list(ctx.numbers)} does not give its derivative; "
                "apply the activation to the result of conv_batch_norm with a residual instead"
            )
        wants = ctx.needs_input_grad
        apart = wants[5] and ctx.name != "identity"
        pre = _conv(x, weight, bias, *ctx.where)
        how = (ctx.eps, False, apart, ctx.name, ctx.numbers, memory_order(pre))
        grad, grad_weight, grad_bias, grad_residual = batch_norm_backward(
            *(grad_y, pre, norm_weight, norm_bias, output, mean, var), *how
        )
        return (
            *Conv.gradients(ctx, grad, x, weight),
            grad_weight if wants[3] else None,
            grad_bias if wants[4] else None,
            (grad_residual if apart else grad_y) if wants[5] else None,
            *(None,) * 9,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return by_sample(ConvBatchNorm.apply, info, in_dims, *args)


conv_moments = differentiable(ConvMoments)
conv_batch_norm = differentiable(ConvBatchNorm)
