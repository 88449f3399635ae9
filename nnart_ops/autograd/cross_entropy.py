"""Cross-entropy of logits, ``-sum_c q_c log softmax(x)_c`` for each row, and its gradient ``G (Q softmax(x) - q)``.

q is the target distribution: ``w_c ((1 - s) p_c + s / C)`` with class weights w, label smoothing s over C classes, and
p one where the label is, or the given probabilities; Q is its sum over the classes. G is the gradient of the row's
loss, for a mean divided by the sum of the labels' weights, and 0 for an ignored row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.dropout import empty_in
from nnart_ops.autograd.function import OpFunction, differentiable, direct, register_fake, transforms_active

_ops = torch.ops.nnart_ops


class _Rows:
    """The target distribution and the scale of each row, in torch operations."""

    def __init__(
        self,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> None:
        self.dim = 0 if x.dim() == 1 else 1
        self.x, self.reduction = x, reduction
        classes = x.shape[self.dim]
        shape = [classes if d == self.dim else 1 for d in range(x.dim())]
        w = (x.new_ones(classes) if weight is None else weight).reshape(shape)
        if target.is_floating_point():
            p = target
            counts = torch.ones_like(x.select(self.dim, 0))
            self.row_weight = counts
        else:
            counted = target != ignore_index
            label = torch.where(counted, target, torch.zeros_like(target)).unsqueeze(self.dim)
            numbers = torch.arange(classes, device=x.device).reshape(shape)
            p = (numbers == label).to(x.dtype)
            counts = counted.to(x.dtype)
            self.row_weight = (p * w).sum(self.dim) * counts
        self.q = w * ((1 - smoothing) * p + smoothing / classes)
        self.q_sum = self.q.sum(self.dim)
        self.counts = counts

    def gradients(self, grad_loss: Tensor, total_weight: Tensor) -> Tensor:
        """G, one a row."""
        grad = grad_loss.to(self.x.dtype)
        if self.reduction == "mean":
            grad = grad / total_weight.to(self.x.dtype)
        return torch.where(self.counts > 0, grad, torch.zeros_like(grad)) * self.counts

    def losses(self) -> Tensor:
        loss = -(self.q * self.x.log_softmax(self.dim)).sum(self.dim)
        return torch.where(self.counts > 0, loss, torch.zeros_like(loss))

    def curved(self, gradients: Tensor, v: Tensor) -> Tensor:
        """The derivative of G (Q softmax(x) - q) along v: the Hessian is symmetric."""
        p = self.x.softmax(self.dim)
        inner = (p * v).sum(self.dim, keepdim=True)
        return (gradients * self.q_sum).unsqueeze(self.dim) * p * (v - inner)


def _order_of_rows(order: Sequence[int], dims: int) -> list[int]:
    class_dim = 0 if dims == 1 else 1
    return [d - (d > class_dim) for d in order if d != class_dim]


class CrossEntropyBackward(OpFunction):
    """``(grad_loss, x, target, weight, statistics, total_weight, reduction, ignore_index, smoothing, order)`` to
    grad_x. The statistics are x's own: derivatives with respect to x go through them."""

    op = _ops.cross_entropy_backward.default

    @staticmethod
    def fake(grad_loss: Tensor, x: Tensor, *rest: Any) -> Tensor:
        return empty_in(x, rest[-1])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Any, ...]:
        ctx.how = inputs[6:]
        return inputs[:6]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        grad_loss, x, target, weight, statistics, total_weight = ctx.saved_tensors
        to_grad_loss = to_x = None
        if ctx.needs_input_grad[0]:
            each = _backward(torch.ones_like(grad_loss), x, target, weight, statistics, total_weight, *ctx.how)
            product = (v * each).to(grad_loss.dtype)
            to_grad_loss = product.sum(0 if x.dim() == 1 else 1) if ctx.how[0] == "none" else product.sum()
        if ctx.needs_input_grad[1]:
            rows = _Rows(x, target, weight, *ctx.how[:3])
            to_x = rows.curved(rows.gradients(grad_loss, total_weight), v)
        return to_grad_loss, to_x, *(None,) * 8

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(_backward_in_parts, in_dims)(*args), 0

    @staticmethod
    def jvp(ctx: Any, grad_loss_t: Any, x_t: Any, *_: Any) -> Tensor:
        grad_loss, x, target, weight, statistics, total_weight = ctx.saved_tensors
        tangent = torch.zeros_like(x)
        if grad_loss_t is not None:
            tangent = tangent + _backward(grad_loss_t, x, target, weight, statistics, total_weight, *ctx.how)
        if x_t is not None:
            rows = _Rows(x, target, weight, *ctx.how[:3])
            tangent = tangent + rows.curved(rows.gradients(grad_loss, total_weight), x_t)
        return tangent


