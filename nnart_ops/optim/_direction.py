"""Optimizers whose update of an element depends on the rest of its matrix: a direction first, then the shared pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nnart_ops import _C
from nnart_ops.optim._decision import Decision
from nnart_ops.optim._distributed import full_norm, is_distributed
from nnart_ops.optim._optimizer import FusedOptimizer, Rule

_OF_THE_GRADIENT = ("max_grad_value", "zero_grad_in_step", "maximize")


class DirectionOptimizer(FusedOptimizer):
    """A class gives the direction of each tensor from its gradient; the parameters then move against it.

    Shape: parameters of any shape that the class takes. Decay, low precision and averages are the shared pass's; what
    is done to a gradient is done before.
    """

    def _directions(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """The directions for gradients that are unscaled and clipped and may be overwritten."""
        raise NotImplementedError

    def _move(self, group: dict[str, Any]) -> str | float:
        """By what the direction is multiplied: a key of the group or a number."""
        return "lr"

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule("sgd", (self._move(group), 0.0, 0.0), decay="decoupled", counts_steps=False)

    def _gpu(self) -> torch.device | None:
        return None  # the host has the norm before it computes the directions

    @torch.no_grad()
    def _update(self, factor: float, skips_non_finite: bool, decision: Decision | None = None) -> bool:
        reason = self._native_reason()
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if reason is None and any(map(is_distributed, grads)):
            reason = "a parameter is a DTensor, of whose matrix a rank has a part"
        if reason is not None:
            return self._native_step(reason, factor, skips_non_finite)
        options = self.options
        self._grad_norm = None
        if options.max_grad_norm is not None or skips_non_finite:
            norm = self._distributed_norm(factor, skips_non_finite)
            self._grad_norm = norm if norm >= 0 or norm != norm else full_norm(grads) * abs(factor)
            if skips_non_finite and not math.isfinite(self._grad_norm):
                return False
            if options.max_grad_norm is not None:
                factor *= min(1.0, options.max_grad_norm / (self._grad_norm + 1e-6))
        self._updated = []
        plan = _C.OptimizerPlan(self._plan_options(), self.param_groups, self.state)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            bound = group.get("max_grad_value", options.max_grad_value)
            prepared = [_prepared(p.grad, -factor if group.get("maximize") else factor, bound) for p in params]
            directions = self._directions(group, params, prepared)
            rule = self._rule_of(group)
            fresh = [self._prepare_state(p, group, rule) for p in params]
            shared = {key: value for key, value in group.items() if key not in _OF_THE_GRADIENT}
            self._add_group(plan, shared, rule, params, directions, fresh, False)
        plan.step(self.param_groups, self.state, 1.0, math.inf, False, -1.0, self._key(), True)
        for group in self.param_groups:
            if group.get("zero_grad_in_step", options.zero_grad_in_step):
                torch._foreach_zero_([p.grad for p in group["params"] if p.grad is not None])
        self._created.clear()
        torch.autograd.graph.increment_version(self._updated)
        return True

    def _plan_options(self) -> dict[str, Any]:
        return {**super()._plan_options(), "max_grad_value": None, "zero_grad_in_step": False}


def _prepared(grad: Tensor, factor: float, bound: float | None) -> Tensor:
    """A copy of a gradient in the dtype the step computes in, times ``factor``, clamped."""
    exact = grad.to(torch.float64 if grad.dtype is torch.float64 else torch.float32, copy=True)
    if factor != 1.0:
        exact.mul_(factor)
    return exact if bound is None else exact.clamp_(-bound, bound)
