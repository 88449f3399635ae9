"""Convolution modules: torch.nn's own classes with the forward on our kernels.

Constructor, initialization, repr, attributes, state_dict and pickling are inherited. A ``padding_mode`` other than
``'zeros'`` pads first and convolves then, as torch does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.functional.conv import conv1d, conv2d, conv3d


class Conv1d(torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d` by :func:`nnart_ops.functional.conv1d`.

    Shape: ``(N, C, L)`` or ``(C, L)`` to ``(N, O, L')`` or ``(O, L')``.

    >>> nnart_ops.Conv1d(3, 8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = native.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,)
        return conv1d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` by :func:`nnart_ops.functional.conv2d`.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, O, H', W')`` or ``(O, H', W')``.

    >>> nnart_ops.Conv2d(3, 8, 3, padding=1)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 8, 16, 16])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = native.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d` by :func:`nnart_ops.functional.conv3d`.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, O, D', H', W')`` or ``(O, D', H', W')``.

    >>> nnart_ops.Conv3d(3, 8, 3)(torch.zeros(2, 3, 8, 8, 8)).shape
    torch.Size([2, 8, 6, 6, 6])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = native.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0, 0)
        return conv3d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
