"""Adagrad."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Adagrad(FusedOptimizer, torch.optim.Adagrad):
    """:class:`torch.optim.Adagrad` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``s = s + g ** 2``; ``p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) +
    eps)`` (Duchi et al. 2011).

    Args:
        params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, foreach, maximize, differentiable,
            fused: as :class:`torch.optim.Adagrad`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adagrad`, for a negative argument.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([2.0, -2.0])
    >>> nnart_ops.optim.Adagrad([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.Adagrad

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule("adagrad", ("lr", "lr_decay", "eps"), ("sum",), positive=("sum",))

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        return float(self.defaults["initial_accumulator_value"])
