"""The device that the tests run on, pytest's ``--device``: what they create without naming one is there.

In the emulated build of the library (emulation.py) that is the CPU, but the kernels are the GPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import emulation
import pytest
import torch

import nnart_ops

DEVICE = torch.get_default_device().type
EMULATION = emulation.loaded()

cpu_only = pytest.mark.skipif(
    DEVICE != "cpu" or EMULATION is not None, reason="of threads, instruction sets or checks that only the CPU has"
)
cuda_kernels_only = pytest.mark.skipif(
    EMULATION is None and (DEVICE != "cuda" or nnart_ops.build_info()["cuda"] != "loaded"),
    reason="of the CUDA kernels, on a GPU or emulated",
)
gpu_only = pytest.mark.skipif(DEVICE != "cuda", reason="of what only a GPU has")


def has_kernel(op: str) -> bool:
    """Whether an op of the library has a kernel for the device."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"nnart_ops::{op}", DEVICE.upper())


def has_fused_step(name: str) -> bool:
    """Whether torch has a fused step of its optimizer of that name for the device."""
    op = f"aten::_fused_{name.lower()}_"
    names = ("SGD", "Adam", "AdamW", *(["Adagrad"] if DEVICE == "cpu" else []))
    return name in names and torch._C._dispatch_has_kernel_for_dispatch_key(op, DEVICE.upper())


def generator(seed: int) -> torch.Generator:
    """A generator of the device's own."""
    return torch.Generator(DEVICE).manual_seed(seed)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Lets kernels on the CPU use ``n`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
