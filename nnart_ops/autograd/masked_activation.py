"""Activations whose derivative takes two values, with one bit an element for the backward.

The backward is linear in the gradient, so that derivatives of every order are the op itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.dropout import empty_in
from nnart_ops.autograd.function import OpFunction, by_sample, differentiable

_ops = torch.ops.nnart_ops


class MaskedBackward(OpFunction):
    """``(grad_y, mask, name, numbers, order)`` to grad_x."""

    op = _ops.masked_activation_backward.default

    @staticmethod
    def fake(grad_y: Tensor, *args: Any) -> Tensor:
        return empty_in(grad_y, args[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.how = inputs[2:]
        return (inputs[1],)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        return masked_backward(v, *ctx.saved_tensors, *ctx.how), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return by_sample(MaskedBackward.apply, info, in_dims, *args)

    @staticmethod
    def jvp(ctx: Any, grad_y_t: Tensor, *_: None) -> Tensor:
        result: Tensor = masked_backward(grad_y_t, *ctx.saved_tensors, *ctx.how)
        return result


class Masked(OpFunction):
    """``(x, name, numbers, order)`` to y and the mask."""

    op = _ops.masked_activation.default

    @staticmethod
    def fake(x: Tensor, name: str, numbers: Any, order: Any) -> tuple[Tensor, Tensor]:
        return empty_in(x, order), x.new_empty([(x.numel() + 7) // 8], dtype=torch.uint8)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Tensor]:
        ctx.how = inputs[1:]
        ctx.mark_non_differentiable(output[1])
        return (output[1],)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Any, ...]:
        return masked_backward(grad_y, *ctx.saved_tensors, *ctx.how), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return by_sample(Masked.apply, info, in_dims, *args)

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *_: None) -> tuple[Tensor, None]:
        return masked_backward(x_t, *ctx.saved_tensors, *ctx.how), None


masked_backward = differentiable(MaskedBackward)
masked_activation = differentiable(Masked)
