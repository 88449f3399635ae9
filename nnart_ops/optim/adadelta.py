"""Adadelta."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Adadelta(FusedOptimizer, torch.optim.Adadelta):
    """:class:`torch.optim.Adadelta` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``v = rho * v + (1 - rho) * g ** 2``; ``d = sqrt(u + eps) / sqrt(v + eps) *
    g``; ``u = rho * u + (1 - rho) * d ** 2``; ``p = p - lr * d`` (Zeiler 2012, arXiv:1212.5701).

    Args:
        params, lr, rho, eps, weight_decay, foreach, capturable, maximize, differentiable: as
            :class:`torch.optim.Adadelta`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adadelta`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for
            ``rho`` outside [0, 1].

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.Adadelta([p], rho=0.0, eps=1.0).step()
    >>> p.data
    tensor([0.2929, 2.7071])
    """

    _native = torch.optim.Adadelta

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        states = ("square_avg", "acc_delta")
        return Rule("adadelta", ("lr", "rho", "eps"), states, positive=states)
