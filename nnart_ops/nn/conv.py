"""Convolution modules: torch.nn's own classes with the forward on our kernels.

Constructor, initialization, attributes, state_dict and pickling are inherited; ``activation=`` and a residual are ours.
In a convolution a ``padding_mode`` other than ``'zeros'`` pads first and convolves then, as torch does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.functional.conv import conv1d, conv2d, conv3d
from nnart_ops.functional.conv_batch_norm import conv_batch_norm
from nnart_ops.functional.conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from nnart_ops.nn._activated import Activated


class Convolution(Activated):
    """What the three have in common."""

    norm: Any = None  # the batch normalization behind it that fuse() has it apply

    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        result: Tensor = self._conv_forward(input, self.weight, self.bias, residual)
        return result

    def extra_repr(self: Any) -> str:
        text: str = super().extra_repr()
        return text if self.norm is None else f"{text}, norm={self.norm!r}"

    def _conv_forward(
        self: Any, input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None
    ) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = native.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        geometry = (self.stride, padding, self.dilation, self.groups)
        norm = self.norm
        if norm is not None:
            (mean, var), training, momentum = norm.statistics()
            numbers = (mean, var, norm.weight, norm.bias, training, momentum, norm.eps)
            return conv_batch_norm(
                *(input, weight, bias, *numbers, *geometry), activation=norm.activation, residual=residual
            )
        function = (conv1d, conv2d, conv3d)[len(self.stride) - 1]
        plain = (input, weight, bias, *geometry)
        return function(*plain, activation=self.activation, residual=residual)


class _TransposedConvolution(Activated):
    """What the three have in common."""

    def forward(
        self: Any, input: Tensor, output_size: list[int] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError(f"Only `zeros` padding mode is supported for {type(self).__name__}")
        dims = len(self.stride)
        geometry = (self.stride, self.padding, self.kernel_size, dims, self.dilation)
        output_padding = self._output_padding(input, output_size, *geometry)
        function = (conv_transpose1d, conv_transpose2d, conv_transpose3d)[dims - 1]
        numbers = (self.stride, self.padding, output_padding, self.groups, self.dilation)
        return function(input, self.weight, self.bias, *numbers, activation=self.activation, residual=residual)


class Conv1d(Convolution, torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d` by :func:`nnart_ops.functional.conv1d`, with its ``activation``.

    Shape: ``(N, C, L)`` or ``(C, L)`` to ``(N, O, L')`` or ``(O, L')``; a residual as the output.

    >>> nnart_ops.Conv1d(3, 8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """


class Conv2d(Convolution, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` by :func:`nnart_ops.functional.conv2d`, with its ``activation``.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, O, H', W')`` or ``(O, H', W')``; a residual as the output.

    >>> layer = nnart_ops.Conv2d(3, 3, 3, padding=1, activation="relu")
    >>> x = torch.zeros(2, 3, 16, 16)
    >>> layer(x, residual=x).shape
    torch.Size([2, 3, 16, 16])
    """


class Conv3d(Convolution, torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d` by :func:`nnart_ops.functional.conv3d`, with its ``activation``.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, O, D', H', W')`` or ``(O, D', H', W')``; a residual as the
    output.

    >>> nnart_ops.Conv3d(3, 8, 3)(torch.zeros(2, 3, 8, 8, 8)).shape
    torch.Size([2, 8, 6, 6, 6])
    """


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` by :func:`nnart_ops.functional.conv_transpose1d`, with its ``activation``.

    The call is ``layer(input, output_size=None, residual=None)``; ``output_size`` chooses among the sizes that a stride
    leaves open.

    Shape: ``(N, C, L)`` or ``(C, L)`` to ``(N, O, L')`` or ``(O, L')``; a residual as the
        output.

    >>> nnart_ops.ConvTranspose1d(3, 8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 20])
    """


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` by :func:`nnart_ops.functional.conv_transpose2d`, with its ``activation``.

    The call is ``layer(input, output_size=None, residual=None)``; ``output_size`` chooses among the sizes that a stride
    leaves open.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, O, H', W')`` or ``(O, H', W')``; a residual as the
        output.

    >>> nnart_ops.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 8, 32, 32])
    """


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` by :func:`nnart_ops.functional.conv_transpose3d`, with its ``activation``.

    The call is ``layer(input, output_size=None, residual=None)``; ``output_size`` chooses among the sizes that a stride
    leaves open.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, O, D', H', W')`` or ``(O, D', H', W')``; a residual as the
        output.

    >>> nnart_ops.ConvTranspose3d(3, 8, 2, stride=2)(torch.zeros(2, 3, 4, 4, 4)).shape
    torch.Size([2, 8, 8, 8, 8])
    """


class LazyConv1d(Convolution, torch.nn.LazyConv1d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv1d`: a :class:`Conv1d` that takes its input channels from the first input.

    Shape: as :class:`Conv1d`.

    >>> nnart_ops.LazyConv1d(8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """

    cls_to_become = Conv1d


class LazyConv2d(Convolution, torch.nn.LazyConv2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv2d`: a :class:`Conv2d` that takes its input channels from the first input.

    Shape: as :class:`Conv2d`.

    >>> nnart_ops.LazyConv2d(8, 3)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 8, 14, 14])
    """

    cls_to_become = Conv2d


class LazyConv3d(Convolution, torch.nn.LazyConv3d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv3d`: a :class:`Conv3d` that takes its input channels from the first input.

    Shape: as :class:`Conv3d`.

    >>> nnart_ops.LazyConv3d(8, 3)(torch.zeros(2, 3, 8, 8, 8)).shape
    torch.Size([2, 8, 6, 6, 6])
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_TransposedConvolution, torch.nn.LazyConvTranspose1d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose1d`: a :class:`ConvTranspose1d` that takes its input channels from the first
    input.

    Shape: as :class:`ConvTranspose1d`.

    >>> nnart_ops.LazyConvTranspose1d(8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 20])
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_TransposedConvolution, torch.nn.LazyConvTranspose2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose2d`: a :class:`ConvTranspose2d` that takes its input channels from the first
    input.

    Shape: as :class:`ConvTranspose2d`.

    >>> nnart_ops.LazyConvTranspose2d(8, 4, stride=2, padding=1)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 8, 32, 32])
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_TransposedConvolution, torch.nn.LazyConvTranspose3d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose3d`: a :class:`ConvTranspose3d` that takes its input channels from the first
    input.

    Shape: as :class:`ConvTranspose3d`.

    >>> nnart_ops.LazyConvTranspose3d(8, 2, stride=2)(torch.zeros(2, 3, 4, 4, 4)).shape
    torch.Size([2, 8, 8, 8, 8])
    """

    cls_to_become = ConvTranspose3d
