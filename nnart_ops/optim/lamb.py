"""LAMB: Adam with a rate for each layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnart_ops.optim._arguments import check_betas, check_not_negative
from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class LAMB(FusedOptimizer):
    """LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning", arXiv:1904.00962).

    ``u = m / (1 - beta1 ** t) / (sqrt(v / (1 - beta2 ** t)) + eps) + weight_decay * p``, ``m`` and ``v`` as in
    :class:`Adam`; ``p = p - lr * norm(p) / norm(u) * u`` for each tensor, the ratio being 1 where a norm is 0.

    Args:
        params: parameters, named parameters or groups, as torch.optim takes them.
        lr: learning rate, a number or a tensor of one element.
        betas: the decay rates of the moments.
        eps: added to the denominator.
        weight_decay: part of the update, before its norm is taken.
        maximize: ascend instead.
        options: max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group,
            see :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's. float32, float64, bfloat16 or float16, on one
    device.

    Raises:
        ValueError: for a negative ``lr``, ``eps`` or ``weight_decay`` and for ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.LAMB([p], lr=0.2, weight_decay=0.0).step()
    >>> p.data
    tensor([2.2929, 4.7071])
    """

    _layer_wise = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        check_not_negative("LAMB", lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas("LAMB", betas)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, **options)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "betas.0", "betas.1", "eps", "weight_decay")
        return Rule("lamb", hyper, ("exp_avg", "exp_avg_sq"), positive=("exp_avg_sq",), decay="none")
