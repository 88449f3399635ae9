"""Pooling. The backward of a maximum reads where in its window it stood, one byte an output, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import OpFunction, batch_first, differentiable, register_fake

_ops = torch.ops.nnart_ops
Ints = Sequence[int]
ADAPTIVE: tuple[Ints, Ints, Ints, Ints] = ((), (), (), ())  # the kernel_size, stride, padding and dilation of such


# ---- sizes and layouts, as csrc/ops/pooling.cpp has them ----------------------------------------------------------


def _out_size(n: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    out = (n + 2 * pad - dilation * (kernel - 1) - 1 + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= n + pad:
        out -= 1
    return out


def _pooled(
    x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[int, ...]:
    space = x.shape[x.dim() - len(kernel_size) :]
    axes = zip(space, kernel_size, stride, padding, dilation)
    return tuple(_out_size(*axis, ceil_mode) for axis in axes)


def _empty(like: Tensor, space: Ints, dtype: torch.dtype) -> Tensor:
    """Of ``like``'s layout and sizes but for the last ones, which are ``space``."""
    sizes = (*like.shape[: like.dim() - len(space)], *space)
    dims = tuple(range(like.dim()))
    if _is_channels_last(like, len(space)):
        dims = (0, *dims[2:], 1)
    return torch.empty_permuted(sizes, dims, dtype=dtype, device=like.device)


def _is_channels_last(x: Tensor, space: int) -> bool:
    if x.dim() != space + 2:
        return False
    if space > 1:
        return torch._prims_common.suggest_memory_format(x) is not torch.contiguous_format
    if x.stride(1) == 0:
        return False
    least = 0
    for d in (1, 2, 0):
        if x.size(d) == 0 or x.stride(d) < least or (d == 0 and least == x.stride(1)):
            return False
        least = x.stride(d) * x.size(d) if x.size(d) > 1 else x.stride(d)
    return True


def _offset_dtype(window: int) -> torch.dtype:
    return torch.uint8 if window <= 256 else torch.int16 if window <= 65536 else torch.int32


def _adaptive_window(x_size: Ints, y_size: Ints) -> int:
    pairs = zip(x_size, y_size)
    return math.prod(1 if out == 0 else n // out if n % out == 0 else n // out + 2 for n, out in pairs)


# ---- max ----------------------------------------------------------------------------------------------------------


def _gather(planes: Tensor, offsets: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """The elements of ``planes`` that the offsets point at, in the offsets' sizes and layout."""
    space = len(geometry[0])
    indices = _indices(offsets, *geometry)
    taken = planes.flatten(-space).gather(-1, indices.flatten(-space)).view(indices.shape)
    return torch.empty_like(indices, dtype=planes.dtype).copy_(taken) if not indices.is_contiguous() else taken


def _fake_indices(offsets: Tensor, x_size: Ints, *window: Ints) -> Tensor:
    return _empty(offsets, offsets.shape[offsets.dim() - len(x_size) :], torch.int64)


register_fake(_ops.max_pool_indices.default, _fake_indices)


@torch.library.register_vmap(_ops.max_pool_indices.default)
def _vmap_indices(info: Any, in_dims: tuple[int | None, ...], offsets: Tensor, *geometry: Any) -> Any:
    offsets = batch_first(info.batch_size, offsets, in_dims[0])
    space = len(geometry[0])
    return _unfolded(_indices(_folded(offsets, space), *geometry), offsets, space), 0


_indices = _ops.max_pool_indices.default


class MaxPoolBackward(OpFunction):
    """``grad_x[place of o's maximum] += grad_y[o]``, in the order of the outputs. Linear in ``grad_y``."""

    op = _ops.max_pool_backward.default

    @staticmethod
    def fake(grad_y: Tensor, offsets: Tensor, x_size: Ints, *window: Ints) -> Tensor:
        return _empty(offsets, x_size, grad_y.dtype)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.geometry = inputs[2:]
        return (inputs[1],)

    @staticmethod
    def backward(ctx: Any, grad_grad_x: Tensor) -> tuple[Any, ...]:
        return (_gather(grad_grad_x, ctx.saved_tensors[0], ctx.geometry), *(None,) * 6)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, offsets: Tensor, *geometry: Any) -> Any:
        grad_y = batch_first(info.batch_size, grad_y, in_dims[0])
        offsets = batch_first(info.batch_size, offsets, in_dims[1])
        space = len(geometry[0])
        grad_x = MaxPoolBackward.apply(_folded(grad_y, space), _folded(offsets, space), *geometry)
        return _unfolded(grad_x, grad_y, space), 0

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor, *_: None) -> Tensor:
        return MaxPoolBackward.entry(grad_y_tangent, *ctx.saved_tensors, *ctx.geometry)


Geometry = tuple[Ints, Ints, Ints, Ints, Ints]


