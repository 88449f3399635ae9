"""RMSprop, centered or not, with momentum or without."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class RMSprop(FusedOptimizer, torch.optim.RMSprop):
    """:class:`torch.optim.RMSprop` with the step of all tensors in one pass over their memory.

    ``g = grad + weight_decay * p``; ``v = alpha * v + (1 - alpha) * g ** 2``; ``d = g / (sqrt(v) + eps)``, where
    ``centered`` subtracts the square of the gradient's own average from ``v``; with momentum ``b = momentum * b +
    d`` stands for ``d``; ``p = p - lr * d`` (Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850).

    Args:
        params, lr, alpha, eps, weight_decay, momentum, centered, capturable, foreach, maximize, differentiable:
            as :class:`torch.optim.RMSprop`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.RMSprop`, for a negative argument.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([2.0, -2.0])
    >>> nnart_ops.optim.RMSprop([p], lr=0.5, alpha=0.0).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.RMSprop
    _watched = ("momentum", "centered")

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        momentum, centered = group["momentum"] > 0, bool(group["centered"])
        return Rule(
            "rmsprop" + "_centered" * centered + "_momentum" * momentum,
            ("lr", "alpha", "eps", "momentum"),
            ("square_avg", *("momentum_buffer",) * momentum, *("grad_avg",) * centered),
            positive=("square_avg",),
        )
