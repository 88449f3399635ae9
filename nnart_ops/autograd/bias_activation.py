"""``y = residual + D(f(x + b))``: an element-wise activation f with what stands around it, D a dropout.

Of the parts of x's size the forward keeps x alone, or y alone where that says what f' is, or nothing for the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.activation import known_from_output
from nnart_ops.autograd.channel_sum import along
from nnart_ops.autograd.dropout import dropout, empty_in
from nnart_ops.autograd.function import OpFunction, differentiable

_ops = torch.ops.nnart_ops


class _How:
    """What both ops do beside their tensors: the dropout, the activation, and the bias's dimension."""

    def __init__(
        self, seed: Tensor | None, p: float, name: str, numbers: Sequence[float], dim: int, order: Sequence[int]
    ) -> None:
        self.seed, self.p, self.dim, self.order = seed, p, dim, order
        self.numbers = tuple(numbers)
        self.activation: _activation.Activation | None = None if name == "identity" else getattr(_activation, name)

    def drop(self, t: Tensor) -> Tensor:
        if self.seed is None:
            return t
        result: Tensor = dropout(t, self.seed, self.p, 1 / (1 - self.p), 0.0, 0.0, False, self.order)
        return result

    def along(self, bias: Tensor, dims: int) -> Tensor:
        """``bias`` as it is added to a tensor of so many dimensions."""
        return along(bias, self.dim, dims)

    def sum(self, t: Tensor) -> Tensor:
        """The gradient of a bias from that of what it was added to."""
        others = [d for d in range(t.dim()) if d != self.dim]
        return (t.sum(others) if others else t).reshape(-1)

    def saved(self, saved: Tensor | None, bias: Tensor | None, is_output: bool) -> Tensor | None:
        """What the activation's derivative reads."""
        if saved is None or is_output or self.activation is None:
            return saved
        u = saved if bias is None else saved + self.along(bias, saved.dim())
        return self.activation.apply(u, *self.numbers) if self.activation.saves_output else u

    def chain(self, grad: Tensor, saved: Tensor | None) -> Tensor:
        """``f'`` times ``grad``."""
        if self.activation is None or saved is None:
            return grad
        result: Tensor = self.activation.backward(grad, saved, *self.numbers)
        return result

    def second(self, grad: Tensor, saved: Tensor) -> Tensor | None:
        """``grad`` times the derivative of ``f'`` with respect to ``saved``; None for zero."""
        if self.activation is None or self.activation.second is None:
            return None
        return grad * self.activation.second(saved, *self.numbers)


