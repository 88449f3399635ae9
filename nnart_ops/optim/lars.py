"""LARS: SGD with momentum and a rate for each layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnart_ops.optim._arguments import check_not_negative
from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class LARS(FusedOptimizer):
    """LARS (You et al. 2017, "Large Batch Training of Convolutional Networks", arXiv:1708.03888).

    ``r = trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p) + eps)`` for each tensor, 1 where a norm is 0;
    ``u = lr * r * (g + weight_decay * p)``; ``b = momentum * b + (1 - dampening) * u`` (``b = u`` in the first step);
    ``p = p - (u + momentum * b if nesterov else b)``.

    Args:
        params: parameters, named parameters or groups, as torch.optim takes them.
        lr: learning rate, a number or a tensor of one element.
        momentum: momentum factor.
        dampening: of the momentum.
        weight_decay: L2 penalty.
        nesterov: look ahead along the momentum.
        trust_coefficient: how far a layer may move, as a part of its norm.
        eps: added to the denominator of the ratio.
        maximize: ascend instead.
        options: max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group,
            see :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's. float32, float64, bfloat16 or float16, on one
    device.

    Raises:
        ValueError: for a negative argument, and for ``nesterov`` without momentum or with dampening.

    >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> p.grad = torch.tensor([0.0, 1.0])
    >>> nnart_ops.optim.LARS([p], lr=1.0, momentum=0.9, trust_coefficient=0.1).step()
    >>> p.data
    tensor([3.0000, 3.5000])
    """

    _watched = ("nesterov",)
    _layer_wise = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        check_not_negative(
            "LARS", lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "momentum", "dampening", "weight_decay", "trust_coefficient", "eps")
        name = "lars_nesterov" if group["nesterov"] else "lars"
        return Rule(name, hyper, ("momentum_buffer",), decay="none", counts_steps=False)
