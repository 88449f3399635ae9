"""Batch normalization, with the residual and the activation that follow it in a network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd.batch_norm import batch_norm as _batch_norm
from nnart_ops.autograd.batch_norm import statistics_dtype
from nnart_ops.autograd.function import transforms_active
from nnart_ops.functional._epilogue import IDENTITY, Epilogue, epilogue_of
from nnart_ops.functional._native import TYPES, trial_kernel_takes

_ORDERS = {torch.channels_last: [0, 2, 3, 1], torch.channels_last_3d: [0, 2, 3, 4, 1]}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
# Elements below which torch's own operations, which are called from C++, end sooner in a network; an eighth where an
# activation or a residual follows, and of float32 planes, whose elements native adds one by one.
LEFT_TO_NATIVE = 1 << 17
_NARROW = (torch.bfloat16, torch.float16)
# The activations that the kernel computes itself, by their ops.
FUSED = frozenset({"identity", "relu", "leaky_relu", "hardtanh", "hardswish", "elu", "silu", "mish"})


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``y = activation((x - mean) weight / sqrt(var + eps) + bias + residual)`` for each channel (Ioffe and Szegedy
    2015, arXiv:1502.03167).

    In training mean and var are the batch's, and the running ones move to them by ``momentum``, var to its unbiased
    estimate; otherwise they are the running ones. The input is read once for the statistics and once for the result;
    what follows costs no pass of its own. The backward keeps the input, and with a residual the output too. A ReLU,
    ReLU6, Hardtanh, LeakyReLU, Hardswish, ELU, SELU, CELU, SiLU or Mish is fused, behind a residual the first four
    alone; any other activation, and a residual in front of it, is computed after. Means and variances are found in
    two sweeps over blocks, so that a mean much larger than the deviation costs no precision, and do not depend on the
    number of threads.

    float32, float64, bfloat16 and float16 on the CPU run on our kernels, half precision in float32 throughout, and so
    they do on CUDA where kernels on trial are asked for. Other devices and dtypes, ``torch.func`` transforms, and small
    inputs, of which calls are all the cost, run the native operations, and so does what has no more to do than to
    normalize with running statistics.

    Args:
        input: x, its channels in dimension 1.
        running_mean, running_var: one number a channel, changed in training; both or neither.
        weight, bias: one number a channel, or ``None`` for 1 and 0; of the input's dtype or, beside one of 16 bits,
            float32.
        training: whether the statistics are the batch's.
        momentum: of the running statistics.
        eps: added to the variance.
        activation: a name of ``torch.nn.functional`` with its defaults, or a module such as ``nn.LeakyReLU(0.1)``.
        residual: added before the activation; of the input's shape.

    Shape: ``(N, C)`` or ``(N, C, *)`` to the same.

    Raises:
        ValueError: if there is one value a channel in training, ``eps`` is negative (or zero in training), or there is
            no such activation.
        RuntimeError: if a shape or dtype does not fit.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> nnart_ops.functional.batch_norm(x, None, None, training=True, eps=1e-9, activation="relu")
    tensor([[0.],
            [1.]])
    """
    epilogue = IDENTITY if activation is None else epilogue_of(activation)
    if residual is not None and residual.shape != input.shape:
        raise RuntimeError(
            f"batch_norm: residual must have the input's shape {list(input.shape)}, but has {list(residual.shape)}"
        )
    follows = residual is not None or activation is not None
    if not _takes(input, running_mean, running_var, weight, bias, residual, training, eps, follows):
        y = native.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return epilogue.function(y if residual is None else y + residual)
    inner, after = split_epilogue(epilogue, residual is not None)
    mean = var = None
    if not training:
        wide = statistics_dtype(input.dtype)
        mean, var = (None if t is None else t.to(wide) for t in (running_mean, running_var))
    y, mean, var = _batch_norm(
        input, weight, bias, residual, mean, var, eps, training, inner.op, list(inner.numbers), _order(input)
    )
    if training:
        move_running(running_mean, running_var, mean, var, momentum, input.numel() // input.size(1))
    return after.function(y)


def split_epilogue(epilogue: Epilogue, from_output: bool) -> tuple[Epilogue, Epilogue]:
    """What the kernel computes of it, and what follows; ``from_output`` if a backward has but the output to go by."""
    fused = epilogue.op in FUSED and (not from_output or epilogue.is_known_from_output)
    return (epilogue, IDENTITY) if fused else (IDENTITY, epilogue)


def move_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, momentum: float, n: int
) -> None:
    """Takes running statistics towards those of a batch with ``n`` elements a channel."""
    if running_mean is not None and running_var is not None:
        found = (mean.to(running_mean.dtype), (var * (n / (n - 1))).to(running_var.dtype))
        torch._foreach_lerp_((running_mean, running_var), found, momentum)  # one call: in a network they are felt


def _takes(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    follows: bool,
) -> bool:
    """Whether the kernel takes the call; where it is wrong, torch says why."""
    if not follows and (input.is_cuda or not training):  # torch's own has as few passes, and no Python
        return False
    if not trial_kernel_takes(*(input,) if residual is None else (input, residual)) or transforms_active():
        return False
    n = input.numel()
    gains_more = follows or (input.dtype not in _NARROW and not _order(input))
    if input.is_cpu and n < (LEFT_TO_NATIVE // 8 if gains_more else LEFT_TO_NATIVE):
        return False
    if input.dim() < 2 or n == 0 or eps < 0 or (training and eps == 0):
        return False
    channels = input.size(1)
    if training and n == channels:
        return False
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        return False
    own, device, sizes = input.dtype, input.device, (channels,)
    for pair in ((weight, bias), (running_mean, running_var)):
        dtype = own
        for t in pair:
            if t is None:
                continue
            if own in _NARROW and t.dtype is torch.float32:
                dtype = torch.float32
            if type(t) not in TYPES or t.dtype is not dtype or t.device != device or t.shape != sizes:
                return False
    return True


def _order(x: Tensor) -> list[int]:
    """The order of dimensions in which native's output lies."""
    if x.is_contiguous():
        return []
    memory_format = _FORMATS.get(x.dim())
    if memory_format is None:
        return []
    if x.is_contiguous(memory_format=memory_format) or torch._prims_common.suggest_memory_format(x) is memory_format:
        return _ORDERS[memory_format]
    return []
