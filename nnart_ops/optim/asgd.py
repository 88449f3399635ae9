"""ASGD: averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class ASGD(FusedOptimizer, torch.optim.ASGD):
    """:class:`torch.optim.ASGD` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``p = p * (1 - lambd * eta) - eta * g``; ``a = a + mu * (p - a)``; then ``eta =
    lr / (1 + lambd * lr * t) ** alpha`` and ``mu = 1 / max(1, t - t0)`` (Polyak and Juditsky 1992). The average is
    ``state[p]["ax"]``.

    Args:
        params, lr, lambd, alpha, t0, weight_decay, foreach, maximize, differentiable, capturable: as
            :class:`torch.optim.ASGD`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.ASGD`, for a negative ``lr`` or ``weight_decay``.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.ASGD([p], lr=0.5, lambd=0.0).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.ASGD

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule("asgd", ("lr", "lambd", "alpha", "t0"), ("ax",), scalars=("eta", "mu"))

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        return {"eta": float(group["lr"]), "mu": 1.0}.get(name, 0.0)
