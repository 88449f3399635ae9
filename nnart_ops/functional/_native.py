"""Which calls the kernels take. Everything else runs the native operation and gives the native answer."""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = frozenset({Tensor, torch.nn.Parameter})  # a subclass may change what an operation means
_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def kernel_takes(*tensors: Tensor) -> bool:
    """Whether all ``tensors`` are dense CPU tensors of one supported dtype."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if not (type(tensor) in TYPES and tensor.is_cpu and tensor.dtype is dtype and _is_plain(tensor)):
            return False
    return dtype in _DTYPES


def device_kernel_takes(*tensors: Tensor) -> bool:
    """:func:`kernel_takes` for the families that have CUDA kernels too: all ``tensors`` are on one device."""
    first = tensors[0]
    for tensor in tensors[1:]:
        same = tensor.dtype is first.dtype and tensor.device == first.device
        if not (same and one_device_kernel_takes(tensor)):
            return False
    return one_device_kernel_takes(first)


def trial_kernel_takes(*tensors: Tensor) -> bool:
    """The same for the families whose CUDA kernels are on trial: not yet as fast as native in the mean of their
    benchmarks, or not yet through all their tests on a GPU. There only ``NNART_CUDA_ON_TRIAL=1`` asks for them."""
    return (not tensors[0].is_cuda or _on_trial()) and device_kernel_takes(*tensors)


def one_device_kernel_takes(tensor: Tensor) -> bool:
    """The same of one tensor."""
    return (
        type(tensor) in TYPES
        and tensor.dtype in _DTYPES
        and (tensor.is_cpu or (tensor.is_cuda and _cuda_loaded()))
        and tensor.layout is torch.strided
        and not tensor.is_nested
    )


def float32_under_autocast(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where it is of 16 bits and torch's autocast is on for its device."""
    if tensor.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


def _cuda_loaded() -> bool:
    from nnart_ops import _extension

    return _extension.cuda_loaded()


def _on_trial() -> bool:
    from nnart_ops import _extension

    return _extension.CUDA_ON_TRIAL
