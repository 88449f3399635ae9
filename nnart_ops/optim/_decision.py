"""What a step on a GPU depends on and what it decides, in that GPU's memory: the host waits for neither."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Decision:
    """The scale to divide the gradients by, whether they are known to be bad, and what became of the step."""

    def __init__(self, device: torch.device, scale: Tensor | None, found_inf: Tensor | None, wants_norm: bool) -> None:
        self._scale, self._found_inf = (
            None if t is None else t.to(device, torch.float32, non_blocking=True) for t in (scale, found_inf)
        )
        self._result = torch.empty(2, dtype=torch.float32, device=device) if wants_norm else None

    def addresses(self) -> tuple[int, int, int]:
        """As ``_C.OptimizerPlan.step`` takes them."""
        scale, found_inf, result = (0 if t is None else t.data_ptr() for t in self._tensors())
        return scale, found_inf, result

    def _tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self._scale, self._found_inf, self._result

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of the gradients, unscaled, before clipping."""
        return None if self._result is None else self._result[0]

    @property
    def skipped(self) -> Tensor | None:
        """1 where the step changed nothing, else 0."""
        return None if self._result is None else self._result[1]

    def found_bad(self) -> bool:
        """Waits for ``found_inf``."""
        return self._found_inf is not None and bool(self._found_inf)

    def factor(self) -> float:
        """Waits for the scale: what the gradients are multiplied by."""
        return inverse(self._scale)


def inverse(scale: Any) -> float:
    return 1.0 if scale is None else 1.0 / float(scale)
