"""SGD with momentum, dampening, Nesterov and L2 penalty."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class SGD(FusedOptimizer, torch.optim.SGD):
    """:class:`torch.optim.SGD` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` in the first step); ``p =
    p - lr * (g + momentum * b if nesterov else b)`` (Sutskever et al. 2013).

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused: as
            :class:`torch.optim.SGD`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.SGD`, for a negative ``lr``, ``momentum`` or ``weight_decay``, and
            for ``nesterov`` without momentum or with dampening.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.SGD([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.SGD
    _watched = ("momentum", "nesterov")

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "momentum", "dampening")
        if not group["momentum"]:
            return Rule("sgd", hyper, counts_steps=False)
        name = "sgd_nesterov" if group["nesterov"] else "sgd_momentum"
        return Rule(name, hyper, ("momentum_buffer",), counts_steps=False)
