"""Which activation a convolution's ``activation=`` means: the op's name, its numbers, and the function by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnart_ops.autograd.activation import known_from_output
from nnart_ops.functional import activation as _functional

Numbers = tuple[float, ...]


class Epilogue(NamedTuple):
    """``function(pre)`` is the activation by itself; ``op`` with ``numbers`` is what the kernel calls it."""

    op: str
    numbers: Numbers
    function: Callable[[Tensor], Tensor]

    @property
    def is_known_from_output(self) -> bool:
        """Whether the output says what the derivative is."""
        return known_from_output(self.op, self.numbers)

    def in_place(self, pre: Tensor) -> Tensor:
        """Overwrites ``pre`` with the activation of it, without autograd."""
        if self.op != "identity":
            getattr(torch.ops.nnart_ops, self.op + "_").kernel(pre, *self.numbers)
        return pre


IDENTITY = Epilogue("identity", (), lambda pre: pre)
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)
_nn = torch.nn
# name: torch's module, the op, the numbers that it is called with for a module (for a name, its defaults')
_TABLE: dict[str, tuple[type[torch.nn.Module], str, Callable[[Any], Numbers]]] = {
    "relu": (_nn.ReLU, "relu", lambda m: ()),
    "relu6": (_nn.ReLU6, "hardtanh", lambda m: (0.0, 6.0)),
    "leaky_relu": (_nn.LeakyReLU, "leaky_relu", lambda m: (m.negative_slope,)),
    "hardtanh": (_nn.Hardtanh, "hardtanh", lambda m: (m.min_val, m.max_val)),
    "hardsigmoid": (_nn.Hardsigmoid, "hardsigmoid", lambda m: ()),
    "hardswish": (_nn.Hardswish, "hardswish", lambda m: ()),
    "hardshrink": (_nn.Hardshrink, "hardshrink", lambda m: (m.lambd,)),
    "softshrink": (_nn.Softshrink, "softshrink", lambda m: (m.lambd,)),
    "elu": (_nn.ELU, "elu", lambda m: (m.alpha, 1.0, 1.0)),
    "selu": (_nn.SELU, "elu", lambda m: _SELU),
    "celu": (_nn.CELU, "elu", lambda m: (m.alpha, 1.0, 1.0 / m.alpha)),
    "sigmoid": (_nn.Sigmoid, "sigmoid", lambda m: ()),
    "logsigmoid": (_nn.LogSigmoid, "logsigmoid", lambda m: ()),
    "softplus": (_nn.Softplus, "softplus", lambda m: (m.beta, m.threshold)),
    "softsign": (_nn.Softsign, "softsign", lambda m: ()),
    "tanh": (_nn.Tanh, "tanh", lambda m: ()),
    "tanhshrink": (_nn.Tanhshrink, "tanhshrink", lambda m: ()),
    "gelu": (_nn.GELU, "gelu", lambda m: ()),
    "silu": (_nn.SiLU, "silu", lambda m: ()),
    "mish": (_nn.Mish, "mish", lambda m: ()),
}

_BY_CLASS = {cls: (op, numbers_of) for cls, op, numbers_of in _TABLE.values()}  # looked up at every call of a layer


def epilogue_of(activation: Any) -> Epilogue:
    """The epilogue that ``activation`` names: ``None``, a name of ``torch.nn.functional``, or a module.

    Raises:
        ValueError: for a name that is none.
        TypeError: for a module that is no element-wise activation without weights, or something else.
    """
    if activation is None:
        return IDENTITY
    if isinstance(activation, str):
        return _epilogue_named(activation)
    for base in type(activation).__mro__[:3]:  # torch's own class, or ours above it
        row = _BY_CLASS.get(base)
        if row is not None:
            op, numbers_of = row
            if op == "gelu" and activation.approximate == "tanh":
                op = "gelu_tanh"
            return Epilogue(op, tuple(float(number) for number in numbers_of(activation)), activation)
    raise TypeError(
        f"activation must be a name ({', '.join(_TABLE)}) or a module of these without weights, "
        f"but got {type(activation).__name__}"
    )


@functools.cache
def _epilogue_named(activation: str) -> Epilogue:
    row = _TABLE.get(activation)
    if row is None:
        raise ValueError(f"activation must be one of {', '.join(_TABLE)}, but got {activation!r}")
    numbers = tuple(float(number) for number in row[2](row[0]()))
    return Epilogue(row[1], numbers, getattr(_functional, activation))
