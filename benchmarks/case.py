"""One comparison: ours and the peer as functions of the round, and the bytes or flops of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One comparison. ``ours(i)`` and ``peer(i)`` run on input ``i % COPIES`` and return tensors to compare.

    ``bytes`` is the least that must cross memory, ``flops`` the arithmetic, where it bounds the call; ``inner`` is how
    many calls are timed at once, for calls too short to time alone. ``in_place`` says that what is read is overwritten,
    which memory does faster than a copy. ``tolerance`` is inf where the peer's numbers are wrong.
    """

    family: str
    name: str
    dtype: str
    ours: Callable[[int], Any]
    peer: Callable[[int], Any]
    bytes: int = 0
    flops: int = 0
    inner: int = 1
    tolerance: float = 1e-4
    in_place: bool = False
