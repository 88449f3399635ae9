"""Loss scaling whose unscaling and check for overflow are part of the step."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.grad_scaler import OptState

from nnart_ops.optim._optimizer import FusedOptimizer


class GradScaler(torch.amp.GradScaler):
    """:class:`torch.amp.GradScaler` that reads the gradients of this package's optimizers once instead of three times.

    torch's own works with them too, but it looks through all gradients before the step, to find whether one is infinite
    or NaN. Here the step does, in the pass that takes the norm: a step with such gradients changes nothing, the moments
    and step counts included. Other optimizers are treated as torch treats them.

    Shape: gradients of any shape.

    Args:
        device, init_scale, growth_factor, backoff_factor, growth_interval, enabled: as
            :class:`torch.amp.GradScaler`'s.

    >>> p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = nnart_ops.optim.SGD([p], lr=0.5)
    >>> scaler = nnart_ops.optim.GradScaler("cpu", init_scale=4.0)
    >>> scaler.scale(p.sum()).backward()
    >>> scaler.step(optimizer)
    >>> p.data
    tensor([0.5000, 1.5000])
    """

    def step(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(*args, **kwargs)`` with unscaled gradients, unless one of them is infinite or NaN."""
        state = self._per_optimizer_states[id(optimizer)] if self._enabled else None
        if (
            state is None
            or not isinstance(optimizer, FusedOptimizer)
            or state["stage"] is not OptState.READY
            or "closure" in kwargs
        ):
            return super().step(optimizer, *args, **kwargs)
        self._check_scale_growth_tracker("step")
        scale = self._get_scale_async()
        optimizer.grad_scale = scale
        optimizer._skips_non_finite = True
        try:
            result = optimizer.step(*args, **kwargs)
        finally:
            del optimizer.grad_scale, optimizer._skips_non_finite
        decision = optimizer._decision
        found = None if decision is None else decision.skipped
        if found is None:
            found = torch.full((), 0.0 if optimizer._took_place else 1.0)
        state["found_inf_per_device"] = {found.device: found}
        state["stage"] = OptState.STEPPED
        return result
