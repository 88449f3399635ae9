"""Parameters of which a rank holds a part: DTensors (FSDP2, tensor parallelism), or optimizers sharded by parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def is_distributed(t: Tensor) -> bool:
    """Whether ``t`` is a DTensor. Nothing is one before torch.distributed.tensor is imported."""
    if type(t) in (Tensor, torch.nn.Parameter):
        return False
    import sys

    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def local(t: Any, like: Any = None) -> Tensor:
    """This rank's part; of a gradient, distributed as ``like`` is."""
    if not is_distributed(t):
        return t
    if like is not None and t.placements != like.placements:
        t = t.redistribute(placements=like.placements)
    part = t.to_local()
    return part.wait() if hasattr(part, "wait") else part


def full_norm(tensors: list[Tensor]) -> float:
    """The norm of all elements on all ranks; of what is no DTensor, those of this rank."""
    meshes: dict[Any, list[Any]] = {}
    t: Any
    for t in tensors:
        meshes.setdefault(t.device_mesh if is_distributed(t) else None, []).append(t)
    total = 0.0
    for mesh, members in meshes.items():
        norm: Any = torch.nn.utils.get_total_norm(members)
        total += float(norm.full_tensor() if mesh is not None else norm) ** 2
    return math.sqrt(total)


def total_norm_over(norm: float, group: Any) -> float:
    """The norm of all ranks' parts, from the norm of this rank's."""
    square = torch.tensor(norm, dtype=torch.float64) ** 2
    torch.distributed.all_reduce(square, group=None if group is True else group)
    return math.sqrt(square.item())
