"""Batch normalization with what follows it, ``y = f((x - mean) w / sqrt(var + eps) + b + residual)``.

Of the parts of x's size the forward keeps x, and y where a residual hides from the backward what f was applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.activation import known_from_output
from nnart_ops.autograd.dropout import empty_in
from nnart_ops.autograd.function import OpFunction, differentiable

_ops = torch.ops.nnart_ops


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an input of ``dtype`` is normalized."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class BatchNormBackward(OpFunction):
    """``(grad_y, x, weight, bias, output, mean, var, eps, of_batch, wants_residual, name, numbers, order)`` to the
    gradients of x, weight, bias and the residual. Statistics of the batch are x's own: derivatives with respect to x go
    through them."""

    op = _ops.batch_norm_backward.default

    @staticmethod
    def fake(grad_y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        wants_residual, order = rest[5], rest[-1]
        wide = statistics_dtype(x.dtype)
        numbers = (x.new_empty(0, dtype=wide) if t is None else t.new_empty(t.shape) for t in (weight, bias))
        return empty_in(x, order), *numbers, empty_in(x, order) if wants_residual else x.new_empty(0)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        ctx.how = inputs[7:12]
        ctx.set_materialize_grads(False)
        return inputs[:7]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i in range(5) if ctx.needs_input_grad[i]]

        def product(*inputs: Tensor) -> Tensor:
            given = list(tensors)
            for i, t in zip(wanted, inputs):
                given[i] = t
            parts = ((y * g).sum() for y, g in zip(_gradients(*given, *ctx.how), grads) if g is not None)
            return sum(parts, tensors[5].new_zeros(()))

        results: list[Tensor | None] = [None] * 13
        if wanted:  # not by vjp: it would leave the transform before the backward, in which further graphs begin
            found = torch.func.grad(product, tuple(range(len(wanted))))(*(tensors[i] for i in wanted))
            for i, t in zip(wanted, found):
                results[i] = t
        return tuple(results)


def _gradients(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    of_batch: bool,
    wants_residual: bool,
    name: str,
    numbers: Sequence[float],
) -> tuple[Tensor, ...]:
    """What the op computes, in torch operations."""
    wide = mean.dtype
    others = [d for d in range(x.dim()) if d != 1]
    if of_batch:
        var, mean = torch.var_mean(x.to(wide), others, correction=0)

    def along(t: Tensor) -> Tensor:
        return t.to(wide).reshape([-1 if d == 1 else 1 for d in range(x.dim())])

    inverse = along(torch.rsqrt(var + eps))
    normal = (x.to(wide) - along(mean)) * inverse
    scale = inverse if weight is None else inverse * along(weight)
    grad_u = grad_y.to(wide)
    if output is not None:
        if name != "identity":
            grad_u = getattr(_activation, name).backward(grad_u, output.to(wide), *numbers)
    else:
        u = normal if weight is None else normal * along(weight)
        grad_u = _activation.Applied(name, numbers).slope(grad_u, u if bias is None else u + along(bias))
    grad_bias, grad_weight = grad_u.sum(others), (grad_u * normal).sum(others)
    through = grad_u
    if of_batch:
        n = x.numel() // x.shape[1]
        through = grad_u - along(grad_bias) / n - normal * along(grad_weight) / n
    none = x.new_zeros(0)
    return (
        (through * scale).to(x.dtype),
        none.to(wide) if weight is None else grad_weight.to(weight.dtype),
        none.to(wide) if bias is None else grad_bias.to(bias.dtype),
        grad_u.to(x.dtype) if wants_residual else none,
    )


class BatchNorm(OpFunction):
    """``(x, weight, bias, residual, mean, var, eps, of_batch, name, numbers, order)`` to y and, where mean and var are
    None, the batch's; they are no variables. Given ones may be the batch's, too: derivatives go through them."""

    op = _ops.batch_norm.default

    @staticmethod
    def fake(x: Tensor, weight: Any, bias: Any, residual: Any, mean: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        size = x.shape[1] if mean is None else 0
        found = (x.new_empty([size], dtype=statistics_dtype(x.dtype)) for _ in range(2))
        return empty_in(x, rest[-1]), *found

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        x, weight, bias, residual, mean, var, *ctx.how = inputs
        y, found_mean, found_var = output
        ctx.mark_non_differentiable(found_mean, found_var)
        ctx.set_materialize_grads(False)
        ctx.has_residual = residual is not None
        if mean is None:
            mean, var = found_mean, found_var
        return x, weight, bias, y if ctx.has_residual and ctx.how[2] != "identity" else None, mean, var

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if grad_y is None:
            return (None,) * 11
        x, weight, bias, output, mean, var = ctx.saved_tensors
        eps, of_batch, name, numbers, order = ctx.how
        if ctx.has_residual and not known_from_output(name, numbers):
            raise NotImplementedError(
                f"batch_norm: the output of {name} with {list(numbers)} does not give its derivative; "
                "apply the activation to the result of batch_norm with a residual instead"
            )
        wants = ctx.needs_input_grad
        apart = wants[3] and name != "identity"
        grad_x, grad_weight, grad_bias, grad_residual = batch_norm_backward(
            *(grad_y, x, weight, bias, output, mean, var, eps, of_batch, apart, name, numbers, order)
        )
        return (
            grad_x if wants[0] else None,
            grad_weight if wants[1] else None,
            grad_bias if wants[2] else None,
            (grad_residual if apart else grad_y) if wants[3] else None,
            *(None,) * 7,
        )


batch_norm_backward = differentiable(BatchNormBackward)
batch_norm = differentiable(BatchNorm)
