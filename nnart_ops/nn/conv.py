"""Convolution modules: torch.nn's own classes with the forward on our kernels.

Constructor, initialization, attributes, state_dict and pickling are inherited; ``activation=`` and a residual are ours.
A ``padding_mode`` other than ``'zeros'`` pads first and convolves then, as torch does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as native
from torch import Tensor

from nnart_ops.functional._epilogue import epilogue_of
from nnart_ops.functional.conv import conv1d, conv2d, conv3d


class _Convolution:
    """What the three have in common."""

    activation: Any = None

    def __init__(self, *args: Any, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        epilogue_of(activation)  # refuses what it does not know
        self.__dict__["activation"] = activation  # not a submodule: the state_dict and children stay torch's

    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        result: Tensor = self._conv_forward(input, self.weight, self.bias, residual)
        return result

    def _conv_forward(
        self: Any, input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None
    ) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = native.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        function = (conv1d, conv2d, conv3d)[len(self.stride) - 1]
        plain = (input, weight, bias, self.stride, padding, self.dilation, self.groups)
        return function(*plain, activation=self.activation, residual=residual)

    def extra_repr(self: Any) -> str:
        text: str = super().extra_repr()  # type: ignore[misc]
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class Conv1d(_Convolution, torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d` by :func:`nnart_ops.functional.conv1d`, with its ``activation``.

    Shape: ``(N, C, L)`` or ``(C, L)`` to ``(N, O, L')`` or ``(O, L')``; a residual as the output.

    >>> nnart_ops.Conv1d(3, 8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """


class Conv2d(_Convolution, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` by :func:`nnart_ops.functional.conv2d`, with its ``activation``.

    Shape: ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, O, H', W')`` or ``(O, H', W')``; a residual as the output.

    >>> layer = nnart_ops.Conv2d(3, 3, 3, padding=1, activation="relu")
    >>> x = torch.zeros(2, 3, 16, 16)
    >>> layer(x, residual=x).shape
    torch.Size([2, 3, 16, 16])
    """


class Conv3d(_Convolution, torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d` by :func:`nnart_ops.functional.conv3d`, with its ``activation``.

    Shape: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, O, D', H', W')`` or ``(O, D', H', W')``; a residual as the
    output.

    >>> nnart_ops.Conv3d(3, 8, 3)(torch.zeros(2, 3, 8, 8, 8)).shape
    torch.Size([2, 8, 6, 6, 6])
    """


class LazyConv1d(_Convolution, torch.nn.LazyConv1d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv1d`: a :class:`Conv1d` that takes its input channels from the first input.

    Shape: as :class:`Conv1d`.

    >>> nnart_ops.LazyConv1d(8, 5)(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """

    cls_to_become = Conv1d


class LazyConv2d(_Convolution, torch.nn.LazyConv2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv2d`: a :class:`Conv2d` that takes its input channels from the first input.

    Shape: as :class:`Conv2d`.

    >>> nnart_ops.LazyConv2d(8, 3)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 8, 14, 14])
    """

    cls_to_become = Conv2d


class LazyConv3d(_Convolution, torch.nn.LazyConv3d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv3d`: a :class:`Conv3d` that takes its input channels from the first input.

    Shape: as :class:`Conv3d`.

    >>> nnart_ops.LazyConv3d(8, 3)(torch.zeros(2, 3, 8, 8, 8)).shape
    torch.Size([2, 8, 6, 6, 6])
    """

    cls_to_become = Conv3d
