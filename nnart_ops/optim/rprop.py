"""Rprop: steps by the gradient's sign alone."""

from __future__ import annotations

from typing import Any

import torch

from nnart_ops.optim._optimizer import FusedOptimizer, Rule


class Rprop(FusedOptimizer, torch.optim.Rprop):
    """:class:`torch.optim.Rprop` with the step of all tensors in one pass over their memory.

    Each element has its own step ``s``: times ``etas[1]`` where the gradient has the sign it had, times ``etas[0]``
    where it has the other, within ``step_sizes``; in the latter case the element stays where it is; ``p = p -
    sign(grad) * s`` (Riedmiller and Braun 1993).

    Args:
        params, lr, etas, step_sizes, capturable, foreach, maximize, differentiable: as
            :class:`torch.optim.Rprop`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device; half precision computes in float32 and rounds
    each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Rprop`, for a negative ``lr`` and for ``etas`` that are not below and
            above 1.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.Rprop([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    _native = torch.optim.Rprop

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        hyper = ("lr", "etas.0", "etas.1", "step_sizes.0", "step_sizes.1")
        return Rule("rprop", hyper, ("prev", "step_size"), positive=("step_size",), decay="none")

    def _initial(self, name: str, group: dict[str, Any]) -> float:
        return float(group["lr"]) if name == "step_size" else 0.0
