"""Gated activations: ``y = value f(gate)``, both of them halves of one tensor or a tensor each.

The backward reads value and gate again, and computes ``f(gate)`` anew: nothing else is kept. With G the gradient of y,
value gets ``G f(gate)`` and gate ``G value f'(gate)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.activation import Applied
from nnart_ops.autograd.dropout import empty_in, order_in_batch
from nnart_ops.autograd.function import OpFunction, batch_first, differentiable

_ops = torch.ops.nnart_ops


def _halves(x: Tensor, gate: Tensor | None, dim: int, gate_first: bool) -> tuple[Tensor, Tensor]:
    """Value and gate."""
    if gate is not None:
        return x, gate
    first, second = x.chunk(2, dim)
    return (second, first) if gate_first else (first, second)


def _joined(value: Tensor, gate: Tensor, packed: bool, dim: int, gate_first: bool) -> tuple[Tensor, Tensor | None]:
    """What belongs to x and to gate of a gradient by value and by gate."""
    if not packed:
        return value, gate
    return torch.cat((gate, value) if gate_first else (value, gate), dim), None


def _batched(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else batch_first(info.batch_size, t, in_dims[i]) for i, t in enumerate(tensors)]


class GatedBackward(OpFunction):
    """``(grad_y, x, gate, name, numbers, dim, gate_first, order)`` to the gradients of x and gate."""

    op = _ops.gated_backward.default

    @staticmethod
    def fake(grad_y: Tensor, x: Tensor, gate: Tensor | None, *how: Any) -> tuple[Tensor, Tensor]:
        return empty_in(x, how[-1]), x.new_empty([0]) if gate is None else empty_in(x, how[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        ctx.name, ctx.numbers, ctx.dim, ctx.gate_first, ctx.order = inputs[3:]
        return inputs[:3]

    @staticmethod
    def backward(ctx: Any, x_v: Tensor | None, gate_v: Tensor | None) -> tuple[Any, ...]:
        # With v and w for the gradients of value and gate: G gets v f + w value f', value w G f', gate
        # v G f' + w G value f''.
        grad_y, x, gate_or_none = ctx.saved_tensors
        packed = gate_or_none is None
        value, gate = _halves(x, gate_or_none, ctx.dim, ctx.gate_first)
        x_v = torch.zeros_like(x) if x_v is None else x_v
        gate_v = torch.zeros_like(x) if gate_v is None and not packed else gate_v
        v, w = _halves(x_v, None if packed else gate_v, ctx.dim, ctx.gate_first)
        f = Applied(ctx.name, ctx.numbers)
        grad_grad_y = grad_x = grad_gate = None
        if ctx.needs_input_grad[0]:
            grad_grad_y = v * f.value(gate) + f.slope(w * value, gate)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            to_gate = f.slope(v * grad_y, gate)
            curvature = f.curvature(w * grad_y * value, gate)
            to_gate = to_gate if curvature is None else to_gate + curvature
            grad_x, grad_gate = _joined(f.slope(w * grad_y, gate), to_gate, packed, ctx.dim, ctx.gate_first)
        return grad_grad_y, grad_x, grad_gate, *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Any, x: Any, gate: Any, *how: Any) -> Any:
        name, numbers, dim, gate_first, order = how
        grad_y, x, gate = _batched(info, in_dims, grad_y, x, gate)
        grads = GatedBackward.apply(grad_y, x, gate, name, numbers, dim + 1, gate_first, order_in_batch(order))
        return grads, (0, None if gate is None else 0)

    @staticmethod
    def jvp(ctx: Any, grad_y_t: Any, x_t: Any, gate_t: Any, *_: None) -> tuple[Tensor, Tensor]:
        grad_y, x, gate_or_none = ctx.saved_tensors
        packed = gate_or_none is None
        value, gate = _halves(x, gate_or_none, ctx.dim, ctx.gate_first)
        x_t = torch.zeros_like(x) if x_t is None else x_t
        gate_t = torch.zeros_like(x) if gate_t is None and not packed else gate_t
        value_t, g_t = _halves(x_t, None if packed else gate_t, ctx.dim, ctx.gate_first)
        f = Applied(ctx.name, ctx.numbers)
        of_value = f.slope(grad_y * g_t, gate)
        of_gate = f.slope(grad_y * value_t, gate)
        curvature = f.curvature(grad_y * value * g_t, gate)
        of_gate = of_gate if curvature is None else of_gate + curvature
        if grad_y_t is not None:
            of_value = of_value + grad_y_t * f.value(gate)
            of_gate = of_gate + f.slope(grad_y_t * value, gate)
        of_x, of_gate_tensor = _joined(of_value, of_gate, packed, ctx.dim, ctx.gate_first)
        return of_x, x.new_zeros([0]) if of_gate_tensor is None else of_gate_tensor


class Gated(OpFunction):
    """``(x, gate, name, numbers, dim, gate_first, order)`` to y."""

    op = _ops.gated.default

    @staticmethod
    def fake(x: Tensor, gate: Tensor | None, *how: Any) -> Tensor:
        _, _, dim, _, order = how
        if gate is not None:
            return empty_in(x, order)
        sizes = list(x.shape)
        sizes[dim] = sizes[dim] // 2
        if not order:
            return x.new_empty(sizes)
        return torch.empty_permuted(sizes, tuple(order), dtype=x.dtype, device=x.device)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        ctx.how = inputs[2:]
        return inputs[:2]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        x, gate = ctx.saved_tensors
        grad_x, grad_gate = _backward(grad_y, x, gate, *ctx.how)
        return grad_x, None if gate is None else grad_gate, *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Any, gate: Any, *how: Any) -> Any:
        name, numbers, dim, gate_first, order = how
        x, gate = _batched(info, in_dims, x, gate)
        return Gated.apply(x, gate, name, numbers, dim + 1, gate_first, order_in_batch(order)), 0

    @staticmethod
    def jvp(ctx: Any, x_t: Any, gate_t: Any, *_: None) -> Tensor:
        x, gate_or_none = ctx.saved_tensors
        name, numbers, dim, gate_first, _order = ctx.how
        value, gate = _halves(x, gate_or_none, dim, gate_first)
        x_t = torch.zeros_like(x) if x_t is None else x_t
        gate_t = torch.zeros_like(x) if gate_t is None and gate_or_none is not None else gate_t
        value_t, g_t = _halves(x_t, None if gate_or_none is None else gate_t, dim, gate_first)
        f = Applied(name, numbers)
        return value_t * f.value(gate) + f.slope(value * g_t, gate)


_backward = differentiable(GatedBackward)
gated = differentiable(Gated)
