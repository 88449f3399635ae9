"""Dropout, with the names, arguments and errors of ``torch.nn.functional``.

The random numbers differ from torch's by design: the seed alone is drawn from torch's generator, so that
``torch.manual_seed`` reproduces a run, and the decision of each element follows from it and the element's number by
Philox4x32-10 (Salmon et al. 2011). It is the same for any number of threads, instruction set and dtype, and the
backward draws it again instead of keeping a mask. ``p`` is rounded to a multiple of 2^-32, the scale is not. float32,
float64, bfloat16 and float16 on CPU and CUDA run on our kernels, the rest on the native operation, as do ``p=0``,
``p=1`` and ``training=False``, in which nothing is random.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd.dropout import dropout as _dropout
from nnart_ops.autograd.dropout import dropout_ as _dropout_
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.functional._native import device_kernel_takes

_SELU_LOWEST = -1.7580993408473766  # - alpha scale of SELU, what it tends to; alpha dropout sets elements to it


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros each element with probability ``p`` and multiplies the others by ``1 / (1 - p)`` (Srivastava et al. 2014,
    Journal of Machine Learning Research 15).

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`. Nothing of the input's size is kept
    for the backward.

    Args:
        input: the tensor, in any layout, which the output has too.
        p: probability of an element to be zeroed.
        training: if false, the input is returned.
        inplace: whether to overwrite the input.

    Shape: any; the output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.

    >>> y = nnart_ops.functional.dropout(torch.ones(1000), p=0.2)
    >>> y.unique()
    tensor([0.0000, 1.2500])
    """
    if not (training and is_random(p) and _takes(input)):
        return native.dropout(input, p, training, inplace)
    return _run(input, inplace, p, 1 / (1 - p), 0.0, 0.0, False)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Sets each element with probability ``p`` to what SELU tends to, then scales and shifts all so that mean 0 and
    variance 1 stay (Klambauer et al. 2017, arXiv:1706.02515).

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`.

    Args: see :func:`dropout`.

    Shape: any; the output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.

    >>> nnart_ops.functional.alpha_dropout(torch.zeros(1000), p=0.5, training=True).unique()
    tensor([-0.7792,  0.7792])
    """
    if not (training and is_random(p) and _takes(input)):
        return native.alpha_dropout(input, p, training, inplace)
    return _run(input, inplace, p, *_alpha(p), False)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros each channel with probability ``p`` and multiplies the others by ``1 / (1 - p)`` (Tompson et al. 2015,
    arXiv:1411.4280).

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`.

    Args: see :func:`dropout`.

    Shape: input ``(N, C, L)`` or ``(C, L)``; the output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has another number of dimensions.

    >>> y = nnart_ops.functional.dropout1d(torch.ones(2, 3, 4))
    >>> torch.equal(y, y[:, :, :1].expand(2, 3, 4))
    True
    """
    if not (training and is_random(p) and _takes(input) and input.dim() in (2, 3)):
        return native.dropout1d(input, p, training, inplace)
    return _channels(input, input.dim() == 3, inplace, p, 1 / (1 - p), 0.0, 0.0)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros each channel with probability ``p`` and multiplies the others by ``1 / (1 - p)`` (Tompson et al. 2015,
    arXiv:1411.4280).

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`.

    Args: see :func:`dropout`.

    Shape: input ``(N, C, H, W)``; as in torch, with a warning, ``(N, C, L)`` and others of 2 dimensions and more. The
        output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.

    >>> y = nnart_ops.functional.dropout2d(torch.ones(2, 3, 4, 4))
    >>> torch.equal(y, y[:, :, :1, :1].expand(2, 3, 4, 4))
    True
    """
    if not (training and is_random(p) and _takes(input) and input.dim() >= 2):
        return native.dropout2d(input, p, training, inplace)
    if input.dim() != 4:
        native.dropout2d(input.detach(), p, False)  # gives torch's warning and does nothing
    return _channels(input, True, inplace, p, 1 / (1 - p), 0.0, 0.0)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros each channel with probability ``p`` and multiplies the others by ``1 / (1 - p)`` (Tompson et al. 2015,
    arXiv:1411.4280).

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`.

    Args: see :func:`dropout`.

    Shape: input ``(N, C, D, H, W)`` or ``(C, D, H, W)``; as in torch, with a warning, others, which are taken for
        unbatched. The output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.

    >>> y = nnart_ops.functional.dropout3d(torch.ones(2, 3, 4, 4, 4))
    >>> torch.equal(y, y[:, :, :1, :1, :1].expand(2, 3, 4, 4, 4))
    True
    """
    if not (training and is_random(p) and _takes(input) and input.dim() >= 1):
        return native.dropout3d(input, p, training, inplace)
    if input.dim() not in (4, 5):
        native.dropout3d(input.detach(), p, False)  # gives torch's warning and does nothing
    return _channels(input, input.dim() == 5, inplace, p, 1 / (1 - p), 0.0, 0.0)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """:func:`alpha_dropout` of whole channels.

    The random stream differs from torch's; see :mod:`nnart_ops.functional.dropout`.

    Args: see :func:`dropout`.

    Shape: input ``(N, C, *)``; the output has the input's.

    Raises:
        ValueError: if ``p`` is not between 0 and 1.
        RuntimeError: if the input has fewer than 2 dimensions.

    >>> y = nnart_ops.functional.feature_alpha_dropout(torch.zeros(2, 3, 4), training=True)
    >>> torch.equal(y, y[:, :, :1].expand(2, 3, 4))
    True
    """
    if not (training and is_random(p) and _takes(input) and input.dim() >= 2):
        return native.feature_alpha_dropout(input, p, training, inplace)
    return _channels(input, True, inplace, p, *_alpha(p))


def is_random(p: Any) -> bool:
    """Whether elements are dropped with probability ``p``, and neither never nor always."""
    return isinstance(p, (float, int)) and 0 < p < 1


def new_seed(device: torch.device) -> Tensor:
    """A seed from torch's generator of the device: by a random operation, so that transforms and compilers see one."""
    return torch.randint(2**63 - 1, (), device=device)


def _takes(input: Any) -> bool:
    return isinstance(input, Tensor) and device_kernel_takes(input)


def _run(input: Tensor, inplace: bool, *how: Any) -> Tensor:
    function = _dropout_ if inplace else _dropout
    result: Tensor = function(input, new_seed(input.device), *how, memory_order(input))
    return result


def _channels(input: Tensor, batched: bool, inplace: bool, *how: Any) -> Tensor:
    if not batched:
        input = input.unsqueeze_(0) if inplace else input.unsqueeze(0)
    order = memory_order(input)
    if order and order != [0, *range(2, input.dim()), 1]:
        order = []  # channels-last is the one other layout
    result: Tensor = (_dropout_ if inplace else _dropout)(input, new_seed(input.device), *how, True, order)
    if not batched:
        result = result.squeeze_(0) if inplace else result.squeeze(0)
    return result


def _alpha(p: float) -> tuple[float, float, float]:
    """The scale, and what is added to kept and to dropped elements."""
    scale = ((_SELU_LOWEST**2 * p + 1) * (1 - p)) ** -0.5
    shift = -_SELU_LOWEST * scale * p
    return scale, shift, shift + _SELU_LOWEST * scale