def _backward_in_parts(
    grad_loss: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    total_weight: Tensor,
    reduction: str,
    ignore_index: int,
    smoothing: float,
    order: Sequence[int],
) -> Tensor:
    rows = _Rows(x, target, weight, reduction, ignore_index, smoothing)
    gradients = rows.gradients(grad_loss, total_weight).unsqueeze(rows.dim)
    return gradients * (rows.q_sum.unsqueeze(rows.dim) * x.softmax(rows.dim) - rows.q)


class CrossEntropy(OpFunction):
    """``(x, target, weight, reduction, ignore_index, smoothing, order)`` to the loss, the statistics and the total
    weight, of which the loss has a derivative."""

    op = _ops.cross_entropy.default

    @staticmethod
    def fake(x: Tensor, target: Tensor, weight: Any, reduction: str, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
        class_dim = 0 if x.dim() == 1 else 1
        sizes = [size for d, size in enumerate(x.shape) if d != class_dim]
        order = _order_of_rows(rest[-1], x.dim())
        count = 1
        for size in sizes:
            count = count * size
        scalar, statistics = x.new_empty([], dtype=dtype), x.new_empty([2, count], dtype=dtype)
        if reduction != "none":
            return scalar, statistics, torch.empty_like(scalar)
        loss = torch.empty_permuted(sizes, tuple(order or range(len(sizes))), dtype=dtype, device=x.device)
        return loss, statistics, scalar

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
        x, target, weight, *how = inputs
        _loss, statistics, total_weight = output
        ctx.how = how
        ctx.mark_non_differentiable(statistics, total_weight)
        return x, target, weight, statistics, total_weight

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        return _backward(grad_loss, *ctx.saved_tensors, *ctx.how), *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(_in_parts, in_dims)(*args), (0, 0, 0)

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        x, target, weight, statistics, total_weight = ctx.saved_tensors
        reduction = ctx.how[0]
        rows = x.select(0 if x.dim() == 1 else 1, 0)
        ones = torch.ones_like(rows if reduction == "none" else total_weight, dtype=total_weight.dtype)
        product = (x_t * _backward(ones, x, target, weight, statistics, total_weight, *ctx.how)).to(ones.dtype)
        loss_t = product.sum(0 if x.dim() == 1 else 1) if reduction == "none" else product.sum()
        return loss_t, None, None


def _in_parts(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    smoothing: float,
    order: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    rows = _Rows(x, target, weight, reduction, ignore_index, smoothing)
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    losses, total_weight = rows.losses().to(dtype), rows.row_weight.sum().to(dtype)
    largest = x.amax(rows.dim)
    log_sum = x.logsumexp(rows.dim) - largest
    by = _order_of_rows(order, x.dim()) or list(range(largest.dim()))
    statistics = torch.stack([t.permute(by).reshape(-1).to(dtype) for t in (largest, log_sum)])
    if reduction == "none":
        return losses, statistics, total_weight
    total = losses.sum()
    return total / total_weight if reduction == "mean" else total, statistics, total_weight


class _Eager(torch.autograd.Function):
    """The loss alone, in a dtype of choice: what the op gives besides is nobody's business but the backward's. With
    ``overwrite`` that writes the gradient over x."""

    @staticmethod
    def forward(
        ctx: Any, overwrite: bool, dtype: torch.dtype, x: Tensor, target: Tensor, weight: Tensor | None, *how: Any
    ) -> Tensor:
        loss, statistics, total_weight = CrossEntropy.kernel(x, target, weight, *how)
        ctx.overwrite, ctx.how, ctx.dtype = overwrite, how, loss.dtype
        ctx.save_for_backward(x, target, weight, statistics, total_weight)
        return _as(loss, dtype)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        nones = (None,) * 6
        grad_loss = _as(grad_loss, ctx.dtype)
        if not ctx.overwrite:
            call = _backward if torch.is_grad_enabled() else CrossEntropyBackward.kernel
            return None, None, call(grad_loss, *ctx.saved_tensors, *ctx.how), *nones
        if torch.is_grad_enabled():
            raise RuntimeError("cross_entropy: with overwrite_logits the gradient has no derivative of its own")
        x, *rest = ctx.saved_tensors
        _backward_kernel_(grad_loss, x, *rest, *ctx.how)
        torch.autograd.graph.increment_version(x)
        return None, None, x.detach(), *nones


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype is dtype else t.to(dtype)


def cross_entropy(overwrite: bool, dtype: torch.dtype, *args: Any) -> Tensor:
    """The loss in ``dtype``; ``overwrite`` is heeded in eager mode."""
    if torch.compiler.is_compiling() or transforms_active():
        return _as(_entry(*args)[0], dtype)
    if args[0].requires_grad and torch.is_grad_enabled():
        loss: Tensor = _apply_eager(overwrite, dtype, *args)
        return loss
    return _as(CrossEntropy.kernel(*args)[0], dtype)


_backward = differentiable(CrossEntropyBackward)
_entry = differentiable(CrossEntropy)
_apply_eager = direct(_Eager)
_backward_kernel_ = register_fake(_ops.cross_entropy_backward_.default, lambda grad_loss, x, *args: None)
