"""Convolution and its gradients: three linear ops, each of whose derivatives is another of them, so that every higher
order exists.

    y = conv(x, w) + b             grad_x = conv_transpose(g, w)   grad_w = conv_wgrad(g, x)
    y = conv_transpose(x, w) + b   grad_x = conv(g, w)             grad_w = conv_wgrad(x, g)
    w = conv_wgrad(g, x)           grad_g = conv(x, grad_w)        grad_x = conv_transpose(g, grad_w)

and grad_b is the sum of g. The last arguments of each are the geometry ``(stride, padding, dilation, groups)``; padding
has the amounts before each axis, then those after. ``conv_transpose`` takes the sizes of y before it, which the others
leave open. Tensors may lack the batch dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.activation import known_from_output
from nnart_ops.autograd.bias_activation import bias_activation_backward
from nnart_ops.autograd.channel_sum import along, channel_sum
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.function import OpFunction, batch_first, by_sample, differentiable, is_asked_for
from nnart_ops.autograd.handover import accept, hand, handed
from nnart_ops.autograd.masked_activation import masked_backward

_ops = torch.ops.nnart_ops
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LARGER_THAN_CACHES = 1 << 23  # bytes


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
        return _empty(sizes, x.dim() == dims + 2, x, weight)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.where = inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return *Conv.gradients(ctx, grad_y, *ctx.saved_tensors), None, None, None, None

    @staticmethod
    def gradients(
        ctx: Any, grad_y: Tensor, x: Tensor, weight: Tensor, grad_bias: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """Of input, weight and bias, each if it is asked for; the last may be known already. That of the input is
        ``None`` where what computed it was handed a better one."""
        grad_x = grad_weight = None
        if is_asked_for(ctx, 0) and not hand(ctx, ConvDgradActivation, grad_y, weight, x, *ctx.where):
            grad_x = _conv_transpose(grad_y, weight, None, x.shape, *ctx.where)
        wants_weight, wants_bias = is_asked_for(ctx, 1), grad_bias is None and is_asked_for(ctx, 2)
        if wants_weight and wants_bias:
            grad_weight, grad_bias = _wgrad_bias(grad_y, x, weight.shape[2:], *ctx.where)
        elif wants_weight:
            grad_weight = _wgrad(grad_y, x, weight.shape[2:], *ctx.where)
        elif wants_bias:
            grad_bias = channel_sum(grad_y, _channel_dim(grad_y, weight))
        return grad_x, grad_weight, grad_bias

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
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(Conv, ctx, *ctx.saved_tensors, *tangents[:3])


class ConvTranspose(OpFunction):
    """``conv_transpose(x, weight, bias, y_size, *geometry)``."""

    op = _ops.conv_transpose.default

    @staticmethod
    def fake(
        x: Tensor, weight: Tensor, bias: Tensor | None, y_size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> Tensor:
        return _empty(y_size, len(y_size) == len(stride) + 2, x, weight)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.where = inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return *ConvTranspose.gradients(ctx, grad_y, *ctx.saved_tensors), None, None, None, None, None

    @staticmethod
    def gradients(
        ctx: Any, grad_y: Tensor, x: Tensor, weight: Tensor, grad_bias: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """Of input, weight and bias, each if it is asked for; the last may be known already."""
        grad_x = grad_weight = None
        where = ctx.where[1:]
        if is_asked_for(ctx, 0) and not hand(ctx, ConvTransposeDgradActivation, grad_y, weight, x, *where):
            grad_x = _conv(grad_y, weight, None, *where)
        if is_asked_for(ctx, 1):
            grad_weight = _wgrad(x, grad_y, weight.shape[2:], *where)
        if grad_bias is None and is_asked_for(ctx, 2):
            grad_bias = channel_sum(grad_y, _channel_dim(grad_y, weight))
        return grad_x, grad_weight, grad_bias

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        x, weight, bias, y_size, *geometry = args
        batched = len(y_size) == len(geometry[0]) + 2
        if in_dims[1] is None and in_dims[2] is None:
            y_size = (info.batch_size * y_size[0], *y_size[1:]) if batched else (info.batch_size, *y_size)
            return _each_image(ConvTranspose, info, x, in_dims[0], batched, weight, bias, y_size, *geometry), 0
        x = _in_channels(info, x, in_dims[0], batched)
        weight = _in_channels(info, weight, in_dims[1], False)
        if bias is not None:
            bias = _in_channels(info, bias, in_dims[2], False)
        y_size = list(y_size)
        y_size[int(batched)] = y_size[int(batched)] * info.batch_size
        y = ConvTranspose.apply(x, weight, bias, y_size, *geometry[:3], geometry[3] * info.batch_size)
        return _out_of_channels(info, y, batched)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(ConvTranspose, ctx, *ctx.saved_tensors, *tangents[:3])


class ConvActivation(OpFunction):
    """``activation(conv(x, weight, bias, *geometry) + residual)``, of which only the output is kept."""

    op = _ops.conv_activation.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any) -> Tensor:
        return Conv.fake(x, weight, bias, *args[:4])

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.where, ctx.activation, ctx.numbers = inputs[4:-2], inputs[-2], inputs[-1]
        accept(ctx)
        return inputs[0], inputs[1], output

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return _backward_of_activated(Conv, ctx, grad_y)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(functools.partial(_in_parts, Conv), in_dims, 0, randomness="error")(*args), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent_of_activated(Conv, ctx, *tangents[:4])


class ConvMaskedActivation(OpFunction):
    """:class:`ConvActivation` that keeps not the output but the mask, its second result."""

    op = _ops.conv_masked_activation.default

    @staticmethod
    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any) -> Any:
        y = Conv.fake(x, weight, bias, *args[:4])
        return y, x.new_empty([(y.numel() + 7) // 8], dtype=torch.uint8)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Tensor, Tensor, Tensor]:
        ctx.where, ctx.activation = inputs[4:-2], inputs[-2:]
        y, mask = output
        ctx.mark_non_differentiable(mask)
        ctx.set_materialize_grads(False)
        ctx.order = memory_order(y)
        return inputs[0], inputs[1], mask

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, _: Any) -> tuple[Any, ...]:
        if grad_y is None:
            return (None,) * 10
        x, weight, mask = ctx.saved_tensors
        grad = masked_backward(grad_y, mask, *ctx.activation, ctx.order)
        grad_residual = grad if ctx.needs_input_grad[3] else None
        return *Conv.gradients(ctx, grad, x, weight), grad_residual, *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return by_sample(ConvMaskedActivation.apply, info, in_dims, *args)


class ConvTransposeActivation(OpFunction):
    """``activation(conv_transpose(x, weight, bias, *where) + residual)``, of which only the output is kept."""

    op = _ops.conv_transpose_activation.default
    prepare = staticmethod(ConvActivation.prepare)

    @staticmethod
    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any) -> Tensor:
        return ConvTranspose.fake(x, weight, bias, *args[:5])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        return _backward_of_activated(ConvTranspose, ctx, grad_y)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return torch.vmap(functools.partial(_in_parts, ConvTranspose), in_dims, 0, randomness="error")(*args), 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent_of_activated(ConvTranspose, ctx, *tangents[:4])


def _backward_of_activated(linear: Any, ctx: Any, grad_y: Tensor | None) -> tuple[Any, ...]:
    x, weight, y = ctx.saved_tensors
    grad, grad_bias = handed(ctx), None
    if grad_y is None:
        if grad is None:
            return (None,) * (len(ctx.where) + 6)
    elif grad is not None:
        grad = grad + _before_activation(ctx.activation, ctx.numbers, grad_y, y)
    elif ctx.activation != "identity" and is_asked_for(ctx, 2) and _is_summed_in_passing(grad_y):
        how = (ctx.activation, ctx.numbers, True, True, _channel_dim(y, weight), memory_order(y))
        grad, grad_bias = bias_activation_backward(grad_y, y, None, None, 0.0, *how)
    else:
        grad = _before_activation(ctx.activation, ctx.numbers, grad_y, y)
    grad_residual = grad if ctx.needs_input_grad[3] else None
    return *linear.gradients(ctx, grad, x, weight, grad_bias), grad_residual, *(None,) * (len(ctx.where) + 2)


def _is_summed_in_passing(grad_y: Tensor) -> bool:
    """Whether the bias's gradient is added up while the activation's is computed: where that saves a reading from
    memory. What fits a cache is added up sooner by itself."""
    return type(grad_y) is Tensor and (grad_y.is_cuda or grad_y.nbytes >= LARGER_THAN_CACHES)


def _tangent_of_activated(
    linear: Any, ctx: Any, x_tangent: Any, weight_tangent: Any, bias_tangent: Any, residual_tangent: Any
) -> Any:
    x, weight, y = ctx.saved_tensors
    tangent = residual_tangent
    if not (x_tangent is None and weight_tangent is None and bias_tangent is None):
        tangent = _sum(tangent, _tangent(linear, ctx, x, weight, x_tangent, weight_tangent, bias_tangent))
    return _before_activation(ctx.activation, ctx.numbers, tangent, y)


def _tangent(
    linear: Any, ctx: Any, x: Tensor, weight: Tensor, x_tangent: Any, weight_tangent: Any, bias_tangent: Any
) -> Any:
    """Of ``linear``, conv or its transpose, with at least one tangent that is none."""
    tangent: Any = None
    if x_tangent is not None:
        tangent = linear.entry(x_tangent, weight, None, *ctx.where)
    if weight_tangent is not None:
        tangent = _sum(tangent, linear.entry(x, weight_tangent, None, *ctx.where))
    if bias_tangent is not None:
        if tangent is None:
            tangent = torch.zeros_like(linear.entry(x, weight, None, *ctx.where))
        tangent = tangent + along(bias_tangent, 0, weight.dim() - 1)
    return tangent


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


def _in_parts(
    linear: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, *args: Any
) -> Tensor:
    y: Tensor = linear.entry(x, weight, bias, *args[:-2])
    if residual is not None:
        y = y + residual
    if args[-2] == "identity":
        return y
    result: Tensor = getattr(_activation, args[-2]).apply(y, *args[-1])
    return result


def _dgrad_activation(name: str, operator: Any, transposed: bool) -> type[OpFunction]:
    """``op(grad_y, weight, x, *geometry, activation, numbers)``: the gradient of z, of ``y = conv(x, weight)`` or its
    transpose with ``x = activation(z)``, which is kept."""

    def dgrad(grad_y: Tensor, weight: Tensor, x: Tensor, where: Any) -> Tensor:
        if transposed:
            return _conv(grad_y, weight, None, *where)
        return _conv_transpose(grad_y, weight, None, x.shape, *where)

    class DgradActivation(OpFunction):
        op = operator

        @staticmethod
        def fake(grad_y: Tensor, weight: Tensor, x: Tensor, *args: Any) -> Tensor:
            if transposed:
                return Conv.fake(grad_y, weight, None, *args[:4])
            return ConvTranspose.fake(grad_y, weight, None, x.shape, *args[:4])

        @staticmethod
        def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Any, ...]:
            ctx.where, ctx.activation, ctx.numbers = inputs[3:7], inputs[7], inputs[8]
            return inputs[:3]

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            grad_y, weight, x = ctx.saved_tensors
            through = _before_activation(ctx.activation, ctx.numbers, grad, x)
            grad_grad_y = grad_weight = grad_x = None
            if is_asked_for(ctx, 0) and transposed:
                grad_grad_y = _conv_transpose(through, weight, None, grad_y.shape, *ctx.where)
            elif is_asked_for(ctx, 0):
                grad_grad_y = _conv(through, weight, None, *ctx.where)
            if is_asked_for(ctx, 1):
                pair = (through, grad_y) if transposed else (grad_y, through)
                grad_weight = _wgrad(*pair, weight.shape[2:], *ctx.where)
            if is_asked_for(ctx, 2):
                grad_x = curved(ctx, grad)
            return grad_grad_y, grad_weight, grad_x, *(None,) * 6

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
            return by_sample(DgradActivation.apply, info, in_dims, *args)

        @staticmethod
        def jvp(ctx: Any, grad_y_tangent: Any, weight_tangent: Any, x_tangent: Any, *_: None) -> Tensor:
            grad_y, weight, x = ctx.saved_tensors
            tangent = torch.zeros_like(x)
            if grad_y_tangent is not None:
                tangent = tangent + dgrad(grad_y_tangent, weight, x, ctx.where)
            if weight_tangent is not None:
                tangent = tangent + dgrad(grad_y, weight_tangent, x, ctx.where)
            tangent = _before_activation(ctx.activation, ctx.numbers, tangent, x)
            more = None if x_tangent is None else curved(ctx, x_tangent)
            return tangent if more is None else tangent + more

    def curved(ctx: Any, factor: Tensor) -> Tensor | None:
        """``factor`` times the derivative with respect to x; ``None`` for zero."""
        grad_y, weight, x = ctx.saved_tensors
        second = getattr(_activation, ctx.activation).second
        return None if second is None else factor * dgrad(grad_y, weight, x, ctx.where) * second(x, *ctx.numbers)

    DgradActivation.__name__ = DgradActivation.__qualname__ = name
    differentiable(DgradActivation)
    return DgradActivation


ConvDgradActivation = _dgrad_activation("ConvDgradActivation", _ops.conv_dgrad_activation.default, False)
ConvTransposeDgradActivation = _dgrad_activation(
    "ConvTransposeDgradActivation", _ops.conv_transpose_dgrad_activation.default, True
)


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
        sizes = (grad_y.shape[channel], x.shape[channel] // groups, *kernel_size)
        memory_format = _FORMATS.get(len(sizes))
        if channel == 0 or torch._prims_common.suggest_memory_format(x) != memory_format:
            return x.new_empty(sizes)
        return torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=memory_format)

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernel_size, ctx.geometry = inputs[2], inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_grad_weight: Tensor, grad_grad_bias: Tensor | None = None) -> tuple[Any, ...]:
        grad_y, x = ctx.saved_tensors
        grad_grad_y = grad_x = None
        if is_asked_for(ctx, 0):
            grad_grad_y = _conv(x, grad_grad_weight, grad_grad_bias, *ctx.geometry)
        if is_asked_for(ctx, 1):
            grad_x = _conv_transpose(grad_y, grad_grad_weight, None, x.shape, *ctx.geometry)
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


class ConvWgradBias(OpFunction):
    """``conv_wgrad_bias``: :class:`ConvWgrad` and the sums of ``grad_y``'s channels, the gradient of the bias."""

    op = _ops.conv_wgrad_bias.default
    prepare = staticmethod(ConvWgrad.prepare)
    backward = staticmethod(ConvWgrad.backward)

    @staticmethod
    def fake(grad_y: Tensor, x: Tensor, kernel_size: Sequence[int], *geometry: Any) -> tuple[Tensor, Tensor]:
        grad_weight = ConvWgrad.fake(grad_y, x, kernel_size, *geometry)
        return grad_weight, grad_y.new_empty([grad_weight.shape[0]])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], grad_y: Tensor, x: Tensor, *args: Any) -> Any:
        def in_parts(grad_y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return _wgrad(grad_y, x, *args), channel_sum(grad_y, grad_y.dim() - len(args[0]) - 1)

        return torch.vmap(in_parts, in_dims[:2], randomness="error")(grad_y, x), (0, 0)

    @staticmethod
    def jvp(ctx: Any, grad_y_tangent: Tensor | None, x_tangent: Tensor | None, *_: None) -> Any:
        grad_y, _ = ctx.saved_tensors
        tangent = ConvWgrad.jvp(ctx, grad_y_tangent, x_tangent)
        channel = grad_y.dim() - len(ctx.kernel_size) - 1
        if grad_y_tangent is None:
            return tangent, grad_y.new_zeros(grad_y.shape[channel])
        return tangent, channel_sum(grad_y_tangent, channel)


def _empty(sizes: Sequence[int], batched: bool, x: Tensor, weight: Tensor) -> Tensor:
    """Channels-last if the weight is, or an input that has a batch, as torch reads strides; else contiguous."""
    memory_format = _FORMATS.get(weight.dim())
    operands = (x, weight) if batched else (weight,)
    suggested = [torch._prims_common.suggest_memory_format(operand) for operand in operands]
    if memory_format not in suggested or statically_known_true(x.numel() == 0):
        return x.new_empty(sizes)
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device, "memory_format": memory_format}
    if batched:
        return torch.empty(sizes, **like)
    return torch.empty((1, *sizes), **like).squeeze(0)


