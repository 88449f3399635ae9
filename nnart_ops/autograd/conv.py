"""Convolution and its gradients: three linear ops, each of whose derivatives is another of them, so that every higher
order exists.

    y = conv(x, w) + b        grad_x = conv_dgrad(g, w)   grad_w = conv_wgrad(g, x)   grad_b = sum of g
    grad_x = conv_dgrad(g, w) grad_g = conv(gg, w)        grad_w = conv_wgrad(g, gg)
    grad_w = conv_wgrad(g, x) grad_g = conv(x, gg)        grad_x = conv_dgrad(g, gg)

Their last arguments are the geometry ``(stride, padding, dilation, groups)``; padding has the amounts before each axis,
then those after. Tensors may lack the batch dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.function import OpFunction, batch_first, differentiable

_ops = torch.ops.nnart_ops
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Conv(OpFunction):
    """``conv(x, weight, bias, *geometry)``."""

    op = _ops.conv.default

    @staticmethod
    def fake(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        dims = len(stride)
        torch._check(
            x.dim() in (dims + 1, dims + 2),
            lambda: (
                f"conv{dims}d: Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input to conv{dims}d, "
                f"but got input of size: {list(x.shape)}"
            ),
        )
        channels = x.shape[-dims - 1]
        torch._check(
            channels == weight.shape[1] * groups,
            lambda: (
                f"conv{dims}d: input has {channels} channels, but weight of shape {list(weight.shape)} expects "
                f"{weight.shape[1] * groups} (weight.shape[1] * groups)"
            ),
        )
        places = []
        for a in range(dims):
            padded = x.shape[a - dims] + padding[a] + padding[a + dims]
            reach = dilation[a] * (weight.shape[a + 2] - 1) + 1
            torch._check(
                padded >= reach,
                lambda: (
                    f"conv{dims}d: Kernel size can't be greater than actual input size, but input has shape "
                    f"{list(x.shape)} and weight {list(weight.shape)}"
                ),
            )
            places.append((padded - reach) // stride[a] + 1)
        sizes = (*x.shape[: -dims - 1], weight.shape[0], *places)
        if statically_known_true(x.numel() == 0):
            return x.new_empty(sizes)
        return _empty(sizes, x.dim() == dims + 2, x, weight)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.geometry = inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return *_gradients(ctx, grad_y, *ctx.saved_tensors), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        x, weight, bias, *geometry = args
        batched = _is_batched(x, in_dims[0], geometry)
        if in_dims[1] is None and in_dims[2] is None:
            return _each_image(Conv, info, x, in_dims[0], batched, weight, bias, *geometry), 0
        x = _in_channels(info, x, in_dims[0], batched)
        weight = _in_channels(info, weight, in_dims[1], False)
        if bias is not None:
            bias = _in_channels(info, bias, in_dims[2], False)
        y = Conv.apply(x, weight, bias, *geometry[:3], geometry[3] * info.batch_size)
        return _out_of_channels(info, y, batched)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Any, *_: None) -> Any:
        x, weight = ctx.saved_tensors
        tangent = _tangent(ctx, None, x, weight, x_tangent, weight_tangent)
        if bias_tangent is not None:
            if tangent is None:
                tangent = torch.zeros_like(_conv(x, weight, None, *ctx.geometry))
            tangent = tangent + bias_tangent.view(-1, *(1,) * (weight.dim() - 2))
        return tangent


class ConvActivation(OpFunction):
    """``activation(conv(x, weight, bias, *geometry) + residual)``, of which only the output is kept."""

    op = _ops.conv_activation.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any) -> Tensor:
        return Conv.fake(x, weight, bias, *args[:4])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.geometry, ctx.activation, ctx.numbers = inputs[4:8], inputs[8], inputs[9]
        return inputs[0], inputs[1], output

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        x, weight, y = ctx.saved_tensors
        grad = _before_activation(ctx.activation, ctx.numbers, grad_y, y)
        grad_residual = grad if ctx.needs_input_grad[3] else None
        return *_gradients(ctx, grad, x, weight), grad_residual, *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        parts = torch.vmap(_in_parts, in_dims, 0, randomness="error")
        return parts(*args), 0

    @staticmethod
    def jvp(ctx: Any, x_tangent: Any, weight_tangent: Any, bias_tangent: Any, residual_tangent: Any, *_: None) -> Any:
        x, weight, y = ctx.saved_tensors
        tangent = _tangent(ctx, residual_tangent, x, weight, x_tangent, weight_tangent)
        if bias_tangent is not None:
            tangent = _sum(tangent, bias_tangent.view(-1, *(1,) * (weight.dim() - 2)).expand_as(y))
        return _before_activation(ctx.activation, ctx.numbers, tangent, y)


def _gradients(ctx: Any, grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
    """Of input, weight and bias, each if it is wanted."""
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = _dgrad(grad_y, weight, x.shape, *ctx.geometry)
    if ctx.needs_input_grad[1]:
        grad_weight = _wgrad(grad_y, x, weight.shape[2:], *ctx.geometry)
    if ctx.needs_input_grad[2]:
        grad_bias = _sum_to_bias(grad_y, weight)
    return grad_x, grad_weight, grad_bias


def _tangent(ctx: Any, tangent: Any, x: Tensor, weight: Tensor, x_tangent: Any, weight_tangent: Any) -> Any:
    """``tangent`` plus what the tangents of input and weight make of it."""
    if x_tangent is not None:
        tangent = _sum(tangent, _conv(x_tangent, weight, None, *ctx.geometry))
    if weight_tangent is not None:
        tangent = _sum(tangent, _conv(x, weight_tangent, None, *ctx.geometry))
    return tangent


def known_from_output(activation: str, numbers: Sequence[float]) -> bool:
    """Whether the output of the activation says what its derivative is, so that the input need not be kept."""
    return activation in ("identity", "relu", "sigmoid", "tanh", "hardtanh") or (
        activation == "leaky_relu" and numbers[0] > 0
    )


def _before_activation(activation: str, numbers: Sequence[float], grad_y: Tensor, y: Tensor) -> Tensor:
    """The gradient of what the activation was applied to."""
    if not known_from_output(activation, numbers):
        raise NotImplementedError(
            f"conv_activation: the output of {activation} with {list(numbers)} does not give its derivative; "
            "apply the activation to the result of conv instead"
        )
    if activation == "identity":
        return grad_y
    gradient: Tensor = getattr(_activation, activation).backward(grad_y, y, *numbers)
    return gradient


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any) -> Tensor:
    y = _conv(x, weight, bias, *args[:4])
    if residual is not None:
        y = y + residual
    if args[4] == "identity":
        return y
    result: Tensor = getattr(_activation, args[4]).apply(y, *args[5])
    return result


class ConvDgrad(OpFunction):
    """``conv_dgrad(grad_y, weight, x_size, *geometry)``, the transposed convolution."""

    op = _ops.conv_dgrad.default

    @staticmethod
    def fake(grad_y: Tensor, weight: Tensor, x_size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
        return _empty(x_size, len(x_size) == len(stride) + 2, grad_y, weight)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.x_size, ctx.geometry = inputs[2], inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_grad_x: Tensor) -> tuple[Any, ...]:
        grad_y, weight = ctx.saved_tensors
        grad_grad_y = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_grad_y = _conv(grad_grad_x, weight, None, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = _wgrad(grad_y, grad_grad_x, weight.shape[2:], *ctx.geometry)
        return grad_grad_y, grad_weight, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        grad_y, weight, x_size, *geometry = args
        batched = len(x_size) == len(geometry[0]) + 2
        if in_dims[1] is None:
            x_size = (info.batch_size * x_size[0], *x_size[1:]) if batched else (info.batch_size, *x_size)
            return _each_image(ConvDgrad, info, grad_y, in_dims[0], batched, weight, x_size, *geometry), 0
        grad_y = _in_channels(info, grad_y, in_dims[0], batched)
        weight = _in_channels(info, weight, in_dims[1], False)
        x_size = list(x_size)
        x_size[int(batched)] = x_size[int(batched)] * info.batch_size
        grad_x = ConvDgrad.apply(grad_y, weight, x_size, *geometry[:3], geometry[3] * info.batch_size)
        return _out_of_channels(info, grad_x, batched)

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor | None, weight_tangent: Tensor | None, *_: None) -> Any:
        grad_y, weight = ctx.saved_tensors
        tangent: Any = None
        if grad_y_tangent is not None:
            tangent = _dgrad(grad_y_tangent, weight, ctx.x_size, *ctx.geometry)
        if weight_tangent is not None:
            tangent = _sum(tangent, _dgrad(grad_y, weight_tangent, ctx.x_size, *ctx.geometry))
        return tangent


class ConvWgrad(OpFunction):
    """``conv_wgrad(grad_y, x, kernel_size, *geometry)``, a sum over images and pixels."""

    op = _ops.conv_wgrad.default

    @staticmethod
    def fake(
        grad_y: Tensor,
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        channel = x.dim() - len(stride) - 1
        return x.new_empty((grad_y.shape[channel], x.shape[channel] // groups, *kernel_size))

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernel_size, ctx.geometry = inputs[2], inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_grad_weight: Tensor) -> tuple[Any, ...]:
        grad_y, x = ctx.saved_tensors
        grad_grad_y = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_grad_y = _conv(x, grad_grad_weight, None, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_x = _dgrad(grad_y, grad_grad_weight, x.shape, *ctx.geometry)
        return grad_grad_y, grad_x, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        grad_y, x, kernel_size, *geometry = args
        batched = _is_batched(x, in_dims[1], geometry)
        grad_y = _in_channels(info, grad_y, in_dims[0], batched)
        x = _in_channels(info, x, in_dims[1], batched)
        grad_weight = ConvWgrad.apply(grad_y, x, kernel_size, *geometry[:3], geometry[3] * info.batch_size)
        return _out_of_channels(info, grad_weight, False)

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor | None, x_tangent: Tensor | None, *_: None) -> Any:
        grad_y, x = ctx.saved_tensors
        tangent: Any = None
        if grad_y_tangent is not None:
            tangent = _wgrad(grad_y_tangent, x, ctx.kernel_size, *ctx.geometry)
        if x_tangent is not None:
            tangent = _sum(tangent, _wgrad(grad_y, x_tangent, ctx.kernel_size, *ctx.geometry))
        return tangent


def _empty(sizes: Sequence[int], batched: bool, *operands: Tensor) -> Tensor:
    """Channels-last if an operand is, as torch reads strides; else contiguous."""
    memory_format = _FORMATS.get(len(sizes) + (not batched))
    for operand in operands:
        if memory_format and torch._prims_common.suggest_memory_format(operand) == memory_format:
            break
    else:
        return operands[0].new_empty(sizes)
    like: dict[str, Any] = {"dtype": operands[0].dtype, "device": operands[0].device, "memory_format": memory_format}
    if batched:
        return torch.empty(sizes, **like)
    return torch.empty((1, *sizes), **like).squeeze(0)


def _sum_to_bias(grad_y: Tensor, weight: Tensor) -> Tensor:
    channel = grad_y.dim() - weight.dim() + 1
    return grad_y.sum([d for d in range(grad_y.dim()) if d != channel])


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


# ---- the mapped dimension: images where the weight is shared, groups where each image set has its own
# ------------------


def _is_batched(x: Tensor, in_dim: int | None, geometry: Sequence[Any]) -> bool:
    return x.dim() - (in_dim is not None) == len(geometry[0]) + 2


def _each_image(function: Any, info: Any, x: Tensor, in_dim: int | None, batched: bool, *args: Any) -> Tensor:
    x = batch_first(info.batch_size, x, in_dim)
    if not batched:
        return function.apply(x, *args)
    images = x.shape[1]
    y = function.apply(x.reshape(info.batch_size * images, *x.shape[2:]), *args)
    return y.reshape(info.batch_size, images, *y.shape[1:])


def _in_channels(info: Any, tensor: Tensor, in_dim: int | None, batched: bool) -> Tensor:
    """``(B, N, C, *)`` as ``(N, B * C, *)``, or ``(B, C, *)`` as ``(B * C, *)``."""
    tensor = batch_first(info.batch_size, tensor, in_dim)
    return tensor.movedim(0, 1).flatten(1, 2) if batched else tensor.flatten(0, 1)


def _out_of_channels(info: Any, tensor: Tensor, batched: bool) -> tuple[Tensor, int]:
    dim = int(batched)
    return tensor.unflatten(dim, (info.batch_size, tensor.shape[dim] // info.batch_size)), dim


def _autocast(device: str) -> None:
    """``torch.autocast`` runs convolutions in its lower precision, whichever the user chose."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))

    def lowered(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        x, weight, bias = autocast_operands(device, x, weight, bias)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return Conv.op(x, weight, bias, *geometry)

    _library.impl("conv", lowered, f"Autocast{device.upper()}")


def autocast_operands(device: str, *tensors: Tensor | None) -> tuple[Any, ...]:
    """``tensors`` in autocast's dtype, differentiably; float64 and integers stay, as torch leaves them."""
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


_conv = differentiable(Conv)
_conv_activation = differentiable(ConvActivation)
_dgrad = differentiable(ConvDgrad)
_wgrad = differentiable(ConvWgrad)

_library = torch.library.Library("nnart_ops", "FRAGMENT")
_autocast("cpu")
_autocast("cuda")

conv = _conv
conv_activation = _conv_activation
