"""Adafactor: second moments of rows and columns instead of elements."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _get_scalar_dtype

from nnart_ops.autograd.function import register_fake
from nnart_ops.optim._direction import DirectionOptimizer


def _fake(grad: Tensor, *arguments: Any) -> Tensor:
    return grad.new_empty(grad.shape, dtype=torch.float64 if grad.dtype is torch.float64 else torch.float32)


_direction = register_fake(torch.ops.nnart_ops.adafactor_direction_.default, _fake)


class Adafactor(DirectionOptimizer, torch.optim.Adafactor):
    """:class:`torch.optim.Adafactor` with two reads of the gradient and one pass over the parameters.

    With ``beta = 1 - t ** beta2_decay``: ``row = beta * row + (1 - beta) * mean(g ** 2, -1)``, ``col`` likewise along
    -2; ``u = g / sqrt(row @ col / mean(row))``; ``p = p * (1 - lr * weight_decay) - min(lr, 1 / sqrt(t)) * max(eps[1],
    RMS(p)) / max(1, RMS(u) / d) * u`` (Shazeer and Stern 2018, arXiv:1804.04235). A vector keeps its whole variance.

    Args:
        params, lr, beta2_decay, eps, d, weight_decay, foreach, maximize: as :class:`torch.optim.Adafactor`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`; ``state_dtype`` must be ``None``: the state is small as it is.

    Shape: parameters of any shape; each gradient has its parameter's. The last two dimensions are the matrices.

    Parameters may be float32, float64, bfloat16 or float16 on the CPU; half precision computes in float32. Anything
    else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Adafactor`, for an argument outside its range; for a ``state_dtype``.

    >>> p = torch.nn.Parameter(torch.ones(2, 2))
    >>> p.grad = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    >>> nnart_ops.optim.Adafactor([p], lr=0.5).step()
    >>> p.data
    tensor([[0.5000, 1.5000],
            [0.5000, 1.5000]])
    """

    _native = torch.optim.Adafactor
    _on_gpus = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("state_dtype") is not None:
            raise ValueError(
                f"nnart_ops.optim.Adafactor: state_dtype is {kwargs['state_dtype']}; allowed is None, because what it "
                "keeps is a row and a column of each matrix"
            )
        super().__init__(*args, **kwargs)

    def _move(self, group: dict[str, Any]) -> float:
        return 1.0  # the direction has the learning rate

    def _directions(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        found = []
        lr, (eps1, eps2) = float(group["lr"]), group["eps"]
        for p, grad in zip(params, grads, strict=True):
            state = self.state[p]
            if "step" not in state:
                before = set(state)
                self._create(state, p, grad)
                self._created.append((p, [key for key in state if key not in before]))
            state["step"] += 1
            t = float(state["step"])
            # What was loaded may lie in another order.
            row, column = state.get("row_var"), state.get("col_var", state.get("variance"))
            dense = [None if v is None else v.to(grad.dtype).contiguous() for v in (row, column)]
            own = p.detach().to(grad.dtype)
            least = torch.finfo(p.dtype).eps if eps1 is None else eps1
            rho = min(lr, 1 / math.sqrt(t))
            found.append(_direction(grad, own, *dense, 1.0, t ** group["beta2_decay"], least, eps2, rho, group["d"]))
            for kept, new in zip((row, column), dense, strict=True):
                if kept is not None and kept is not new:
                    kept.copy_(new)
        return found

    def _create(self, state: dict[str, Any], p: Tensor, grad: Tensor) -> None:
        state["step"] = torch.tensor(0.0, dtype=_get_scalar_dtype())
        if grad.dim() > 1:
            state["row_var"] = p.new_zeros([*p.shape[:-1], 1], requires_grad=False)
            state["col_var"] = p.new_zeros([*p.shape[:-2], 1, p.shape[-1]], requires_grad=False)
        else:
            state["variance"] = torch.zeros_like(p, requires_grad=False)
