"""Activation modules: torch.nn's own classes with the forward on our kernels.

Constructor, repr, attributes, state_dict and pickling are inherited, so a checkpoint and a config file do not notice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnart_ops import functional as F


class ReLU(torch.nn.ReLU):
    """:class:`torch.nn.ReLU` by :func:`nnart_ops.functional.relu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)


class ReLU6(torch.nn.ReLU6):
    """:class:`torch.nn.ReLU6` by :func:`nnart_ops.functional.relu6`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """:class:`torch.nn.LeakyReLU` by :func:`nnart_ops.functional.leaky_relu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class PReLU(torch.nn.PReLU):
    """:class:`torch.nn.PReLU` by :func:`nnart_ops.functional.prelu`. Shape: ``(N, C, *)`` or any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


class RReLU(torch.nn.RReLU):
    """:class:`torch.nn.RReLU` by :func:`nnart_ops.functional.rrelu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class Threshold(torch.nn.Threshold):
    """:class:`torch.nn.Threshold` by :func:`nnart_ops.functional.threshold`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)


class Hardtanh(torch.nn.Hardtanh):
    """:class:`torch.nn.Hardtanh` by :func:`nnart_ops.functional.hardtanh`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)


class Hardsigmoid(torch.nn.Hardsigmoid):
    """:class:`torch.nn.Hardsigmoid` by :func:`nnart_ops.functional.hardsigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace)


class Hardswish(torch.nn.Hardswish):
    """:class:`torch.nn.Hardswish` by :func:`nnart_ops.functional.hardswish`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace)


class Hardshrink(torch.nn.Hardshrink):
    """:class:`torch.nn.Hardshrink` by :func:`nnart_ops.functional.hardshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardshrink(input, self.lambd)


class Softshrink(torch.nn.Softshrink):
    """:class:`torch.nn.Softshrink` by :func:`nnart_ops.functional.softshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softshrink(input, self.lambd)


class ELU(torch.nn.ELU):
    """:class:`torch.nn.ELU` by :func:`nnart_ops.functional.elu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)


class CELU(torch.nn.CELU):
    """:class:`torch.nn.CELU` by :func:`nnart_ops.functional.celu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha, self.inplace)


class SELU(torch.nn.SELU):
    """:class:`torch.nn.SELU` by :func:`nnart_ops.functional.selu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace)


class GELU(torch.nn.GELU):
    """:class:`torch.nn.GELU` by :func:`nnart_ops.functional.gelu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)


class SiLU(torch.nn.SiLU):
    """:class:`torch.nn.SiLU` by :func:`nnart_ops.functional.silu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)


class Mish(torch.nn.Mish):
    """:class:`torch.nn.Mish` by :func:`nnart_ops.functional.mish`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace)


class Softplus(torch.nn.Softplus):
    """:class:`torch.nn.Softplus` by :func:`nnart_ops.functional.softplus`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)


class Softsign(torch.nn.Softsign):
    """:class:`torch.nn.Softsign` by :func:`nnart_ops.functional.softsign`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Sigmoid(torch.nn.Sigmoid):
    """:class:`torch.nn.Sigmoid` by :func:`nnart_ops.functional.sigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class LogSigmoid(torch.nn.LogSigmoid):
    """:class:`torch.nn.LogSigmoid` by :func:`nnart_ops.functional.logsigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Tanh(torch.nn.Tanh):
    """:class:`torch.nn.Tanh` by :func:`nnart_ops.functional.tanh`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Tanhshrink(torch.nn.Tanhshrink):
    """:class:`torch.nn.Tanhshrink` by :func:`nnart_ops.functional.tanhshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanhshrink(input)
