"""RReLU in training: its slopes from our generator."""

from __future__ import annotations

import torch
from torch import Tensor

from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.function import refuse_leaf, transforms_active
from nnart_ops.autograd.recompute import recomputed
from nnart_ops.autograd.rrelu import rrelu, rrelu_from_output
from nnart_ops.functional import _saving
from nnart_ops.functional.dropout import new_seed


def random_rrelu(x: Tensor, lower: float, upper: float, inplace: bool, save: str | None) -> Tensor:
    """Leaky ReLU of ``x`` with a random slope an element; the backward draws the slopes again."""
    if save is not None:
        _saving.check("rrelu", "rrelu", save, inplace, (lower,))
    how = (new_seed(x.device), float(lower), float(upper), memory_order(x))
    eager = not (torch.compiler.is_compiling() or transforms_active())
    if inplace or (save == "output" and eager):
        if not (eager and torch.is_grad_enabled() and x.requires_grad):
            y: Tensor = rrelu(x, x.detach(), *how)
            return x.copy_(y) if inplace else y
        if inplace:
            refuse_leaf(x)
        if lower >= 0:
            return rrelu_from_output(x, inplace, *how)
        return x.copy_(rrelu(x.clone(), x.detach().clone(), *how))
    sign = x.detach()
    y = rrelu(x, sign, *how)
    if save == "recompute" and y.requires_grad:
        y = recomputed(y, (x,), lambda again: rrelu(again, again, *how))
    return y
