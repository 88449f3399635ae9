"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnart_ops.autograd.function import register_fake
from nnart_ops.functional._native import kernel_takes
from nnart_ops.optim._step import all_different, evaluate, native_step, number, step_can_be_ours

_kernel = register_fake(torch.ops.nnart_ops.adamw_.default, lambda *arguments: None)


class _Rule(NamedTuple):
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    maximize: bool


class _Batch(NamedTuple):
    """What one call of the op updates: tensors of one dtype under one rule."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]
    steps: list[Tensor]


class AdamW(torch.optim.AdamW):
    """:class:`torch.optim.AdamW` with the step in one kernel call for all tensors of one dtype and rule.

    ``p = p * (1 - lr * weight_decay)``; ``m = beta1 * m + (1 - beta1) * g``; ``v = beta2 * v + (1 - beta2) * g ** 2``;
    ``p = p - lr / (1 - beta1 ** t) * m / (sqrt(v / (1 - beta2 ** t)) + eps)``; under ``amsgrad`` the largest ``v`` so
    far stands for ``v`` (Loshchilov and Hutter 2019, arXiv:1711.05101). Every element crosses memory once.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable, fused: as
            :class:`torch.optim.AdamW`'s; ``foreach`` and ``fused`` choose among torch's own loops where it steps.

    Shape: parameters of any shape; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on the CPU, with gradients of the same dtype; half precision
    computes in float32 and rounds each result once. Anything else takes torch's own step. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.AdamW`, for a negative ``lr``, ``eps`` or ``weight_decay`` and for ``betas``
            outside [0, 1).

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> p.grad = torch.tensor([1.0, -1.0])
    >>> nnart_ops.optim.AdamW([p], lr=0.5, weight_decay=0.0).step()
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
                native_step(torch.optim.AdamW, self)
                return loss
            for rule, batch in batches.items():
                _kernel(*batch, *rule[1])
                torch.autograd.graph.increment_version(
                    batch.params + batch.exp_avgs + batch.exp_avg_sqs + batch.max_exp_avg_sqs + batch.steps
                )
        return loss

    def _batches(self) -> dict[tuple[torch.dtype, _Rule, bool], _Batch] | None:
        """The calls to make; ``None`` if torch's own step has to do it."""
        if not step_can_be_ours(self):
            return None
        batches: dict[Any, _Batch] = {}
        for group in self.param_groups:
            rule = _rule_of(group)
            if rule is None:
                return None
            amsgrad = bool(group["amsgrad"])
            lists = _Batch([], [], [], [], [], [])
            self._init_group(group, *lists)
            if not all_different(lists.params):
                return None
            by_dtype: dict[torch.dtype, _Batch] = {}
            states = lists[:5] if amsgrad else lists[:4]
            for *tensors, step in zip(*states, lists.steps, strict=True):
                if not (kernel_takes(*tensors) and _is_counter(step)):
                    return None
                dtype = tensors[0].dtype
                batch = by_dtype.get(dtype)
                if batch is None:
                    key = (dtype, rule, amsgrad)
                    batch = by_dtype[dtype] = batches.setdefault(key, _Batch([], [], [], [], [], []))
                for target, tensor in zip(batch, tensors, strict=False):
                    target.append(tensor)
                batch.steps.append(step)
        return batches


def _rule_of(group: dict[str, Any]) -> _Rule | None:
    lr, (beta1, beta2) = number(group["lr"], group), group["betas"]
    covered = not (group["differentiable"] or group["capturable"]) and group["decoupled_weight_decay"]
    numbers = (beta1, beta2, group["eps"], group["weight_decay"])
    if lr is None or not covered or not all(isinstance(value, (int, float)) for value in numbers):
        return None
    return _Rule(lr, *numbers, bool(group["maximize"]))


def _is_counter(step: Any) -> bool:
    return type(step) is Tensor and step.is_cpu and step.numel() == 1 and step.dtype in (torch.float32, torch.float64)
