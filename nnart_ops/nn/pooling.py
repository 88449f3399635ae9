"""Pooling modules: torch.nn's own classes with the forward on our kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.functional.pooling import max_pool2d


class MaxPool2d(torch.nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` by :func:`nnart_ops.functional.max_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H`` and ``W``.

    >>> nnart_ops.MaxPool2d(2)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 4, 4])
    """

    def forward(self, input: Tensor) -> Any:
        return max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )
