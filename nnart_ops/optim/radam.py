"""RAdam: Adam with a rectified variance."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class RAdam(FusedOptimizer, torch.optim.RAdam):
    """:class:`torch.optim.RAdam` with the step of all tensors in one pass over their memory.

    ``m`` and ``v`` as in :class:`Adam`; ``p = p - lr / (1 - beta1 ** t) * m``, times ``r * sqrt(1 - beta2 ** t) /
    (sqrt(v) + eps)`` once the variance of ``v`` is tractable, ``r`` being its rectification (Liu et al. 2020,
    arXiv:1908.03265).

    Args:
        params, lr, betas, eps, weight_decay, decoupled_weight_decay, foreach, maximize, capturable,
            differentiable: as :class:`torch.optim.RAdam`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.RAdam`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for
            ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.RAdam([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.RAdam
    _watched = ("decoupled_weight_decay",)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule(
            "radam",
            ("lr", "betas.0", "betas.1", "eps"),
            ("exp_avg", "exp_avg_sq"),
            positive=("exp_avg_sq",),
            decay="decoupled" if group["decoupled_weight_decay"] else "l2",
        )
