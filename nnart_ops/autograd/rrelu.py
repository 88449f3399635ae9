"""Leaky ReLU with random slopes: ``y = x`` where ``sign > 0``, else ``x`` times a number drawn from ``[lower, upper)``.

The op is linear in x, and sign is x in the forward: the backward, of every order, is the op with a gradient for x and
the same sign and seed. The numbers are those of the Philox stream that :mod:`nnart_ops.autograd.dropout` describes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.dropout import empty_in, order_in_batch
from nnart_ops.autograd.function import OpFunction, batch_first, differentiable


class RRelu(OpFunction):
    """``rrelu(x, sign, seed, lower, upper, order)``."""

    op = torch.ops.nnart_ops.rrelu.default

    @staticmethod
    def fake(x: Tensor, *args: Any) -> Tensor:
        return empty_in(x, args[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.how = inputs[3:]
        return inputs[1], inputs[2]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return rrelu(grad_y, *ctx.saved_tensors, *ctx.how), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, sign: Tensor, seed: Tensor, *how: Any) -> Any:
        lower, upper, order = how
        x, sign, seed = (batch_first(info.batch_size, t, d) for t, d in zip((x, sign, seed), in_dims))
        if seed.dim() == 1:
            return RRelu.apply(x, sign, seed, lower, upper, order_in_batch(order)), 0
        # The seeds belong to parts of the first dimension, which comes first in every order that there is now.
        flat = x.flatten(0, 1), sign.flatten(0, 1)
        return RRelu.apply(*flat, seed.reshape(-1), lower, upper, order).reshape(x.shape), 0

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *_: Any) -> Tensor:
        result: Tensor = rrelu(x_t, *ctx.saved_tensors, *ctx.how)
        return result


rrelu = differentiable(RRelu)


class _FromOutput(torch.autograd.Function):
    """With slopes that are not negative the output has the input's sign, and is kept instead of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool, seed: Tensor, *how: Any) -> Tensor:
        y: Tensor = RRelu.kernel(x, x, seed, *how)
        if inplace:
            y = x.copy_(y)
            ctx.mark_dirty(x)
        ctx.how = how
        ctx.save_for_backward(y, seed)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return rrelu(grad_y, *ctx.saved_tensors, *ctx.how), None, None, None, None, None


def rrelu_from_output(x: Tensor, inplace: bool, seed: Tensor, *how: Any) -> Tensor:
    """The same of x, in eager mode with a gradient; ``inplace`` overwrites it."""
    result: Tensor = _FromOutput.apply(x, inplace, seed, *how)
    return result
