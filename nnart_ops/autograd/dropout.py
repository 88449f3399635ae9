"""Dropout: ``y = scale x + kept`` with probability ``1 - p``, else ``0 x + dropped``.

Affine in x with coefficients that ``(seed, p, order)`` determine, so that the derivative of every order is the op
itself with ``kept = dropped = 0`` and the same seed, and nothing of x's size is kept for it.

The decision of an element is word k of the Philox4x32-10 stream whose key is the seed, k the number of the element when
its dimensions are gone through as ``order`` says, the last one fastest; an empty order means as they are. It is dropped
if that word is less than ``p 2^32``, rounded. With several seeds dimension 0 is cut into as many equal parts, each of
which has its own seed and counts from 0. ``by_channel`` numbers the indices of dimensions 0 and 1 instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import (
    OpFunction,
    batch_first,
    differentiable,
    refuse_leaf,
    register_fake,
    transforms_active,
)

_ops = torch.ops.nnart_ops


class Dropout(OpFunction):
    """``dropout(x, seed, p, scale, kept, dropped, by_channel, order)``."""

    op = _ops.dropout.default

    @staticmethod
    def fake(x: Tensor, seed: Tensor, *how: Any) -> Tensor:
        return empty_in(x, how[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.p, ctx.scale, _, _, ctx.by_channel, ctx.order = inputs[2:]
        return (inputs[1],)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return _linear(ctx, grad_y), None, None, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, seed: Tensor, *how: Any) -> Any:
        by_channel, order = how[-2:]
        x, seed = batch_first(info.batch_size, x, in_dims[0]), batch_first(info.batch_size, seed, in_dims[1])
        if not by_channel and seed.dim() == 1:
            return Dropout.apply(x, seed, *how[:-1], order_in_batch(order)), 0
        # The seeds belong to parts of the first dimension, which comes first in every order that there is now.
        flat = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        return Dropout.apply(flat, seed.reshape(-1), *how).reshape(x.shape), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        return _linear(ctx, x_tangent)


def _linear(ctx: Any, t: Tensor) -> Tensor:
    (seed,) = ctx.saved_tensors
    result: Tensor = dropout(t, seed, ctx.p, ctx.scale, 0.0, 0.0, ctx.by_channel, ctx.order)
    return result


class _Inplace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, *how: Any) -> Tensor:
        _kernel_(x, seed, *how)
        ctx.mark_dirty(x)
        ctx.save_for_backward(*Dropout.prepare(ctx, (x, seed, *how), x))
        return x

    backward = Dropout.backward


def dropout_(x: Tensor, *args: Any) -> Tensor:
    """Overwrites ``x`` with its :func:`dropout` and returns it."""
    if torch.compiler.is_compiling() or transforms_active():
        return x.copy_(dropout(x, *args))
    if torch.is_grad_enabled() and x.requires_grad:
        refuse_leaf(x)
        return _Inplace.apply(x, *args)
    _kernel_(x, *args)
    torch.autograd.graph.increment_version(x)
    return x


def empty_in(x: Tensor, order: Sequence[int]) -> Tensor:
    """A new tensor like ``x``, its elements dense in that order."""
    if not order:
        return x.new_empty(x.shape)
    return torch.empty_permuted(x.shape, tuple(order), dtype=x.dtype, device=x.device)


def order_in_batch(order: Sequence[int]) -> list[int]:
    """The order with a dimension of samples in front."""
    return [0, *(d + 1 for d in order)] if order else []


def memory_order(x: Tensor) -> list[int]:
    """The order in which ``x`` lies in memory, as the op takes it: what torch keeps of a layout, ours keep."""
    if x.is_contiguous():
        return []
    order = list(range(x.dim()))
    sizes, strides = x.shape, x.stride()
    # Insertion by descending stride; a dimension of stride 0 says nothing of its place and stays where it is.
    for i in range(1, len(order)):
        k = i
        for j in range(i - 1, -1, -1):
            a, b = strides[order[j]], strides[order[k]]
            if a == 0 or b == 0:
                continue
            if a < b or (a == b and sizes[order[j]] < sizes[order[k]]):
                order[j], order[k] = order[k], order[j]
                k = j
            else:
                break
    return [] if order == list(range(x.dim())) else order


dropout = differentiable(Dropout)
_kernel_ = register_fake(_ops.dropout_.default, lambda x, *args: None)