class BiasActivationBackward(OpFunction):
    """``(grad_y, saved, bias, seed, p, name, numbers, saved_is_output, wants_bias, dim, order)`` to the gradients of x
    and the bias."""

    op = _ops.bias_activation_backward.default

    @staticmethod
    def fake(grad_y: Tensor, saved: Any, bias: Any, seed: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        wants_bias, dim, order = rest[-3:]
        size = (grad_y.shape[dim] if grad_y.dim() else 1) if wants_bias else 0
        return empty_in(grad_y, order), grad_y.new_empty([size])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        ctx.p, ctx.name, ctx.numbers, ctx.is_output, ctx.wants_bias, ctx.dim, ctx.order = inputs[4:]
        return inputs[:4]

    @staticmethod
    def backward(ctx: Any, v: Tensor | None, bias_v: Tensor | None) -> tuple[Any, ...]:
        # With u = x + b, grad_x = f'(u) D(grad_y), and v the sum of what came down for it: v f'(u) goes to D's
        # gradient, v D(grad_y) f''(u) to u's.
        grad_y, saved, bias, seed = ctx.saved_tensors
        how = _How(seed, ctx.p, ctx.name, ctx.numbers, ctx.dim, ctx.order)
        v = torch.zeros_like(grad_y) if v is None else v
        if ctx.wants_bias and bias_v is not None:
            v = v + how.along(bias_v, grad_y.dim())
        s = how.saved(saved, bias, ctx.is_output)
        grad_grad_y = grad_saved = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_grad_y = how.drop(how.chain(v, s))
        if s is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            grad_saved = how.second(v * how.drop(grad_y), s)
            if grad_saved is not None:
                assert how.activation is not None
                if how.activation.saves_output and not ctx.is_output:
                    grad_saved = how.chain(grad_saved, s)
                if bias is not None and not ctx.is_output and ctx.needs_input_grad[2]:
                    grad_bias = how.sum(grad_saved)
        return grad_grad_y, grad_saved, grad_bias, *(None,) * 8

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(_backward_in_parts, in_dims, 0, randomness="error")(*args), (0, 0)

    @staticmethod
    def jvp(ctx: Any, grad_y_t: Any, saved_t: Any, bias_t: Any, *_: None) -> tuple[Tensor, Tensor]:
        grad_y, saved, bias, seed = ctx.saved_tensors
        how = _How(seed, ctx.p, ctx.name, ctx.numbers, ctx.dim, ctx.order)
        s = how.saved(saved, bias, ctx.is_output)
        tangent = torch.zeros_like(grad_y)
        if grad_y_t is not None:
            tangent = tangent + how.chain(how.drop(grad_y_t), s)
        u_t = saved_t
        if bias_t is not None and not ctx.is_output and saved is not None:
            u_t = how.along(bias_t, grad_y.dim()).expand_as(grad_y) + (0 if u_t is None else u_t)
        if u_t is not None and s is not None:
            if how.activation is not None and how.activation.saves_output and not ctx.is_output:
                u_t = how.chain(u_t, s)
            second = how.second(u_t * how.drop(grad_y), s)
            tangent = tangent if second is None else tangent + second
        return tangent, how.sum(tangent) if ctx.wants_bias else tangent.new_zeros(0)


def _backward_in_parts(
    grad_y: Tensor,
    saved: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    p: float,
    name: str,
    numbers: Sequence[float],
    is_output: bool,
    wants_bias: bool,
    dim: int,
    order: Sequence[int],
) -> tuple[Tensor, Tensor]:
    how = _How(seed, p, name, numbers, dim, order)
    grad_x = how.chain(how.drop(grad_y), how.saved(saved, bias, is_output))
    return grad_x.clone() if grad_x is grad_y else grad_x, how.sum(grad_x) if wants_bias else grad_x.new_zeros(0)


class BiasActivation(OpFunction):
    """``(x, bias, residual, seed, p, name, numbers, dim, order)`` to y."""

    op = _ops.bias_activation.default

    @staticmethod
    def fake(x: Tensor, *args: Any) -> Tensor:
        return empty_in(x, args[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Any, ...]:
        x, bias, residual, seed, ctx.p, ctx.name, ctx.numbers, ctx.dim, ctx.order = inputs
        ctx.shape, ctx.is_output = x.shape, False
        if ctx.name == "identity":
            return None, None, seed
        if residual is None and seed is None and known_from_output(ctx.name, ctx.numbers):
            ctx.is_output = True
            return output, None, None
        return x, bias, seed

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        saved, bias, seed = ctx.saved_tensors
        wants_x, wants_bias, wants_residual = ctx.needs_input_grad[:3]
        grad_x = grad_bias = None
        if ctx.name == "identity" and seed is None:
            grad_x = grad_y
            if wants_bias:
                grad_bias = _How(None, 0.0, "identity", (), ctx.dim, ctx.order).sum(grad_y)
        elif wants_x or wants_bias:
            grad_x, grad_bias = bias_activation_backward(
                *(grad_y, saved, bias, seed, ctx.p, ctx.name, ctx.numbers, ctx.is_output, wants_bias),
                *(ctx.dim, ctx.order),
            )
        return (
            grad_x if wants_x else None,
            grad_bias if wants_bias else None,
            grad_y if wants_residual else None,
            *(None,) * 6,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(_in_parts, in_dims, 0, randomness="error")(*args), 0

    @staticmethod
    def jvp(ctx: Any, x_t: Any, bias_t: Any, residual_t: Any, *_: None) -> Any:
        saved, bias, seed = ctx.saved_tensors
        how = _How(seed, ctx.p, ctx.name, ctx.numbers, ctx.dim, ctx.order)
        u_t = x_t
        if bias_t is not None:
            u_t = how.along(bias_t, len(ctx.shape)).expand(ctx.shape) + (0 if x_t is None else x_t)
        if u_t is None:
            return residual_t
        y_t = how.drop(how.chain(u_t, how.saved(saved, bias, ctx.is_output)))
        return y_t if residual_t is None else residual_t + y_t


def _in_parts(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    p: float,
    name: str,
    numbers: Sequence[float],
    dim: int,
    order: Sequence[int],
) -> Tensor:
    how = _How(seed, p, name, numbers, dim, order)
    u = x if bias is None else x + how.along(bias, x.dim())
    y = how.drop(u if how.activation is None else how.activation.apply(u, *how.numbers))
    if residual is not None:
        return residual + y
    return y.clone() if y is x else y


bias_activation_backward = differentiable(BiasActivationBackward)
bias_activation = differentiable(BiasActivation)
