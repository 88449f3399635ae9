"""SGD with momentum, dampening, Nesterov and L2 penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnart_ops.autograd.function import register_fake
from nnart_ops.functional._native import kernel_takes
from nnart_ops.optim._step import all_different, evaluate, native_step, number, step_can_be_ours

_kernel = register_fake(torch.ops.nnart_ops.sgd_.default, lambda *arguments: None)


class _Rule(NamedTuple):
    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool


class _Batch(NamedTuple):
    """What one call of the op updates: tensors of one dtype under one rule."""

    params: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]


class SGD(torch.optim.SGD):
    """:class:`torch.optim.SGD` with the step in one kernel call for all tensors of one dtype and rule.

    ``g = grad + weight_decay * p``; ``b = momentum * b + (1 - dampening) * g`` (``b = g`` in the first step);
    ``p = p - lr * (g + momentum * b if nesterov else b)`` (Sutskever et al. 2013). Every element crosses memory once.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused: as
            :class:`torch.optim.SGD`'s; ``foreach`` and ``fused`` choose among torch's own loops where it steps.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on the CPU, with gradients of the same dtype; half precision
    computes in float32 and rounds each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.SGD`, for a negative ``lr``, ``momentum`` or ``weight_decay``, and for
            ``nesterov`` without momentum or with dampening.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.SGD([p], lr=0.5).step()
    >>> p.data
    tensor([0.5000, 2.5000])
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all parameters once.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or ``None``.
        """
        loss = evaluate(closure)
        with torch.no_grad():
            batches = self._batches()
            if batches is None:
                native_step(torch.optim.SGD, self)
                return loss
            for rule, batch in batches.items():
                _kernel(*batch, *rule[1])
                torch.autograd.graph.increment_version(batch.params + batch.buffers)
        return loss

    def _batches(self) -> dict[tuple[torch.dtype, _Rule, bool], _Batch] | None:
        """The calls to make; ``None`` if torch's own step has to do it."""
        if not step_can_be_ours(self):
            return None
        batches: dict[Any, _Batch] = {}
        first_steps: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            rule = _rule_of(group)
            if rule is None:
                return None
            first_rule = rule._replace(dampening=0.0)  # of zeros and without dampening: b = g
            params: list[Tensor] = []
            grads: list[Tensor] = []
            buffers: list[Tensor | None] = []
            self._init_group(group, params, grads, buffers)
            if not all_different(params):
                return None
            for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
                buffer = buffers[i] if buffers else None
                tensors = (param, grad) if buffer is None else (param, grad, buffer)
                if not kernel_takes(*tensors):
                    return None
                first = rule.momentum != 0 and buffer is None
                key = (param.dtype, first_rule if first else rule, first)
                batch = batches.get(key)
                if batch is None:
                    batch = batches[key] = _Batch([], [], [])
                batch.params.append(param)
                batch.grads.append(grad)
                if first:
                    buffer = torch.zeros_like(param, requires_grad=False)
                    first_steps.append((param, buffer))
                if buffer is not None:
                    batch.buffers.append(buffer)
        for param, buffer in first_steps:
            self.state[param]["momentum_buffer"] = buffer
        return batches


def _rule_of(group: dict[str, Any]) -> _Rule | None:
    lr, weight_decay = number(group["lr"], group), group["weight_decay"]
    if lr is None or group["differentiable"] or isinstance(weight_decay, Tensor):
        return None
    return _Rule(
        lr, group["momentum"], group["dampening"], weight_decay, bool(group["nesterov"]), bool(group["maximize"])
    )
