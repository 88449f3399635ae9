"""Adamax: Adam with the infinity norm."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Adamax(FusedOptimizer, torch.optim.Adamax):
    """:class:`torch.optim.Adamax` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``m = beta1 * m + (1 - beta1) * g``; ``u = max(beta2 * u, abs(g) + eps)``; ``p
    = p - lr / (1 - beta1 ** t) * m / u`` (Kingma and Ba 2015, section 7.1).

    Args:
        params, lr, betas, eps, weight_decay, foreach, maximize, differentiable, capturable: as
            :class:`torch.optim.Adamax`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adamax`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for
            ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.Adamax([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.Adamax

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule("adamax", ("lr", "betas.0", "betas.1", "eps"), ("exp_avg", "exp_inf"), positive=("exp_inf",))
