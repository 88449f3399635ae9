"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class NAdam(FusedOptimizer, torch.optim.NAdam):
    """:class:`torch.optim.NAdam` with the step of all tensors in one pass over their memory.

    With ``mu(t) = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)`` and ``M`` the product of ``mu(1)`` to ``mu(t)``:
    ``p = p - lr * ((1 - mu(t)) / (1 - M) * g + mu(t + 1) / (1 - M * mu(t + 1)) * m) / (sqrt(v / (1 - beta2 ** t)) +
    eps)``, ``g``, ``m`` and ``v`` as in :class:`Adam` (Dozat 2016).

    Args:
        params, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, foreach, maximize,
            capturable, differentiable: as :class:`torch.optim.NAdam`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.NAdam`, for a negative argument and for ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.NAdam([p], lr=0.5).step()
    >>> p.data
    tensor([0.4718, 2.5282])
    """

    _native = torch.optim.NAdam
    _watched = ("decoupled_weight_decay",)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule(
            "nadam",
            ("lr", "betas.0", "betas.1", "eps", "momentum_decay"),
            ("exp_avg", "exp_avg_sq"),
            positive=("exp_avg_sq",),
            decay="decoupled" if group["decoupled_weight_decay"] else "l2",
            scalars=("mu_product",),
        )

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        return 1.0 if name == "mu_product" else 0.0
