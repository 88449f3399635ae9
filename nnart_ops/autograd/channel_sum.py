"""The sums of a tensor's channels over everything else, as the gradient of a bias has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import OpFunction, batch_first, differentiable


class ChannelSum(OpFunction):
    """``channel_sum(x, dim)``, linear in ``x``."""

    op = torch.ops.nnart_ops.channel_sum.default

    @staticmethod
    def fake(x: Tensor, dim: int) -> Tensor:
        return x.new_empty([x.shape[dim]])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[()]:
        ctx.sizes, ctx.dim = inputs[0].shape, inputs[1]
        return ()

    @staticmethod
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Any, ...]:
        return along(grad_sums, ctx.dim, len(ctx.sizes)).expand(ctx.sizes), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, dim: int) -> Any:
        x = batch_first(info.batch_size, x, in_dims[0])
        return x.sum([d for d in range(1, x.dim()) if d != dim + 1]), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, _: None) -> Tensor:
        return ChannelSum.entry(x_tangent, ctx.dim)


def along(channels: Tensor, dim: int, dims: int) -> Tensor:
    """A number a channel as a tensor of ``dims`` dimensions, to be broadcast."""
    return channels.reshape([-1 if d == dim else 1 for d in range(dims)])


channel_sum = differentiable(ChannelSum)
