"""Element-wise activations, with the names, arguments and results of ``torch.nn.functional``.

Every function takes a tensor of any shape and returns one of the same shape, strides and dtype. float32, float64,
bfloat16 and float16 run on our kernels (half precision computes in float32), everything else on the native operation.
``inplace=True`` overwrites the input, as torch does.

``save`` says what is kept for the backward, in eager mode: ``None``, what torch keeps, which is the output for relu,
sigmoid and tanh and the input for the others; ``'input'``; ``'output'`` for those whose derivative follows from it
(the ReLUs, ELUs and shrinkages, sigmoid, logsigmoid, tanh and softplus), which costs nothing where the next operation
keeps it anyway; ``'mask'``, one bit an element, where the derivative takes two values; ``'recompute'``,
the input, and within :class:`nnart_ops.recompute_activations` nothing of the output for the operations that follow.
docs/memory.md has the bytes. Any other value is a ``ValueError``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd import activation as _activation
from nnart_ops.autograd.conv import autocast_operands as _autocast_operands
from nnart_ops.autograd.prelu import prelu as _prelu
from nnart_ops.functional import _saving
from nnart_ops.functional._native import device_kernel_takes as _all_taken
from nnart_ops.functional._native import float32_under_autocast as _float32_under_autocast
from nnart_ops.functional._native import one_device_kernel_takes as _takes
from nnart_ops.functional._random_rrelu import random_rrelu as _random_rrelu

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _run(name: str, op: str, input: Tensor, inplace: bool, save: str | None, *parameters: float) -> Tensor:
    activation: _activation.Activation = getattr(_activation, op)
    if save is not None:
        _saving.check(name, op, save, inplace, parameters)
        return _saving.run(activation, op, input, inplace, save, *parameters)
    if inplace and input.requires_grad and "output" in _saving.allowed(op, parameters):
        return _saving.run(activation, op, input, True, "output", *parameters)  # else a copy of the input is kept
    return activation.inplace(input, *parameters) if inplace else activation.apply(input, *parameters)


def relu(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``max(x, 0)``; the backward keeps the output, as torch does.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.relu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    if not _takes(input):
        return native.relu(input, inplace)
    if inplace or save is not None:
        return _run("relu", "relu", input, inplace, save)
    return _relu(input)


_relu = _activation.relu.apply  # looked up once: a call on a small tensor is all overhead


def relu6(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``min(max(x, 0), 6)``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.relu6(torch.tensor([-1.0, 3.0, 8.0]))
    tensor([0., 3., 6.])
    """
    if not _takes(input):
        return native.relu6(input, inplace)
    return _run("relu6", "hardtanh", input, inplace, save, 0.0, 6.0)


