"""Element-wise activations: ``grad_x = grad_y * d(s)``, s the tensor that the forward saves.

Each is made from its op's name and d'(s), the second derivative with respect to what is saved, which double backward
needs and which is written in differentiable torch operations, so that every higher order works. ``None`` says that it
is zero almost everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

Second = Callable[..., Tensor] | None


class Activation:
    """One activation in all the ways it is called.

    Attributes:
        apply: ``apply(x, *parameters)`` returns the activation of ``x``.
        backward: ``backward(grad_y, saved, *parameters)`` returns ``grad_x``, and is itself differentiable.
        saves_output: whether ``saved`` is the output instead of the input.
        second: the second derivative, ``second(saved, *parameters)``; ``None`` for zero.
        from_output: :attr:`backward` with the output for ``saved``. For an activation that has a formula of its own for
            it, the constructor's argument is the derivative of that with respect to the output.
        kernel: :attr:`apply` without autograd.
    """

    def __init__(self, name: str, second: Second, *, saves: str = "x", from_output: Second = None) -> None:
        ops = torch.ops.nnart_ops
        saves_output = self.saves_output = saves == "y"
        self.second = second
        backward = _backward_function(name, getattr(ops, f"{name}_backward").default, second)
        self.backward = differentiable(backward)
        forward = _forward_function(name, getattr(ops, name).default, saves_output, self.backward)
        takes_numbers = len(forward.op._schema.arguments) > 1
        self.apply = differentiable(forward, None if takes_numbers else _lean(saves_output, backward))
        self.from_output: Callable[..., Tensor] = self.backward  # where the output says what the derivative is
        if from_output is not None:
            operator = getattr(ops, f"{name}_backward_from_output").default
            function = _backward_function(f"{name}_backward_from_output", operator, from_output)
            self.from_output = differentiable(function)
        self.kernel = forward.kernel
        self._inplace_kernel = register_fake(getattr(ops, f"{name}_").default, lambda x, *parameters: None)
        self._inplace_function = _inplace_function(name, self._inplace_kernel, saves_output, self.backward)

    def saving(self, what: str, x: Tensor, inplace: bool, *parameters: float) -> Tensor:
        """:attr:`apply` or :meth:`inplace`, keeping the ``"input"`` or the ``"output"`` for the backward in eager
        mode."""
        if torch.compiler.is_compiling() or transforms_active() or not (torch.is_grad_enabled() and x.requires_grad):
            return self.inplace(x, *parameters) if inplace else self.apply(x, *parameters)
        if inplace:
            refuse_leaf(x)
        return _Saving.apply(self, what == "output", x, inplace, *parameters)

    def inplace(self, x: Tensor, *parameters: float) -> Tensor:
        """Overwrites ``x`` with its activation and returns it."""
        if torch.compiler.is_compiling() or transforms_active():
            return x.copy_(self.apply(x, *parameters))
        if torch.is_grad_enabled() and x.requires_grad:
            refuse_leaf(x)
            return self._inplace_function.apply(x, *parameters)
        self._inplace_kernel(x, *parameters)
        torch.autograd.graph.increment_version(x)
        return x


class _Saving(torch.autograd.Function):
    """An activation that keeps what it is told to."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, output: bool, x: Tensor, inplace: bool, *parameters: float) -> Tensor:
        if inplace:
            activation._inplace_kernel(x, *parameters)
            ctx.mark_dirty(x)
            y = x
        else:
            y = activation.kernel(x, *parameters)
        ctx.activation, ctx.output, ctx.parameters = activation, output, parameters
        ctx.save_for_backward(y if output else x)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
        activation, parameters = ctx.activation, ctx.parameters
        (saved,) = ctx.saved_tensors
        if ctx.output:
            grad_x = activation.from_output(grad_y, saved, *parameters)
        else:
            if activation.saves_output:
                saved = activation.apply(saved, *parameters)
            grad_x = activation.backward(grad_y, saved, *parameters)
        return None, None, grad_x, None, *(None,) * len(parameters)