def _channel_dim(t: Tensor, weight: Tensor) -> int:
    return t.dim() - weight.dim() + 1


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


# ---- the mapped dimension: images where the weight is shared, groups where each image set has its own ----------------


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

    for name, function in (("conv", Conv), ("conv_transpose", ConvTranspose)):

        def lowered(x: Tensor, weight: Tensor, bias: Any, *where: Any, function: Any = function) -> Any:
            x, weight, bias = autocast_operands(device, x, weight, bias)
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return function.op(x, weight, bias, *where)

        _library.impl(name, lowered, f"Autocast{device.upper()}")


def autocast_operands(device: str, *tensors: Tensor | None) -> tuple[Any, ...]:
    """``tensors`` in autocast's dtype, differentiably; float64 and integers stay, as torch leaves them."""
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


_conv = differentiable(Conv)
_conv_activation = differentiable(ConvActivation)
_conv_masked_activation = differentiable(ConvMaskedActivation)
_conv_transpose = differentiable(ConvTranspose)
_conv_transpose_activation = differentiable(ConvTransposeActivation)
_wgrad = differentiable(ConvWgrad)
_wgrad_bias = differentiable(ConvWgradBias)

_library = torch.library.Library("nnart_ops", "FRAGMENT")
_autocast("cpu")
_autocast("cuda")

conv = _conv
conv_activation = _conv_activation
conv_masked_activation = _conv_masked_activation
conv_transpose = _conv_transpose
conv_transpose_activation = _conv_transpose_activation
