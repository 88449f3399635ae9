"""What an activation keeps for its backward: the meaning of ``save``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.function import transforms_active
from nnart_ops.autograd.masked_activation import masked_activation
from nnart_ops.autograd.recompute import recomputed

# The ops whose derivative the output gives exactly, and for which of their numbers it does.
_FROM_OUTPUT: dict[str, Callable[..., bool]] = {
    "relu": lambda: True,
    "sigmoid": lambda: True,
    "tanh": lambda: True,
    "logsigmoid": lambda: True,
    "leaky_relu": lambda slope: slope >= 0,
    "threshold": lambda threshold, value: value <= threshold,
    "hardtanh": lambda low, high: True,
    "hardshrink": lambda lambd: lambd >= 0,
    "softshrink": lambda lambd: True,
    "rrelu": lambda lower: lower >= 0,
    "elu": lambda alpha, scale, input_scale: alpha * scale >= 0 and input_scale > 0,
    "softplus": lambda beta, threshold: beta > 0 and threshold >= 20,
}

# Of a gated activation.
GATED = ("input", "recompute")

# Those whose derivative takes two values: slopes_of in csrc/math/activations.h.
_WITH_TWO_SLOPES = ("relu", "leaky_relu", "threshold", "hardtanh", "hardsigmoid", "hardshrink", "softshrink")


def allowed(op: str, parameters: tuple[float, ...]) -> list[str]:
    """The values of ``save`` that an activation has."""
    choices = ["input"]
    if op in _FROM_OUTPUT and _FROM_OUTPUT[op](*parameters):
        choices.append("output")
    if op in _WITH_TWO_SLOPES:
        choices.append("mask")
    return [*choices, "recompute"]


def check_choice(name: str, save: Any, choices: Sequence[str]) -> None:
    """Refuses anything but the choices."""
    if save not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: save must be None or one of {listed}, but got {save!r}")


def check(name: str, op: str, save: Any, inplace: bool, parameters: tuple[float, ...]) -> None:
    """Refuses what ``name`` cannot keep."""
    check_choice(name, save, allowed(op, parameters))
    if inplace and save != "output":
        raise ValueError(f"{name}: inplace=True overwrites the input, so save must be None or 'output', not {save!r}")


def run(activation: _activation.Activation, op: str, x: Tensor, inplace: bool, save: str, *parameters: float) -> Tensor:
    """The activation of ``x``, keeping what ``save`` says."""
    if save == "mask":
        eager = not (torch.compiler.is_compiling() or transforms_active())
        if eager and x.requires_grad and torch.is_grad_enabled():
            y: Tensor = masked_activation(x, op, list(parameters), memory_order(x))[0]
            return y
        return activation.apply(x, *parameters)
    y = activation.saving("output" if save == "output" else "input", x, inplace, *parameters)
    if save == "recompute" and y.requires_grad:
        y = recomputed(y, (x,), lambda again: activation.kernel(again, *parameters))
    return y
