"""Gated activations: torch.nn's GLU, and the variants that torch.nn has no name for."""

from __future__ import annotations

import torch
from torch import Tensor

from nnart_ops import functional as F
from nnart_ops.functional._saving import GATED, check_choice
from nnart_ops.nn.activation import Activation


class GLU(Activation, torch.nn.GLU):
    """:class:`torch.nn.GLU` by :func:`nnart_ops.functional.glu`. Shape: ``2 n`` in dimension ``dim`` to ``n``."""

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim, save=self.save)


class _Gated(torch.nn.Module):
    def __init__(self, dim: int = -1, gate_first: bool = False, *, save: str | None = None) -> None:
        super().__init__()
        if save is not None:
            check_choice(type(self).__name__, save, GATED)
        self.dim, self.gate_first, self.save = dim, gate_first, save

    def extra_repr(self) -> str:
        text = f"dim={self.dim}" + ", gate_first=True" * self.gate_first
        return text if self.save is None else f"{text}, save={self.save!r}"


class SwiGLU(_Gated):
    """``value * silu(gate)`` by :func:`nnart_ops.functional.swiglu`; called as ``layer(x)`` or ``layer(value, gate)``.

    Args:
        dim: the dimension that holds value and gate if there is one input.
        gate_first: whether the gate is its first half.
        save: what is kept for the backward, as the function has it.

    Shape: ``2 n`` in dimension ``dim`` to ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.SwiGLU()(torch.zeros(3, 8)).shape
    torch.Size([3, 4])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.swiglu(input, gate, self.dim, self.gate_first, save=self.save)


class GEGLU(_Gated):
    """``value * gelu(gate)`` by :func:`nnart_ops.functional.geglu`; called as ``layer(x)`` or ``layer(value, gate)``.

    Args:
        dim: the dimension that holds value and gate if there is one input.
        gate_first: whether the gate is its first half.
        save: what is kept for the backward, as the function has it.
        approximate: ``'none'`` or ``'tanh'``.

    Shape: ``2 n`` in dimension ``dim`` to ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.GEGLU(approximate="tanh")
    GEGLU(dim=-1, approximate='tanh')
    """

    def __init__(
        self, dim: int = -1, gate_first: bool = False, approximate: str = "none", *, save: str | None = None
    ) -> None:
        super().__init__(dim, gate_first, save=save)
        self.approximate = approximate

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.geglu(input, gate, self.dim, self.gate_first, self.approximate, save=self.save)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class ReGLU(_Gated):
    """``value * relu(gate)`` by :func:`nnart_ops.functional.reglu`; called as ``layer(x)`` or ``layer(value, gate)``.

    Args:
        dim: the dimension that holds value and gate if there is one input.
        gate_first: whether the gate is its first half.
        save: what is kept for the backward, as the function has it.

    Shape: ``2 n`` in dimension ``dim`` to ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.ReGLU(dim=1)(torch.ones(2, 6, 5)).shape
    torch.Size([2, 3, 5])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.reglu(input, gate, self.dim, self.gate_first, save=self.save)


class BilinearGLU(_Gated):
    """``value * gate`` by :func:`nnart_ops.functional.bilinear_glu`; called as ``layer(x)`` or ``layer(value, gate)``.

    Args:
        dim: the dimension that holds value and gate if there is one input.
        gate_first: whether the gate is its first half.
        save: what is kept for the backward, as the function has it.

    Shape: ``2 n`` in dimension ``dim`` to ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.BilinearGLU()(torch.tensor([2.0, 3.0]))
    tensor([6.])
    """

    def forward(self, input: Tensor, gate: Tensor | None = None) -> Tensor:
        return F.bilinear_glu(input, gate, self.dim, self.gate_first, save=self.save)
