"""Softmax and the cross-entropy loss: torch.nn's own classes with the forward on our kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops import functional as F


class Softmax(torch.nn.Softmax):
    """:class:`torch.nn.Softmax` by :func:`nnart_ops.functional.softmax`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=5)


class Softmax2d(torch.nn.Softmax2d):
    """:class:`torch.nn.Softmax2d` by :func:`nnart_ops.functional.softmax`. Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to
    the same."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            return super().forward(input)  # refuses it
        return F.softmax(input, -3, _stacklevel=5)


class LogSoftmax(torch.nn.LogSoftmax):
    """:class:`torch.nn.LogSoftmax` by :func:`nnart_ops.functional.log_softmax`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=5)


class Softmin(torch.nn.Softmin):
    """:class:`torch.nn.Softmin` by :func:`nnart_ops.functional.softmin`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmin(input, self.dim, _stacklevel=5)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:class:`torch.nn.CrossEntropyLoss` by :func:`nnart_ops.functional.cross_entropy`.

    Args:
        overwrite_logits: whether the backward may write the logits' gradient over the logits, as the function
            describes; the others are torch's.

    Shape: logits ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)`` and labels without C, or probabilities with it, to a
    scalar, or the labels' for ``reduction='none'``.

    >>> nnart_ops.CrossEntropyLoss()(torch.zeros(4, 10), torch.tensor([0, 1, 2, 3]))
    tensor(2.3026)
    """

    overwrite_logits = False  # of a layer that convert() made ours

    def __init__(self, *args: Any, overwrite_logits: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.overwrite_logits = overwrite_logits

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            overwrite_logits=self.overwrite_logits,
        )
