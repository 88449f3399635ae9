"""Checks of the constructors that torch.optim has no class for."""

from __future__ import annotations

from typing import Any


def check_not_negative(owner: str, **arguments: Any) -> None:
    """Raises ValueError for a negative one, as torch's optimizers do."""
    for name, value in arguments.items():
        if not value >= 0:
            raise ValueError(f"nnart_ops.optim.{owner}: {name} is {value}; allowed are numbers from 0 on")


def check_betas(owner: str, betas: tuple[float, float]) -> None:
    """Raises ValueError for one outside [0, 1)."""
    for i, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"nnart_ops.optim.{owner}: betas[{i}] is {beta}; allowed are numbers in [0, 1)")
