"""Muon: momentum, orthogonalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nnart_ops import _C
from nnart_ops.optim._decision import Decision
from nnart_ops.optim._distributed import full_norm, is_distributed
from nnart_ops.optim._optimizer import FusedOptimizer, Rule

# What the gradients have had when the directions, which depend on all of a matrix, go through the shared pass.
_OF_THE_GRADIENT = ("max_grad_value", "zero_grad_in_step", "maximize")


class Muon(FusedOptimizer, torch.optim.Muon):
    """:class:`torch.optim.Muon`: the momentum of each matrix, brought near the orthogonal matrix next to it.

    ``b = b + (1 - momentum) * (g - b)``; ``u = g + momentum * (b - g) if nesterov else b``; ``o`` is ``u`` after
    ``ns_steps`` of the Newton-Schulz iteration ``x = a * x + (b * x x^T + c * (x x^T)^2) x`` in bfloat16;
    ``p = p * (1 - lr * weight_decay) - lr * r * o`` with ``r`` by the matrix's shape (Jordan et al. 2024, "Muon: An
    optimizer for hidden layers in neural networks"; ``adjust_lr_fn="match_rms_adamw"``: Liu et al. 2025,
    arXiv:2502.16982). The products are torch's; small matrices of one shape go
    through them together, and of large symmetric ones a half is computed on the CPU.

    Args:
        params, lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: as
            :class:`torch.optim.Muon`'s.
        max_grad_norm, max_grad_value, ema_decay, zero_grad_in_step, low_precision, state_dtype, norm_group: see
            :class:`nnart_ops.optim.FusedOptimizer`; ``state_dtype`` may not be ``torch.uint8``.

    Shape: matrices; each gradient has its parameter's.

    Parameters may be float32, float64, bfloat16 or float16 on one device. State dicts are torch's.

    Raises:
        ValueError: as :class:`torch.optim.Muon`, for a negative argument and for a parameter that is no matrix; for
            8-bit state.

    >>> p = torch.nn.Parameter(torch.zeros(2, 2))
    >>> p.grad = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    >>> nnart_ops.optim.Muon([p], lr=1.0).step()
    >>> p.data.sign()
    tensor([[-1.,  0.],
            [ 0.,  1.]])
    """

    _native = torch.optim.Muon

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("state_dtype") is torch.uint8:
            raise ValueError(
                "nnart_ops.optim.Muon: state_dtype is torch.uint8; allowed are None, torch.float32, torch.bfloat16 and "
                "torch.float16, because the momentum is an operand of matrix products"
            )
        super().__init__(*args, **kwargs)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        return Rule("sgd", ("lr", 0.0, 0.0), decay="decoupled", counts_steps=False)

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

    def _directions(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """The directions for gradients that are unscaled and clipped and may be overwritten."""
        updates = []
        for p, grad in zip(params, grads, strict=True):
            state = self.state[p]
            if "momentum_buffer" not in state:
                dtype = self._state_dtype(p)
                state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype, requires_grad=False)
                self._created.append((p, ["momentum_buffer"]))
            buffer = state["momentum_buffer"]
            average = buffer.to(grad.dtype).lerp_(grad, 1 - group["momentum"])
            buffer.copy_(average)
            updates.append(grad.lerp_(average, group["momentum"]) if group["nesterov"] else average)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, update in enumerate(updates):
            by_shape.setdefault(tuple(update.shape), []).append(i)
        for shape, members in by_shape.items():
            together = math.prod(shape) <= _BATCHED
            batches = [members] if together else [[i] for i in members]
            ratio = shape_ratio(group["adjust_lr_fn"], shape)
            for batch in batches:
                x = torch.stack([updates[i] for i in batch]) if together else updates[batch[0]]
                x = newton_schulz(x, group["ns_coefficients"], group["ns_steps"], group["eps"]).float().mul_(ratio)
                for i, matrix in zip(batch, x if together else (x,), strict=True):
                    updates[i] = matrix
        return updates

    def _plan_options(self) -> dict[str, Any]:
        return {**super()._plan_options(), "max_grad_value": None, "zero_grad_in_step": False}


# Elements up to which matrices of one shape are multiplied as a batch: above it one after the other is faster.
_BATCHED = 128 * 128


def newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A matrix, or each of a batch, times the iteration's polynomial of itself; in bfloat16."""
    a, b, c = coefficients
    add_product: Any = torch.addmm if x.dim() == 2 else torch.baddbmm
    tall = x.size(-2) > x.size(-1)
    x = x.bfloat16()
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    halves = x.dim() == 2 and x.is_cpu and len(x) >= 2 * _BLOCK
    for _ in range(steps):
        gram = _gram(x) if halves else x @ x.mT
        factor = _with_square(gram, b, c) if halves else add_product(gram, gram, gram, beta=b, alpha=c)
        x = add_product(x, factor, x, beta=a)
    return x.mT if tall else x


# Rows of a symmetric matrix that are computed at once: fewer would be slower than what they save.
_BLOCK = 256


def _symmetric(like: Tensor, rows: Callable[[slice, slice], Tensor]) -> Tensor:
    """A symmetric matrix from its lower half, of which ``rows`` gives some rows up to some column."""
    size = len(like)
    result = like.new_empty(size, size)
    for start in range(0, size, _BLOCK):
        some, end = slice(start, start + _BLOCK), min(start + _BLOCK, size)
        result[some, :end] = block = rows(some, slice(end))
        result[:start, some] = block[:, :start].mT
    return result


def _gram(x: Tensor) -> Tensor:
    return _symmetric(x, lambda some, until: x[some] @ x[until].mT)


def _with_square(x: Tensor, b: float, c: float) -> Tensor:
    """``b x + c x x`` of a symmetric matrix."""
    return _symmetric(x, lambda some, until: torch.addmm(x[some, until], x[some], x[:, until], beta=b, alpha=c))


def shape_ratio(adjustment: str | None, shape: tuple[int, ...]) -> float:
    """By what the rate of a matrix is multiplied."""
    rows, columns = shape
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _prepared(grad: Tensor, factor: float, bound: float | None) -> Tensor:
    """A copy of a gradient in the dtype the step computes in, times ``factor``, clamped."""
    exact = grad.to(torch.float64 if grad.dtype is torch.float64 else torch.float32, copy=True)
    if factor != 1.0:
        exact.mul_(factor)
    return exact if bound is None else exact.clamp_(-bound, bound)
