"""Pooling modules: torch.nn's own classes with the forward on our kernels.

Constructor, repr, attributes and pickling are inherited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnart_ops import functional as F


class MaxPool1d(torch.nn.MaxPool1d):
    """:class:`torch.nn.MaxPool1d` by :func:`nnart_ops.functional.max_pool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with pooled ``L``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool2d(torch.nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` by :func:`nnart_ops.functional.max_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H and W``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool3d(torch.nn.MaxPool3d):
    """:class:`torch.nn.MaxPool3d` by :func:`nnart_ops.functional.max_pool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with pooled ``D, H and W``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.max_pool3d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class AvgPool1d(torch.nn.AvgPool1d):
    """:class:`torch.nn.AvgPool1d` by :func:`nnart_ops.functional.avg_pool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with pooled ``L``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(torch.nn.AvgPool2d):
    """:class:`torch.nn.AvgPool2d` by :func:`nnart_ops.functional.avg_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool3d(torch.nn.AvgPool3d):
    """:class:`torch.nn.AvgPool3d` by :func:`nnart_ops.functional.avg_pool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with pooled ``D, H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool3d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    """:class:`torch.nn.AdaptiveMaxPool1d` by :func:`nnart_ops.functional.adaptive_max_pool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with pooled ``L``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """:class:`torch.nn.AdaptiveMaxPool2d` by :func:`nnart_ops.functional.adaptive_max_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H and W``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(torch.nn.AdaptiveMaxPool3d):
    """:class:`torch.nn.AdaptiveMaxPool3d` by :func:`nnart_ops.functional.adaptive_max_pool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with pooled ``D, H and W``.
    """

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    """:class:`torch.nn.AdaptiveAvgPool1d` by :func:`nnart_ops.functional.adaptive_avg_pool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with pooled ``L``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """:class:`torch.nn.AdaptiveAvgPool2d` by :func:`nnart_ops.functional.adaptive_avg_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(torch.nn.AdaptiveAvgPool3d):
    """:class:`torch.nn.AdaptiveAvgPool3d` by :func:`nnart_ops.functional.adaptive_avg_pool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with pooled ``D, H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(input, self.output_size)


class LPPool1d(torch.nn.LPPool1d):
    """:class:`torch.nn.LPPool1d` by :func:`nnart_ops.functional.lp_pool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with pooled ``L``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.lp_pool1d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(torch.nn.LPPool2d):
    """:class:`torch.nn.LPPool2d` by :func:`nnart_ops.functional.lp_pool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with pooled ``H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.lp_pool2d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool3d(torch.nn.LPPool3d):
    """:class:`torch.nn.LPPool3d` by :func:`nnart_ops.functional.lp_pool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with pooled ``D, H and W``.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.lp_pool3d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class MaxUnpool1d(torch.nn.MaxUnpool1d):
    """:class:`torch.nn.MaxUnpool1d` by :func:`nnart_ops.functional.max_unpool1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to the same with unpooled ``L``.
    """

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d` by :func:`nnart_ops.functional.max_unpool2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to the same with unpooled ``H and W``.
    """

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(torch.nn.MaxUnpool3d):
    """:class:`torch.nn.MaxUnpool3d` by :func:`nnart_ops.functional.max_unpool3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to the same with unpooled ``D, H and W``.
    """

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
