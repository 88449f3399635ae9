"""PReLU: ``y = x`` where ``x > 0``, else ``w x``, with one weight or one for each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import OpFunction, batch_first, differentiable

_ops = torch.ops.nnart_ops


class PReluBackward(OpFunction):
    """``grad_x = grad_y`` where ``x > 0``, else ``w grad_y``; ``grad_w`` is the sum of ``x grad_y`` elsewhere."""

    op = _ops.prelu_backward.default

    @staticmethod
    def fake(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return PRelu.fake(x, weight), torch.empty_like(weight)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Tensor, ...]:
        return inputs

    @staticmethod
    def backward(
        ctx: Any, grad_grad_x: Tensor | None, grad_grad_weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_y, x, weight = ctx.saved_tensors
        grad_grad_x = torch.zeros_like(x) if grad_grad_x is None else grad_grad_x
        grad_grad_weight = torch.zeros_like(weight) if grad_grad_weight is None else grad_grad_weight
        w, v = _for_channels(weight, x), _for_channels(grad_grad_weight, x)
        kept, zero = x > 0, torch.zeros_like(x)
        return (
            torch.where(kept, grad_grad_x, w * grad_grad_x + v * x),
            torch.where(kept, zero, v * grad_y),
            _sum_to_weight(torch.where(kept, zero, grad_grad_x * grad_y), weight),
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, x: Tensor, weight: Tensor) -> Any:
        batch = info.batch_size
        grad_y, x = batch_first(batch, grad_y, in_dims[0]), batch_first(batch, x, in_dims[1])
        weight = batch_first(batch, weight, in_dims[2])
        w = _for_batches(weight, x)
        kept = x > 0
        terms = torch.where(kept, torch.zeros_like(x), x * grad_y)
        return (torch.where(kept, grad_y, w * grad_y), terms.sum_to_size(w.shape).reshape(weight.shape)), (0, 0)

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Any, x_tangent: Any, weight_tangent: Any) -> tuple[Tensor, Tensor]:
        grad_y, x, weight = ctx.saved_tensors
        kept, zero, w = x > 0, torch.zeros_like(x), _for_channels(weight, x)
        grad_x_tangent, terms = zero, zero
        if grad_y_tangent is not None:
            grad_x_tangent = torch.where(kept, grad_y_tangent, w * grad_y_tangent)
            terms = terms + torch.where(kept, zero, x * grad_y_tangent)
        if x_tangent is not None:
            terms = terms + torch.where(kept, zero, x_tangent * grad_y)
        if weight_tangent is not None:
            grad_x_tangent = grad_x_tangent + torch.where(kept, zero, _for_channels(weight_tangent, x) * grad_y)
        return grad_x_tangent, _sum_to_weight(terms, weight)


class PRelu(OpFunction):
    """``x`` where ``x > 0``, else ``w x``."""

    op = _ops.prelu.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor) -> Tensor:
        if weight.numel() == 1 or _is_channels_last(x):
            return torch.empty_like(x)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        return inputs

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        grad_x, grad_weight = _backward(grad_y, *ctx.saved_tensors)
        return grad_x, grad_weight

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor) -> Any:
        if in_dims[1] is None and x.dim() > 2:  # fold the batch into the first dimension: the channels stay the second
            x = batch_first(info.batch_size, x, in_dims[0])
            return PRelu.apply(x.flatten(0, 1), weight).view(x.shape), 0
        x, weight = batch_first(info.batch_size, x, in_dims[0]), batch_first(info.batch_size, weight, in_dims[1])
        return torch.where(x > 0, x, _for_batches(weight, x) * x), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        tangent, kept = torch.zeros_like(x), x > 0
        if x_tangent is not None:
            tangent = tangent + torch.where(kept, x_tangent, _for_channels(weight, x) * x_tangent)
        if weight_tangent is not None:
            tangent = tangent + torch.where(kept, torch.zeros_like(x), _for_channels(weight_tangent, x) * x)
        return tangent


def _is_channels_last(x: Tensor) -> bool:
    """Whether dimension 1 is innermost and the others lie densely in their order."""
    if x.dim() <= 2 or x.stride(1) != 1:
        return False
    expected = x.size(1)
    for d in range(x.dim() - 1, -1, -1):
        if d == 1:
            continue
        if x.stride(d) != expected and x.size(d) != 1:
            return False
        expected = expected * x.size(d)
    return True


def _for_channels(weight: Tensor, x: Tensor) -> Tensor:
    """``weight`` as it multiplies ``x``: along dimension 1."""
    return weight.reshape(()) if weight.numel() == 1 else weight.view(1, -1, *(1,) * (x.dim() - 2))


def _for_batches(weight: Tensor, x: Tensor) -> Tensor:
    """``(B, weights)`` as it multiplies ``(B, N, C, ...)``: along dimensions 0 and 2."""
    shape = [1] * x.dim()
    shape[0] = weight.shape[0]
    if weight[0].numel() != 1:
        shape[2] = weight.shape[1]
    return weight.reshape(shape)


def _sum_to_weight(terms: Tensor, weight: Tensor) -> Tensor:
    return terms.sum_to_size(_for_channels(weight, terms).shape).reshape(weight.shape)


_backward = differentiable(PReluBackward)
prelu = differentiable(PRelu)