def _forward_function(name: str, operator: Any, saves_output: bool, backward_entry: Any) -> type[OpFunction]:
    class Forward(OpFunction):
        op = operator

        @staticmethod
        def fake(x: Tensor, *parameters: float) -> Tensor:
            return torch.empty_like(x)

        @staticmethod
        def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor]:
            ctx.parameters = inputs[1:]
            return (output if saves_output else inputs[0],)

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor) -> Any:
            grad_x = backward_entry(grad_y, *ctx.saved_tensors, *ctx.parameters)
            return (grad_x, *(None,) * len(ctx.parameters)) if ctx.parameters else grad_x

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *parameters: float) -> Any:
            return Forward.apply(x, *parameters), in_dims[0]

        @staticmethod
        def jvp(ctx: Any, x_tangent: Tensor, *_: None) -> Tensor:
            return backward_entry(x_tangent, *ctx.saved_tensors, *ctx.parameters)

    return _named(Forward, name)


def _lean(saves_output: bool, backward_function: type[OpFunction]) -> Callable[[type[OpFunction]], Any]:
    """The eager Function of an activation without numbers, with nothing in it that a small tensor would notice."""
    backward_kernel, backward_entry = backward_function.kernel, backward_function.entry
    is_grad_enabled = torch.is_grad_enabled

    def make(function: type[OpFunction]) -> Any:
        kernel = function.kernel

        class Lean(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                y = kernel(x)
                ctx.save_for_backward(y if saves_output else x)
                return y

            @staticmethod
            def backward(ctx: Any, grad_y: Tensor) -> Tensor:
                if is_grad_enabled():  # a graph of the backward is wanted
                    return backward_entry(grad_y, ctx.saved_tensors[0])
                return backward_kernel(grad_y, ctx.saved_tensors[0])

        return _named(Lean, function.__name__)

    return make


def _backward_function(name: str, operator: Any, second: Second) -> type[OpFunction]:
    class Backward(OpFunction):
        op = operator

        @staticmethod
        def fake(grad_y: Tensor, saved: Tensor, *parameters: float) -> Tensor:
            return torch.empty_like(saved)

        @staticmethod
        def prepare(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
            ctx.parameters = inputs[2:]
            return inputs[0], inputs[1]

        @staticmethod
        def backward(ctx: Any, grad_grad_x: Tensor) -> tuple[Any, ...]:
            grad_y, saved = ctx.saved_tensors
            grad_grad_y = grad_saved = None
            if ctx.needs_input_grad[0]:
                grad_grad_y = Backward.entry(grad_grad_x, saved, *ctx.parameters)
            if ctx.needs_input_grad[1] and second is not None:
                grad_saved = grad_grad_x * grad_y * second(saved, *ctx.parameters)
            return (grad_grad_y, grad_saved, *(None,) * len(ctx.parameters))

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
            grad_y, saved = (batch_first(info.batch_size, args[i], in_dims[i]) for i in range(2))
            return Backward.apply(grad_y, saved, *args[2:]), 0

        @staticmethod
        def jvp(ctx: Any, grad_y_tangent: Tensor | None, saved_tangent: Tensor | None, *_: None) -> Tensor:
            grad_y, saved = ctx.saved_tensors
            tangent = torch.zeros_like(saved)
            if grad_y_tangent is not None:
                tangent = tangent + Backward.entry(grad_y_tangent, saved, *ctx.parameters)
            if saved_tangent is not None and second is not None:
                tangent = tangent + saved_tangent * grad_y * second(saved, *ctx.parameters)
            return tangent

    return _named(Backward, f"{name}_backward")


def _inplace_function(name: str, kernel: Any, saves_output: bool, backward_entry: Any) -> type[torch.autograd.Function]:
    class Inplace(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *parameters: float) -> Tensor:
            original = None if saves_output else x.clone()
            kernel(x, *parameters)
            ctx.mark_dirty(x)
            ctx.parameters = parameters
            ctx.save_for_backward(x if saves_output else original)
            return x

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
            return (backward_entry(grad_y, *ctx.saved_tensors, *ctx.parameters), *(None,) * len(ctx.parameters))

    return _named(Inplace, f"{name}_inplace")


def _named(cls: Any, name: str) -> Any:
    cls.__name__ = cls.__qualname__ = "".join(part.capitalize() for part in name.split("_"))
    return cls


def known_from_output(activation: str, numbers: Sequence[float]) -> bool:
    """Whether the output of the activation says what its derivative is, so that the input need not be kept."""
    return activation in ("identity", "relu", "sigmoid", "tanh", "hardtanh") or (
        activation == "leaky_relu" and numbers[0] > 0
    )


class Applied:
    """An activation f by the name of its op, with its numbers; ``"identity"`` is none."""

    def __init__(self, name: str, numbers: Sequence[float]) -> None:
        self.numbers = tuple(numbers)
        self.activation: Activation | None = None if name == "identity" else globals()[name]

    def value(self, u: Tensor) -> Tensor:
        """``f(u)``."""
        return u if self.activation is None else self.activation.apply(u, *self.numbers)

    def slope(self, grad: Tensor, u: Tensor) -> Tensor:
        """``grad f'(u)``."""
        if self.activation is None:
            return grad
        return self.activation.backward(grad, self._saved(u), *self.numbers)

    def curvature(self, grad: Tensor, u: Tensor) -> Tensor | None:
        """``grad f''(u)``; ``None`` for zero."""
        if self.activation is None or self.activation.second is None:
            return None
        result = grad * self.activation.second(self._saved(u), *self.numbers)
        return self.slope(result, u) if self.activation.saves_output else result

    def _saved(self, u: Tensor) -> Tensor:
        return self.value(u) if self.activation is not None and self.activation.saves_output else u


# ---- the table ----------------------------------------------------------------------------------------------------


def _silu_second(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _mish_second(x: Tensor) -> Tensor:
    t, s = torch.tanh(torch.nn.functional.softplus(x)), torch.sigmoid(x)
    return (1 - t * t) * s * (2 + x * (1 - s - 2 * t * s))


def _gelu_second(x: Tensor) -> Tensor:
    return (2 - x * x) * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh_second(x: Tensor) -> Tensor:
    k, c = 2 * math.sqrt(2 / math.pi), 0.044715  # y = x s(v), v = k (x + c x^3)
    s = torch.sigmoid(k * (x + c * x**3))
    first, second = k * (1 + 3 * c * x * x), 6 * k * c * x
    return s * (1 - s) * (2 * first + x * ((1 - 2 * s) * first * first + second))


def _elu_second(x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    curved = alpha * scale * input_scale**2 * torch.exp(x.clamp(max=0) * input_scale)
    return torch.where(x > 0, torch.zeros_like(x), curved)


def _softplus_second(x: Tensor, beta: float, threshold: float) -> Tensor:
    s = torch.sigmoid(x * beta)
    return torch.where(x * beta > threshold, torch.zeros_like(x), beta * s * (1 - s))


def _elu_from_output(y: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return torch.where(y > 0, torch.zeros_like(y), torch.full_like(y, input_scale))


def _softplus_from_output(y: Tensor, beta: float, threshold: float) -> Tensor:
    return torch.where(y * beta > threshold, torch.zeros_like(y), beta * torch.exp(-beta * y))


def _tanhshrink_second(x: Tensor) -> Tensor:
    t = torch.tanh(x)
    return 2 * t * (1 - t * t)


relu = Activation("relu", None, saves="y")
leaky_relu = Activation("leaky_relu", None)
threshold = Activation("threshold", None)
hardtanh = Activation("hardtanh", None)
hardsigmoid = Activation("hardsigmoid", None)
hardswish = Activation("hardswish", lambda x: (x.abs() < 3).to(x.dtype) / 3)
hardshrink = Activation("hardshrink", None)
softshrink = Activation("softshrink", None)
elu = Activation("elu", _elu_second, from_output=_elu_from_output)
sigmoid = Activation("sigmoid", lambda y: 1 - 2 * y, saves="y")
logsigmoid = Activation(
    "logsigmoid", lambda x: -torch.sigmoid(x) * torch.sigmoid(-x), from_output=lambda y: -torch.exp(y)
)
softplus = Activation("softplus", _softplus_second, from_output=_softplus_from_output)
softsign = Activation("softsign", lambda x: -2 * torch.sign(x) / (1 + x.abs()) ** 3)
tanh = Activation("tanh", lambda y: -2 * y, saves="y")
tanhshrink = Activation("tanhshrink", _tanhshrink_second)
gelu = Activation("gelu", _gelu_second)
gelu_tanh = Activation("gelu_tanh", _gelu_tanh_second)
silu = Activation("silu", _silu_second)
mish = Activation("mish", _mish_second)
softshrink.from_output = lambda grad_y, y, lambd: hardshrink.backward(grad_y, y, 0.0)  # y is 0 exactly within lambd
