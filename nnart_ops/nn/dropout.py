"""Dropout modules: torch.nn's own classes with the forward on our kernels. The random stream differs from torch's."""

from __future__ import annotations

import torch
from torch import Tensor

from nnart_ops import functional as F


class Dropout(torch.nn.Dropout):
    """:class:`torch.nn.Dropout` by :func:`nnart_ops.functional.dropout`; the random stream is not torch's.

    Shape: any to the same.

    >>> nnart_ops.Dropout(0.2)(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(torch.nn.Dropout1d):
    """:class:`torch.nn.Dropout1d` by :func:`nnart_ops.functional.dropout1d`; the random stream is not torch's.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same.

    >>> nnart_ops.Dropout1d(0.2)(torch.ones(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(torch.nn.Dropout2d):
    """:class:`torch.nn.Dropout2d` by :func:`nnart_ops.functional.dropout2d`; the random stream is not torch's.

    Shape: ``(N, C, H, W)`` or ``(N, C, L)`` to the same.

    >>> nnart_ops.Dropout2d(0.2)(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(torch.nn.Dropout3d):
    """:class:`torch.nn.Dropout3d` by :func:`nnart_ops.functional.dropout3d`; the random stream is not torch's.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same.

    >>> nnart_ops.Dropout3d(0.2)(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(torch.nn.AlphaDropout):
    """:class:`torch.nn.AlphaDropout` by :func:`nnart_ops.functional.alpha_dropout`; the random stream is not torch's.

    Shape: any to the same.

    >>> nnart_ops.AlphaDropout(0.2)(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training)  # never in place, as torch


class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """:class:`torch.nn.FeatureAlphaDropout` by :func:`nnart_ops.functional.feature_alpha_dropout`; the
    random stream is not torch's.

    Shape: ``(N, C, *)`` to the same.

    >>> nnart_ops.FeatureAlphaDropout(0.2)(torch.ones(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.feature_alpha_dropout(input, self.p, self.training)  # never in place, as torch
