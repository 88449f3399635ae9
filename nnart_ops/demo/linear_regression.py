"""Linear regression, the smallest network there is, with its gradients derived by hand.

The model predicts ``n`` numbers ``p = X w + b`` from ``X`` ``(n, d)``, ``w`` ``(d,)`` and a number ``b``. With the
residual ``r = p - y``, the loss is the mean squared error

    L = (1/n) sum_i r_i^2.

The chain rule goes through it backwards, one link at a time:

    dL/dr_i = (2/n) r_i                    the derivative of a square, times the 1/n of the mean
    dr_i/dw_j = X_ij,    dr_i/db = 1       because r_i = sum_j X_ij w_j + b - y_i
    dL/dw_j = sum_i dL/dr_i dr_i/dw_j = (2/n) sum_i X_ij r_i        that is, (2/n) X^T r
    dL/db   = sum_i dL/dr_i dr_i/db   = (2/n) sum_i r_i

Setting both to 0 gives the normal equations, which the least-squares solution solves; gradient descent gets to the same
point step by step. ``python -m nnart_ops.demo linear-regression`` checks the derivation against autograd and against
finite differences, and the trained weights against least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import nnart_ops


@dataclass(frozen=True)
class Outcome:
    """What the example found; every number is a largest absolute difference.

    Attributes:
        autograd_error: the gradient by hand against autograd's, at the starting point.
        finite_difference_error: the gradient by hand against central differences, at the starting point.
        solution_error: the trained weights against the least-squares solution.
        losses: the loss before each step and after the last one.
        weight: the trained weights, float64, ``(d + 1,)``, the last one being ``b``.
    """

    autograd_error: float
    finite_difference_error: float
    solution_error: float
    losses: list[float]
    weight: Tensor


def make_data(seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    """``count`` noisy points on the plane ``y = 2 x_1 - 3 x_2 + 0.5 x_3 + 1``.

    Returns:
        float64 ``(count, 3)`` and ``(count,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(count, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64) + 1 + noise


def mean_squared_error(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``L`` of the module's docstring, a scalar. Shapes: ``(n, d)``, ``(n,)``, ``(d,)``, ``()``."""
    return (x @ weight + bias - y).square().mean()


def gradients_by_hand(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``dL/dw`` ``(d,)`` and ``dL/db`` ``()`` as derived in the module's docstring."""
    residual = x @ weight + bias - y
    return 2 / len(y) * (x.T @ residual), 2 / len(y) * residual.sum()


def finite_differences(loss: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of ``loss`` at ``point`` ``(d,)`` by central differences, one coordinate at a time.

    For a quadratic they are exact but for rounding: about 1e-16 / step, relative to the loss.
    """
    offsets = step * torch.eye(len(point), dtype=point.dtype)
    return torch.stack([(loss(point + offset) - loss(point - offset)) / (2 * step) for offset in offsets])


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The weights that minimise ``L``, ``(d + 1,)``, the last one being ``b``."""
    with_ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    return torch.linalg.lstsq(with_ones, y.unsqueeze(1)).solution.squeeze(1)


def run(seed: int = 0, epochs: int = 200, lr: float = 0.1) -> Outcome:
    """Checks the gradients, then trains with ``nnart_ops.optim.SGD``, the whole data in every step."""
    x, y = make_data(seed)
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)

    mean_squared_error(x, y, weight, bias).backward()
    with torch.no_grad():
        by_hand = torch.cat([part.reshape(-1) for part in gradients_by_hand(x, y, weight, bias)])
        by_autograd = torch.cat([_gradient(weight), _gradient(bias)])
        start = torch.cat([weight, bias.reshape(1)])
        by_differences = finite_differences(lambda p: mean_squared_error(x, y, p[:-1], p[-1]), start)

    optimizer = nnart_ops.optim.SGD([weight, bias], lr=lr)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = mean_squared_error(x, y, weight, bias)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = torch.cat([weight.detach(), bias.detach().reshape(1)])
    losses.append(mean_squared_error(x, y, weight, bias).item())
    return Outcome(
        autograd_error=_distance(by_hand, by_autograd),
        finite_difference_error=_distance(by_hand, by_differences),
        solution_error=_distance(trained, least_squares(x, y)),
        losses=losses,
        weight=trained,
    )


def describe(outcome: Outcome) -> str:
    """The outcome in a few lines for people."""
    *weight, bias = outcome.weight.tolist()
    return "\n".join(
        [
            "gradients of the mean squared error, derived by hand (largest difference):",
            f"  from autograd            {outcome.autograd_error:.1e}",
            f"  from finite differences  {outcome.finite_difference_error:.1e}",
            f"{len(outcome.losses) - 1} steps of nnart_ops.optim.SGD: "
            f"loss {outcome.losses[0]:.4f} -> {outcome.losses[-1]:.6f}",
            f"  y = {' + '.join(f'{w:.4f} x{i}' for i, w in enumerate(weight, 1))} + {bias:.4f}",
            f"  from least squares       {outcome.solution_error:.1e}",
        ]
    )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.reshape(-1)


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
