"""8-bit state as it is stored: a code for each element and a scale for each block, as in csrc/math/dynamic_map.h."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # kQuantizedBlock
LEAST = 4096  # elements; smaller tensors keep their state in full
CODES, SCALES = "_codes", "_scales"  # what is appended to a state's name


@functools.cache
def dynamic_map(positive: bool) -> Tensor:
    """The 256 values of the dynamic map in order (Dettmers et al. 2022, arXiv:2110.02861)."""
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + positive) + 1, dtype=torch.float64, device="cpu")
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        values += middles.tolist() + ([] if positive else (-middles).tolist())
    return torch.tensor(sorted(values), dtype=torch.float64, device="cpu")


def _in_order(p: Tensor) -> Tensor:
    """The elements in the order in which they lie."""
    return torch.as_strided(p, (p.numel(),), (1,), p.storage_offset()) if p.numel() else p.flatten()


def quantize(state: dict[str, Any], name: str, positive: bool, value: Tensor) -> None:
    """Puts a dense tensor into ``state`` as codes and scales, by the value nearest to each element."""
    flat = _in_order(value).double()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales = padded.abs().amax(dim=1, keepdim=True)
    unit = torch.where(scales > 0, padded / scales, 0.0).flatten()[: flat.numel()]
    values = dynamic_map(positive).to(value.device)
    state[name + CODES] = torch.bucketize(unit, (values[:-1] + values[1:]) / 2).to(torch.uint8)
    state[name + SCALES] = scales.flatten().float()


def dequantize(state: dict[str, Any], name: str, positive: bool, like: Tensor) -> Tensor:
    """The float32 tensor that codes and scales stand for, which lies as ``like``; takes them from ``state``."""
    codes, scales = state.pop(name + CODES), state.pop(name + SCALES)
    units = dynamic_map(positive).to(codes.device)[codes.long()]
    values = units * scales.double().repeat_interleave(BLOCK)[: codes.numel()]
    result = torch.empty_like(like, dtype=torch.float32, requires_grad=False)
    _in_order(result).copy_(values)
    return result
