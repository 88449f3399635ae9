"""What the optimizers share: which steps the kernels take, and torch's own step for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The closure's loss, computed with gradients; ``None`` without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def native_step(cls: type[torch.optim.Optimizer], optimizer: torch.optim.Optimizer) -> None:
    """``cls.step`` without the hooks that torch wraps around it, because they already run around our own step."""
    step: Any = cls.step
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    step(optimizer)


def step_can_be_ours(optimizer: Any) -> bool:
    """Whether nothing about the call as a whole asks for torch's own step."""
    return (
        getattr(optimizer, "grad_scale", None) is None  # a GradScaler that leaves the unscaling to a fused step
        and getattr(optimizer, "found_inf", None) is None
        and not torch.compiler.is_compiling()
        and not torch.is_inference_mode_enabled()
    )


def number(value: Any, group: dict[str, Any]) -> float | None:
    """A hyperparameter as a float; ``None`` where torch treats it as a tensor."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor) and value.is_cpu and not value.requires_grad and not group["foreach"]:
        return float(value.item())
    return None


def all_different(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor is listed twice: torch would update it once for each mention, one after the other."""
    ids = [id(tensor) for tensor in tensors]
    return len(set(ids)) == len(ids)
