"""The optimizers that torch.optim has no class for, from their papers, tensor by tensor in plain torch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch


class _Formula(torch.optim.Optimizer):
    defaults_of_class: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Any, foreach: bool | None = None, **options: Any) -> None:
        super().__init__(params, {"maximize": False, **self.defaults_of_class, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["t"] = state.get("t", 0) + 1
                    self.update(p, -p.grad if group["maximize"] else p.grad, state, state["t"], **group)
        return loss


class Lion(_Formula):
    defaults_of_class: ClassVar[dict[str, Any]] = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}

    def update(self, p: Any, g: Any, state: Any, t: int, lr: float, betas: Any, weight_decay: float, **_: Any) -> None:
        m = state.setdefault("exp_avg", torch.zeros_like(p))
        p.mul_(1 - lr * weight_decay).sub_(lr * (betas[0] * m + (1 - betas[0]) * g).sign())
        m.mul_(betas[1]).add_((1 - betas[1]) * g)


class LAMB(_Formula):
    defaults_of_class: ClassVar[dict[str, Any]] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}

    def update(
        self, p: Any, g: Any, state: Any, t: int, lr: float, betas: Any, eps: float, weight_decay: float, **_: Any
    ) -> None:
        m = state.setdefault("exp_avg", torch.zeros_like(p))
        v = state.setdefault("exp_avg_sq", torch.zeros_like(p))
        m.mul_(betas[0]).add_((1 - betas[0]) * g)
        v.mul_(betas[1]).add_((1 - betas[1]) * g * g)
        u = m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + eps) + weight_decay * p
        norm_p, norm_u = p.norm(), u.norm()
        p.sub_(lr * (norm_p / norm_u if norm_p > 0 and norm_u > 0 else 1) * u)


class LARS(_Formula):
    defaults_of_class: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "trust_coefficient": 1e-3,
        "eps": 0.0,
    }

    def update(
        self, p: Any, g: Any, state: Any, t: int, lr: float, momentum: float, weight_decay: float, **o: Any
    ) -> None:
        norm_p, norm_g = p.norm(), g.norm()
        ratio = o["trust_coefficient"] * norm_p / (norm_g + weight_decay * norm_p + o["eps"])
        u = lr * (ratio if norm_p > 0 and norm_g > 0 else 1) * (g + weight_decay * p)
        b = state["momentum_buffer"] = u if t == 1 else momentum * state["momentum_buffer"] + (1 - o["dampening"]) * u
        p.sub_(u + momentum * b if o["nesterov"] else b)
