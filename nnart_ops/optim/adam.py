"""Adam, with L2 penalty or decoupled weight decay."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Adam(FusedOptimizer, torch.optim.Adam):
    """:class:`torch.optim.Adam` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``m = beta1 * m + (1 - beta1) * g``; ``v = beta2 * v + (1 - beta2) * g ** 2``;
    ``p = p - lr / (1 - beta1 ** t) * m / (sqrt(v / (1 - beta2 ** t)) + eps)``; under ``amsgrad`` the largest ``v``
    so far stands for ``v`` (Kingma and Ba 2015, arXiv:1412.6980; Reddi et al. 2018).

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, foreach, maximize, capturable, differentiable, fused,
            decoupled_weight_decay: as :class:`torch.optim.Adam`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adam`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for
            ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.Adam([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.Adam
    _watched = ("amsgrad", "decoupled_weight_decay")

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        states = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        return Rule(
            "adam_amsgrad" if group["amsgrad"] else "adam",
            ("lr", "betas.0", "betas.1", "eps"),
            states,
            positive=states[1:],
            decay="decoupled" if group["decoupled_weight_decay"] else "l2",
        )


class AdamW(FusedOptimizer, torch.optim.AdamW):
    """:class:`torch.optim.AdamW` with the step of all tensors in one pass over their memory.

    As :class:`Adam`, but the decay is decoupled: ``p = p * (1 - lr * weight_decay)`` before the update (Loshchilov
    and Hutter 2019, arXiv:1711.05101).

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, foreach, maximize, capturable, differentiable, fused: as
            :class:`torch.optim.AdamW`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.AdamW`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for
            ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.AdamW([p], lr=0.5, weight_decay=0.0).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.AdamW
    _watched = Adam._watched
    _rule_of = Adam._rule_of
