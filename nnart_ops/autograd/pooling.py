"""Max pooling. Its backward scatters by the indices of the maxima; its double backward and its jvp gather by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import OpFunction, batch_first, differentiable

_ops = torch.ops.nnart_ops
Ints = int | Sequence[int]


class MaxPool2dBackward(OpFunction):
    """``grad_x[index] += grad_y``, in the order of the outputs. Linear in ``grad_y``."""

    op = _ops.max_pool2d_backward.default

    @staticmethod
    def fake(grad_y: Tensor, indices: Tensor, in_h: int, in_w: int, *window: Ints) -> Tensor:
        sizes = (*indices.shape[:-2], in_h, in_w)
        memory_format = torch._prims_common.suggest_memory_format(indices)
        return torch.empty(sizes, dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.geometry = inputs[2:]
        return (inputs[1],)

    @staticmethod
    def backward(ctx: Any, grad_grad_x: Tensor) -> tuple[Any, ...]:
        (indices,) = ctx.saved_tensors
        return (_gather(grad_grad_x, indices), *(None,) * (1 + len(ctx.geometry)))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, indices: Tensor, *geometry: Any) -> Any:
        grad_y = batch_first(info.batch_size, grad_y, in_dims[0])
        indices = batch_first(info.batch_size, indices, in_dims[1])
        grad_x = MaxPool2dBackward.apply(_planes(grad_y), _planes(indices), *geometry)
        return grad_x.reshape(*grad_y.shape[:-2], *grad_x.shape[-2:]), 0

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor, *_: None) -> Tensor:
        return MaxPool2dBackward.entry(grad_y_tangent, *ctx.saved_tensors, *ctx.geometry)


class MaxPool2dWithIndices(OpFunction):
    """Maxima of windows and where they stand, ``h * W + w`` within each plane."""

    op = _ops.max_pool2d_with_indices.default

    @staticmethod
    def fake(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
        y, indices = torch.ops.aten.max_pool2d_with_indices(x, *_lists(window))
        return y, indices

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor]:
        x, kernel_size, stride, padding, dilation, _ = inputs
        ctx.geometry = (x.shape[-2], x.shape[-1], kernel_size, stride, padding, dilation)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros for the indices
        return (output[1],)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, _grad_indices: Any) -> tuple[Any, ...]:
        if grad_y is None:
            return (None,) * 6
        return (_backward(grad_y, *ctx.saved_tensors, *ctx.geometry), None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *window: Any) -> Any:
        x = batch_first(info.batch_size, x, in_dims[0])
        y, indices = MaxPool2dWithIndices.apply(_planes(x), *window)
        shape = (*x.shape[:-2], *y.shape[-2:])
        return (y.reshape(shape), indices.reshape(shape)), (0, 0)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        return _gather(x_tangent, *ctx.saved_tensors), None


class MaxPool2d(OpFunction):
    """Maxima alone, for calls without a gradient: a third less memory traffic. A gradient finds the indices again."""

    op = _ops.max_pool2d.default

    @staticmethod
    def fake(x: Tensor, *window: Any) -> Tensor:
        return MaxPool2dWithIndices.fake(x, *window)[0]

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.window = inputs[1:]
        return (inputs[0],)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        indices = _with_indices(x.detach(), *ctx.window)[1]
        grad_x = _backward(grad_y, indices, x.shape[-2], x.shape[-1], *ctx.window[:4])
        return (grad_x, None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *window: Any) -> Any:
        x = batch_first(info.batch_size, x, in_dims[0])
        y = MaxPool2d.apply(_planes(x), *window)
        return y.reshape(*x.shape[:-2], *y.shape[-2:]), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return _gather(x_tangent, _with_indices(x.detach(), *ctx.window)[1])


def _gather(planes: Tensor, indices: Tensor) -> Tensor:
    return planes.flatten(-2).gather(-1, indices.flatten(-2)).view(indices.shape)


def _planes(batched: Tensor) -> Tensor:
    """``(B, [N,] C, H, W)`` as ``(B [* N], C, H, W)``: max pooling does not mix images."""
    return batched if batched.dim() == 4 else batched.flatten(0, 1)


def _lists(window: Sequence[Any]) -> list[Any]:
    """The window's arguments as ATen takes them: lists of integers, then ``ceil_mode``."""
    return [[value] if isinstance(value, int) else list(value) for value in window[:4]] + list(window[4:])


_backward = differentiable(MaxPool2dBackward)
_with_indices = differentiable(MaxPool2dWithIndices)
_values = differentiable(MaxPool2d)

max_pool2d = _values
max_pool2d_with_indices = _with_indices