def _max_pools(
    name: str,
    values_op: Any,
    offsets_op: Any,
    describe: Callable[..., tuple[Ints, int]],
    geometry: Callable[..., Geometry],
) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """The entries for the maxima alone, and with where in their windows they stand.

    ``describe(x, *window)`` gives the pooled axes of y and the elements of a window, ``geometry(x, *window)`` what
    ``max_pool_backward`` takes.
    """

    class WithOffsets(OpFunction):
        op = offsets_op

        @staticmethod
        def fake(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
            space, elements = describe(x, *window)
            return _empty(x, space, x.dtype), _empty(x, space, _offset_dtype(elements))

        @staticmethod
        def prepare(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor]:
            ctx.geometry, ctx.others = geometry(*inputs), (None,) * (len(inputs) - 1)
            ctx.mark_non_differentiable(output[1])
            ctx.set_materialize_grads(False)  # no zeros for the offsets
            return (output[1],)

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor | None, _grad_offsets: Any) -> tuple[Any, ...]:
            grad_x = None if grad_y is None else _backward(grad_y, *ctx.saved_tensors, *ctx.geometry)
            return (grad_x, *ctx.others)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *window: Any) -> Any:
            x, space = batch_first(info.batch_size, x, in_dims[0]), len(window[0])
            y, offsets = WithOffsets.apply(_folded(x, space), *window)
            return (_unfolded(y, x, space), _unfolded(offsets, x, space)), (0, 0)

        @staticmethod
        def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> tuple[Tensor, None]:
            return _gather(x_tangent, ctx.saved_tensors[0], ctx.geometry), None

    class Values(OpFunction):
        """Under a compiler or a transform, for calls without a gradient: one finds the offsets again."""

        op = values_op

        @staticmethod
        def fake(x: Tensor, *window: Any) -> Tensor:
            return _empty(x, describe(x, *window)[0], x.dtype)

        @staticmethod
        def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
            ctx.window = inputs[1:]
            return (inputs[0],)

        @staticmethod
        def found_again(ctx: Any) -> tuple[Tensor, Geometry]:
            (x,) = ctx.saved_tensors
            return WithOffsets.entry(x.detach(), *ctx.window)[1], geometry(x, *ctx.window)

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
            offsets, found = Values.found_again(ctx)
            return (_backward(grad_y, offsets, *found), *(None,) * len(ctx.window))

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *window: Any) -> Any:
            x, space = batch_first(info.batch_size, x, in_dims[0]), len(window[0])
            return _unfolded(Values.apply(_folded(x, space), *window), x, space), 0

        @staticmethod
        def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
            return _gather(x_tangent, *Values.found_again(ctx))

    def keeping_offsets(function: type[OpFunction]) -> type[torch.autograd.Function]:
        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor, *window: Any) -> Tensor:
                y, offsets = WithOffsets.kernel(x, *window)
                ctx.save_for_backward(offsets)
                ctx.geometry, ctx.others = geometry(x, *window), (None,) * len(window)
                return y

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
                return (_backward(grad_y, *ctx.saved_tensors, *ctx.geometry), *ctx.others)

        Eager.__name__ = Eager.__qualname__ = function.__name__
        return Eager

    WithOffsets.__name__ = WithOffsets.__qualname__ = f"{name}WithOffsets"
    Values.__name__ = Values.__qualname__ = name
    with_offsets = differentiable(WithOffsets)
    return differentiable(Values, keeping_offsets), with_offsets


def _describe(x: Tensor, kernel_size: Ints, *window: Any) -> tuple[Ints, int]:
    return _pooled(x, kernel_size, *window), math.prod(kernel_size)


def _geometry(x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, _: bool) -> Geometry:
    return x.shape[x.dim() - len(kernel_size) :], kernel_size, stride, padding, dilation


def _describe_adaptive(x: Tensor, output_size: Ints) -> tuple[Ints, int]:
    return output_size, _adaptive_window(x.shape[x.dim() - len(output_size) :], output_size)


def _geometry_adaptive(x: Tensor, output_size: Ints) -> Geometry:
    return x.shape[x.dim() - len(output_size) :], *ADAPTIVE


class MaxUnpool(OpFunction):
    """``y[indices[i]] = x[i]`` in each plane, the rest 0; of several, the last. Linear in ``x``."""

    op = _ops.max_unpool.default

    @staticmethod
    def fake(x: Tensor, indices: Tensor, output_size: Ints) -> Tensor:
        return _empty(x, output_size, x.dtype)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
        ctx.output_size = inputs[2]
        return (inputs[1],)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        (indices,), space = ctx.saved_tensors, len(ctx.output_size)
        return grad_y.flatten(-space).gather(-1, indices.flatten(-space)).view(indices.shape), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, indices: Tensor, output_size: Ints) -> Any:
        space = len(output_size)
        x, indices = batch_first(info.batch_size, x, in_dims[0]), batch_first(info.batch_size, indices, in_dims[1])
        return _unfolded(MaxUnpool.apply(_folded(x, space), _folded(indices, space), output_size), x, space), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        return MaxUnpool.entry(x_tangent, *ctx.saved_tensors, ctx.output_size)


