"""Adafactor: second moments of rows and columns instead of elements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Adafactor(FusedOptimizer, torch.optim.Adafactor):
    """:class:`torch.optim.Adafactor` in three reads of the gradient and one pass over the parameters.

    With ``beta = 1 - t ** beta2_decay``: ``row = beta * row + (1 - beta) * mean(g ** 2, -1)``, ``col`` likewise along
    -2; ``u = g / sqrt(row @ col / mean(row))``; ``p = p * (1 - lr * weight_decay) - min(lr, 1 / sqrt(t)) * max(eps[1],
    RMS(p)) / max(1, RMS(u) / d) * u`` (Shazeer and Stern 2018, arXiv:1804.04235). A vector keeps its whole variance.

    Args:
        params, lr, beta2_decay, eps, d, weight_decay, foreach, maximize: as :class:`torch.optim.Adafactor`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`; ``state_dtype`` must be ``None``: the state is small as it is.

    Shape: parameters of any shape; each gradient has its parameter's. The last two dimensions are the matrices.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32. Anything
    else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adafactor`, for an argument outside its range; for a ``state_dtype``.

    >>> p = torch.nn.Parameter(torch.ones(2, 2))
    >>> p.grad = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    >>> nnart_ops.optim.Adafactor([p], lr=0.5).step()
    >>> p.data
    tensor([[0.5000, 1.5000],
            [0.5000, 1.5000]])
    """

    _native = torch.optim.Adafactor
    _layer_wise = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("state_dtype") is not None:
            raise ValueError(
                f"nnart_ops.optim.Adafactor: state_dtype is {kwargs['state_dtype']}; allowed is None, because what it "
                "keeps is a row and a column of each matrix"
            )
        super().__init__(*args, **kwargs)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "beta2_decay", "eps.0", "eps.1", "d")
        return Rule("adafactor", hyper, ("variance",), decay="decoupled")

    def _prepare_state(self, p: Tensor, group: dict[str, Any], rule: Rule) -> bool:
        if p.dim() < 2:
            return super()._prepare_state(p, group, rule)
        state = self.state[p]
        shapes = {"row_var": (*p.shape[:-1], 1), "col_var": (*p.shape[:-2], 1, p.shape[-1])}
        for name, shape in shapes.items():
            if name in state:  # what was loaded may lie in another order
                state[name] = state[name].to(p.dtype).contiguous()
            else:
                state[name] = p.new_zeros(shape, requires_grad=False)
                self._created.append((p, [name]))
        return super()._prepare_state(p, group, replace(rule, states=()))

    def _row(self, p: Tensor, grad: Tensor, group: dict[str, Any], rule: Rule, fresh: bool) -> tuple[Any, list[Tensor]]:
        if p.dim() > 1:
            rule = replace(rule, states=("col_var",), rows="row_var")
        return super()._row(p, grad, group, rule, fresh)
