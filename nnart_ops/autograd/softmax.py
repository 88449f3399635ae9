"""Softmax and its logarithm along one dimension; the backward reads the output alone.

With y the output and S the sum along the dimension: softmax has ``grad_x = y (grad_y - S(y grad_y))``, its logarithm
``grad_x = grad_y - e^y S(grad_y)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import OpFunction, batch_first, differentiable

_ops = torch.ops.nnart_ops


def _sum(t: Tensor, dim: int) -> Tensor:
    return t.sum(dim, keepdim=True)


class SoftmaxBackward(OpFunction):
    """``(grad_y, y, dim, log)`` to grad_x."""

    op = _ops.softmax_backward.default

    @staticmethod
    def fake(grad_y: Tensor, y: Tensor, dim: int, log: bool) -> Tensor:
        return y.new_empty(y.shape)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.dim, ctx.log = inputs[2:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        grad_y, y = ctx.saved_tensors
        dim = ctx.dim
        to_grad_y = to_y = None
        if ctx.needs_input_grad[0]:
            to_grad_y = v - _sum(v * y.exp(), dim) if ctx.log else _backward(v, y, dim, False)
        if ctx.needs_input_grad[1]:
            if ctx.log:
                to_y = -v * y.exp() * _sum(grad_y, dim)
            else:
                to_y = v * (grad_y - _sum(grad_y * y, dim)) - grad_y * _sum(v * y, dim)
        return to_grad_y, to_y, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, y: Tensor, dim: int, log: bool) -> Any:
        grad_y, y = batch_first(info.batch_size, grad_y, in_dims[0]), batch_first(info.batch_size, y, in_dims[1])
        if y.dim() == 1:  # scalars, each a row of one
            return SoftmaxBackward.apply(grad_y[:, None], y[:, None], 1, log).squeeze(1), 0
        return SoftmaxBackward.apply(grad_y, y, dim + 1, log), 0

    @staticmethod
    def jvp(ctx: Any, grad_y_t: Any, y_t: Any, *_: None) -> Tensor:
        grad_y, y = ctx.saved_tensors
        tangent = torch.zeros_like(y)
        if grad_y_t is not None:
            tangent = tangent + _backward(grad_y_t, y, ctx.dim, ctx.log)
        if y_t is not None:
            if ctx.log:
                tangent = tangent - y.exp() * y_t * _sum(grad_y, ctx.dim)
            else:
                of_sum = _sum(grad_y * y_t, ctx.dim)
                tangent = tangent + y_t * (grad_y - _sum(grad_y * y, ctx.dim)) - y * of_sum
        return tangent


class Softmax(OpFunction):
    """``(x, dim, log)`` to y, contiguous as torch's."""

    op = _ops.softmax.default

    @staticmethod
    def fake(x: Tensor, dim: int, log: bool) -> Tensor:
        return x.new_empty(x.shape)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.dim, ctx.log = inputs[1:]
        return (output,)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return _backward(grad_y, *ctx.saved_tensors, ctx.dim, ctx.log), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, dim: int, log: bool) -> Any:
        x = batch_first(info.batch_size, x, in_dims[0])
        if x.dim() == 1:
            return Softmax.apply(x[:, None], 1, log).squeeze(1), 0
        return Softmax.apply(x, dim + 1, log), 0

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *_: None) -> Tensor:
        (y,) = ctx.saved_tensors
        if ctx.log:
            return x_t - _sum(y.exp() * x_t, ctx.dim)
        result: Tensor = _backward(x_t, y, ctx.dim, False)  # the Jacobian is symmetric
        return result


_backward = differentiable(SoftmaxBackward)
softmax = differentiable(Softmax)