# ---- averages -----------------------------------------------------------------------------------------------------


class AvgPoolBackward(OpFunction):
    """Each output's gradient, divided as its sum was, to each input of its window. Linear in ``grad_y``."""

    op = _ops.avg_pool_backward.default

    @staticmethod
    def fake(grad_y: Tensor, x_size: Ints, *window: Any) -> Tensor:
        return _empty(grad_y, x_size, grad_y.dtype)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[()]:
        ctx.window = inputs[2:]
        ctx.y_size = inputs[0].shape[inputs[0].dim() - len(inputs[1]) :]
        ctx.x_size = inputs[1]
        return ()

    @staticmethod
    def backward(ctx: Any, grad_grad_x: Tensor) -> tuple[Any, ...]:
        if ctx.window[0]:
            grad_grad_y = avg_pool(grad_grad_x, *ctx.window)
        else:
            grad_grad_y = adaptive_avg_pool(grad_grad_x, ctx.y_size)
        return (grad_grad_y, *(None,) * 7)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, x_size: Ints, *window: Any) -> Any:
        grad_y, space = batch_first(info.batch_size, grad_y, in_dims[0]), len(x_size)
        return _unfolded(AvgPoolBackward.apply(_folded(grad_y, space), x_size, *window), grad_y, space), 0

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor, *_: None) -> Tensor:
        return AvgPoolBackward.entry(grad_y_tangent, ctx.x_size, *ctx.window)


class AvgPool(OpFunction):
    """Averages of windows. Linear in ``x``."""

    op = _ops.avg_pool.default

    @staticmethod
    def fake(x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool, *_: Any) -> Tensor:
        return _empty(x, _pooled(x, kernel_size, stride, padding, (1,) * len(kernel_size), ceil_mode), x.dtype)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[()]:
        ctx.window = inputs[1:]
        ctx.x_size = inputs[0].shape[inputs[0].dim() - len(inputs[1]) :]
        return ()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return (_avg_backward(grad_y, ctx.x_size, *ctx.window), *(None,) * 6)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *window: Any) -> Any:
        x, space = batch_first(info.batch_size, x, in_dims[0]), len(window[0])
        return _unfolded(AvgPool.apply(_folded(x, space), *window), x, space), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        return AvgPool.entry(x_tangent, *ctx.window)


class AdaptiveAvgPool(OpFunction):
    """Averages of windows of about the same size. Linear in ``x``."""

    op = _ops.adaptive_avg_pool.default

    @staticmethod
    def fake(x: Tensor, output_size: Ints) -> Tensor:
        return _empty(x, output_size, x.dtype)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[()]:
        ctx.output_size = inputs[1]
        ctx.x_size = inputs[0].shape[inputs[0].dim() - len(inputs[1]) :]
        return ()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return _avg_backward(grad_y, ctx.x_size, *ADAPTIVE[:3], False, False, 0), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, output_size: Ints) -> Any:
        x, space = batch_first(info.batch_size, x, in_dims[0]), len(output_size)
        return _unfolded(AdaptiveAvgPool.apply(_folded(x, space), output_size), x, space), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
        return AdaptiveAvgPool.entry(x_tangent, ctx.output_size)


def _folded(batched: Tensor, space: int) -> Tensor:
    """``(B, [N,] C, ...)`` as ``(B [* N], C, ...)``: pooling does not mix images."""
    return batched if batched.dim() == space + 2 else batched.flatten(0, 1)


def _unfolded(folded: Tensor, batched: Tensor, space: int) -> Tensor:
    """Back to the leading dimensions of ``batched``."""
    if batched.dim() == space + 2:
        return folded
    return folded.unflatten(0, (batched.shape[0], batched.shape[1]))


_backward = differentiable(MaxPoolBackward)
max_pool, max_pool_with_offsets = _max_pools(
    "MaxPool", _ops.max_pool.default, _ops.max_pool_with_offsets.default, _describe, _geometry
)
adaptive_max_pool, adaptive_max_pool_with_offsets = _max_pools(
    "AdaptiveMaxPool",
    _ops.adaptive_max_pool.default,
    _ops.adaptive_max_pool_with_offsets.default,
    _describe_adaptive,
    _geometry_adaptive,
)
max_unpool = differentiable(MaxUnpool)
_avg_backward = differentiable(AvgPoolBackward)
avg_pool = differentiable(AvgPool)
adaptive_avg_pool = differentiable(AdaptiveAvgPool)
max_pool_indices = _indices