def leaky_relu(
    input: Tensor, negative_slope: float = 0.01, inplace: bool = False, *, save: str | None = None
) -> Tensor:
    """``x`` where ``x > 0``, else ``negative_slope * x``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.leaky_relu(torch.tensor([-1.0, 2.0]), 0.1)
    tensor([-0.1000,  2.0000])
    """
    if not _takes(input):
        return native.leaky_relu(input, negative_slope, inplace)
    return _run("leaky_relu", "leaky_relu", input, inplace, save, negative_slope)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``x`` where ``x > 0``, else ``weight * x`` with a learned weight (He et al. 2015, arXiv:1502.01852).

    Shape: input ``(N, C, *)`` or any; weight ``(1,)`` or ``(C,)``, one a channel; the output has the input's.

    Raises:
        RuntimeError: if ``weight`` has neither one element nor as many as ``input`` has channels.

    >>> nnart_ops.functional.prelu(torch.tensor([[-1.0, -1.0]]), torch.tensor([0.1, 0.5]))
    tensor([[-0.1000, -0.5000]])
    """
    if not _all_taken(input, weight) or weight.dim() > 1 or input.dim() == 0:
        return native.prelu(input, weight)
    channels = input.size(1) if input.dim() > 1 else 1
    if weight.numel() not in (1, channels):
        raise RuntimeError(
            f"prelu: weight must have 1 element or one for each of the input's {channels} channels, "
            f"but it has shape {list(weight.shape)} (input: {list(input.shape)}). "
            f"Mismatch of parameter numbers and input channel size."
        )
    if input.is_cuda and torch.is_autocast_enabled("cuda"):  # torch's autocast lowers it there alone
        input, weight = _autocast_operands("cuda", input, weight)
    return _prelu(input, weight)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    save: str | None = None,
) -> Tensor:
    """Leaky ReLU with a slope drawn from ``[lower, upper)`` for each element in training, their mean otherwise (Xu et
    al. 2015, arXiv:1505.00853).

    The random slopes differ from torch's, which keeps a tensor of them: the backward draws them again, as
    :mod:`nnart_ops.functional.dropout` does. In training ``save`` may be ``'output'`` for slopes that are not negative.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.rrelu(torch.tensor([-1.0, 2.0]), 0.1, 0.3)
    tensor([-0.2000,  2.0000])
    """
    if lower > upper or not (_all_taken if training else _takes)(input):
        return native.rrelu(input, lower, upper, training, inplace)
    if training:
        return _random_rrelu(input, lower, upper, inplace, save)
    return _run("rrelu", "leaky_relu", input, inplace, save, (lower + upper) / 2)


def threshold(
    input: Tensor, threshold: float, value: float, inplace: bool = False, *, save: str | None = None
) -> Tensor:
    """``x`` where ``x > threshold``, else ``value``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.threshold(torch.tensor([0.5, 2.0]), 1.0, -7.0)
    tensor([-7.,  2.])
    """
    if not _takes(input):
        return native.threshold(input, threshold, value, inplace)
    return _run("threshold", "threshold", input, inplace, save, threshold, value)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, *, save: str | None = None
) -> Tensor:
    """``x`` clamped to ``[min_val, max_val]``.

    Shape: any; the output has the input's.

    Raises:
        ValueError: if ``min_val > max_val``.

    >>> nnart_ops.functional.hardtanh(torch.tensor([-2.0, 0.5, 2.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val cannot be greater than max_val, but min_val={min_val}, max_val={max_val}")
    if not _takes(input):
        return native.hardtanh(input, min_val, max_val, inplace)
    return _run("hardtanh", "hardtanh", input, inplace, save, min_val, max_val)


def hardsigmoid(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``clamp(x + 3, 0, 6) / 6``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.hardsigmoid(torch.tensor([-4.0, 0.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    if not _takes(input):
        return native.hardsigmoid(input, inplace)
    return _run("hardsigmoid", "hardsigmoid", input, inplace, save)


def hardswish(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``x * clamp(x + 3, 0, 6) / 6`` (Howard et al. 2019, arXiv:1905.02244).

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.hardswish(torch.tensor([-4.0, 0.0, 4.0]))
    tensor([-0., 0., 4.])
    """
    if not _takes(input):
        return native.hardswish(input, inplace)
    return _run("hardswish", "hardswish", input, inplace, save)


def hardshrink(input: Tensor, lambd: float = 0.5, *, save: str | None = None) -> Tensor:
    """0 where ``|x| <= lambd``, else ``x``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.hardshrink(torch.tensor([-1.0, 0.2]))
    tensor([-1.,  0.])
    """
    if not _takes(input):
        return native.hardshrink(input, lambd)
    return _run("hardshrink", "hardshrink", input, False, save, lambd)


def softshrink(input: Tensor, lambd: float = 0.5, *, save: str | None = None) -> Tensor:
    """``x`` moved towards 0 by ``lambd``, and 0 within that distance.

    Shape: any; the output has the input's.

    Raises:
        RuntimeError: if ``lambd`` is negative or beyond the input's dtype.

    >>> nnart_ops.functional.softshrink(torch.tensor([-1.0, 0.2]))
    tensor([-0.5000,  0.0000])
    """
    if not _takes(input):
        return native.softshrink(input, lambd)
    largest = torch.finfo(input.dtype).max
    if not 0 <= lambd <= largest:
        raise RuntimeError(
            f"softshrink: lambda must be in range [0, {largest:g}] for input dtype {input.dtype}, but found {lambd}"
        )
    return _run("softshrink", "softshrink", input, False, save, lambd)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016, arXiv:1511.07289).

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.elu(torch.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.0000])
    """
    if not _takes(input):
        return native.elu(input, alpha, inplace)
    return _run("elu", "elu", input, inplace, save, alpha, 1.0, 1.0)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``x`` where ``x > 0``, else ``alpha * (exp(x / alpha) - 1)`` (Barron 2017, arXiv:1704.07483).

    Shape: any; the output has the input's.

    Raises:
        RuntimeError: if ``alpha`` is 0.

    >>> nnart_ops.functional.celu(torch.tensor([-1.0, 2.0]), alpha=2.0)
    tensor([-0.7869,  2.0000])
    """
    if alpha == 0:
        raise RuntimeError("celu: ZeroDivisionError: alpha cannot be 0 for CELU; give any other number.")
    if not _takes(input):
        return native.celu(input, alpha, inplace)
    return _run("celu", "elu", input, inplace, save, alpha, 1.0, 1.0 / alpha)


def selu(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """ELU with the scale and alpha that keep mean 0 and variance 1 (Klambauer et al. 2017, arXiv:1706.02515).

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.selu(torch.tensor([-1.0, 1.0]))
    tensor([-1.1113,  1.0507])
    """
    if not _takes(input):
        return native.selu(input, inplace)
    return _run("selu", "elu", input, inplace, save, _SELU_ALPHA, _SELU_SCALE, 1.0)


def gelu(input: Tensor, approximate: str = "none", *, save: str | None = None) -> Tensor:
    """``x`` times the normal distribution function at ``x``, or its tanh approximation (Hendrycks and Gimpel 2016,
    arXiv:1606.08415).

    Args:
        approximate: ``'none'`` or ``'tanh'``.

    Shape: any; the output has the input's.

    Raises:
        RuntimeError: if ``approximate`` is anything else.

    >>> nnart_ops.functional.gelu(torch.tensor([-1.0, 1.0]))
    tensor([-0.1587,  0.8413])
    """
    if approximate == "none":
        return _run("gelu", "gelu", input, False, save) if _takes(input) else native.gelu(input)
    if approximate == "tanh":
        return (
            _run("gelu", "gelu_tanh", input, False, save) if _takes(input) else native.gelu(input, approximate="tanh")
        )
    raise RuntimeError(f"gelu: approximate argument must be either none or tanh, but got {approximate!r}.")


def silu(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``x * sigmoid(x)`` (Elfwing et al. 2017, arXiv:1702.03118).

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.silu(torch.tensor([-1.0, 1.0]))
    tensor([-0.2689,  0.7311])
    """
    if not _takes(input):
        return native.silu(input, inplace)
    return _run("silu", "silu", input, inplace, save)


def mish(input: Tensor, inplace: bool = False, *, save: str | None = None) -> Tensor:
    """``x * tanh(log(1 + exp(x)))`` (Misra 2019, arXiv:1908.08681).

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.mish(torch.tensor([-1.0, 1.0]))
    tensor([-0.3034,  0.8651])
    """
    if not _takes(input):
        return native.mish(input, inplace)
    return _run("mish", "mish", input, inplace, save)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0, *, save: str | None = None) -> Tensor:
    """``log(1 + exp(beta * x)) / beta``, and ``x`` itself where ``beta * x > threshold``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.softplus(torch.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.0000])
    """
    if not _takes(input) or beta == 0:
        return native.softplus(input, beta, threshold)
    if input.is_cuda:  # torch's autocast raises it there alone
        input = _float32_under_autocast(input)
    return _run("softplus", "softplus", input, False, save, beta, threshold)


def softsign(input: Tensor, *, save: str | None = None) -> Tensor:
    """``x / (1 + |x|)``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.softsign(torch.tensor([-1.0, 3.0]))
    tensor([-0.5000,  0.7500])
    """
    return _run("softsign", "softsign", input, False, save) if _takes(input) else native.softsign(input)


def sigmoid(input: Tensor, *, save: str | None = None) -> Tensor:
    """``1 / (1 + exp(-x))``; the backward keeps the output, as torch does.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.sigmoid(torch.tensor([0.0, 2.0]))
    tensor([0.5000, 0.8808])
    """
    return _run("sigmoid", "sigmoid", input, False, save) if _takes(input) else torch.sigmoid(input)


def logsigmoid(input: Tensor, *, save: str | None = None) -> Tensor:
    """``log(sigmoid(x))``, without overflow at either end.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.logsigmoid(torch.tensor([0.0, -100.0]))
    tensor([  -0.6931, -100.0000])
    """
    return _run("logsigmoid", "logsigmoid", input, False, save) if _takes(input) else native.logsigmoid(input)


def tanh(input: Tensor, *, save: str | None = None) -> Tensor:
    """Hyperbolic tangent; the backward keeps the output, as torch does.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.tanh(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7616])
    """
    return _run("tanh", "tanh", input, False, save) if _takes(input) else torch.tanh(input)


def tanhshrink(input: Tensor, *, save: str | None = None) -> Tensor:
    """``x - tanh(x)``.

    Shape: any; the output has the input's.

    >>> nnart_ops.functional.tanhshrink(torch.tensor([0.0, 2.0]))
    tensor([0.0000, 1.0360])
    """
    return _run("tanhshrink", "tanhshrink", input, False, save) if _takes(input) else native.tanhshrink(input)
