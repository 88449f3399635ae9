"""Lion: sign momentum."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnart_ops.optim._arguments import check_betas, check_not_negative
from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Lion(FusedOptimizer):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675).

    ``p = p * (1 - lr * weight_decay) - lr * sign(beta1 * m + (1 - beta1) * g)``; ``m = beta2 * m + (1 - beta2) * g``.
    It keeps one state where Adam keeps two; the authors advise a rate 3 to 10 times smaller than AdamW's, and a decay
    as many times larger.

    Args:
        params: parameters, named parameters or groups, as torch.optim takes them.
        lr: learning rate, a number or a tensor of one element.
        betas: the weights of the momentum in the update and in its own average.
        weight_decay: decoupled weight decay.
        maximize: ascend instead.
        options: max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group,
            see :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's. float32, float64, bfloat16 or float16, on one
    device.

    Raises:
        ValueError: for a negative ``lr`` or ``weight_decay`` and for ``betas`` outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.Lion([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        check_not_negative("Lion", lr=lr, weight_decay=weight_decay)
        check_betas("Lion", betas)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, **options)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "betas.0", "betas.1")
        return Rule("lion", hyper, ("exp_avg",), decay="decoupled", counts_steps=False)
