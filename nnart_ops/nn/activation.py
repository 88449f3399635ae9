"""Activation modules: torch.nn's own classes with the forward on our kernels.

Constructor, repr, attributes, state_dict and pickling are inherited, so a checkpoint and a config file do not notice.
After torch's arguments comes ``save``, what is kept for the backward: see :mod:`nnart_ops.functional.activation`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops import functional as F


class Activation(torch.nn.Module):
    """What torch's modules and ours are told apart by: ``save``."""

    save: str | None = None  # of a layer that convert() made ours

    def __init__(self, *args: Any, save: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if save is not None:
            self.save = save
            with torch.no_grad():
                self.eval()(torch.zeros(2, device="cpu"))  # refuses what it cannot keep
            self.train()

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.save is None else f"{text}{', ' * bool(text)}save={self.save!r}"


class ReLU(Activation, torch.nn.ReLU):
    """:class:`torch.nn.ReLU` by :func:`nnart_ops.functional.relu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace, save=self.save)


class ReLU6(Activation, torch.nn.ReLU6):
    """:class:`torch.nn.ReLU6` by :func:`nnart_ops.functional.relu6`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input, self.inplace, save=self.save)


class LeakyReLU(Activation, torch.nn.LeakyReLU):
    """:class:`torch.nn.LeakyReLU` by :func:`nnart_ops.functional.leaky_relu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace, save=self.save)


class PReLU(torch.nn.PReLU):
    """:class:`torch.nn.PReLU` by :func:`nnart_ops.functional.prelu`. Shape: ``(N, C, *)`` or any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)


class RReLU(Activation, torch.nn.RReLU):
    """:class:`torch.nn.RReLU` by :func:`nnart_ops.functional.rrelu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace, save=self.save)


class Threshold(Activation, torch.nn.Threshold):
    """:class:`torch.nn.Threshold` by :func:`nnart_ops.functional.threshold`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace, save=self.save)


class Hardtanh(Activation, torch.nn.Hardtanh):
    """:class:`torch.nn.Hardtanh` by :func:`nnart_ops.functional.hardtanh`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace, save=self.save)


class Hardsigmoid(Activation, torch.nn.Hardsigmoid):
    """:class:`torch.nn.Hardsigmoid` by :func:`nnart_ops.functional.hardsigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace, save=self.save)


class Hardswish(Activation, torch.nn.Hardswish):
    """:class:`torch.nn.Hardswish` by :func:`nnart_ops.functional.hardswish`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace, save=self.save)


class Hardshrink(Activation, torch.nn.Hardshrink):
    """:class:`torch.nn.Hardshrink` by :func:`nnart_ops.functional.hardshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardshrink(input, self.lambd, save=self.save)


class Softshrink(Activation, torch.nn.Softshrink):
    """:class:`torch.nn.Softshrink` by :func:`nnart_ops.functional.softshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softshrink(input, self.lambd, save=self.save)


class ELU(Activation, torch.nn.ELU):
    """:class:`torch.nn.ELU` by :func:`nnart_ops.functional.elu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace, save=self.save)


class CELU(Activation, torch.nn.CELU):
    """:class:`torch.nn.CELU` by :func:`nnart_ops.functional.celu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha, self.inplace, save=self.save)


class SELU(Activation, torch.nn.SELU):
    """:class:`torch.nn.SELU` by :func:`nnart_ops.functional.selu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace, save=self.save)


class GELU(Activation, torch.nn.GELU):
    """:class:`torch.nn.GELU` by :func:`nnart_ops.functional.gelu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate, save=self.save)


class SiLU(Activation, torch.nn.SiLU):
    """:class:`torch.nn.SiLU` by :func:`nnart_ops.functional.silu`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace, save=self.save)


class Mish(Activation, torch.nn.Mish):
    """:class:`torch.nn.Mish` by :func:`nnart_ops.functional.mish`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace, save=self.save)


class Softplus(Activation, torch.nn.Softplus):
    """:class:`torch.nn.Softplus` by :func:`nnart_ops.functional.softplus`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold, save=self.save)


class Softsign(Activation, torch.nn.Softsign):
    """:class:`torch.nn.Softsign` by :func:`nnart_ops.functional.softsign`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input, save=self.save)


class Sigmoid(Activation, torch.nn.Sigmoid):
    """:class:`torch.nn.Sigmoid` by :func:`nnart_ops.functional.sigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input, save=self.save)


class LogSigmoid(Activation, torch.nn.LogSigmoid):
    """:class:`torch.nn.LogSigmoid` by :func:`nnart_ops.functional.logsigmoid`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input, save=self.save)


class Tanh(Activation, torch.nn.Tanh):
    """:class:`torch.nn.Tanh` by :func:`nnart_ops.functional.tanh`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input, save=self.save)


class Tanhshrink(Activation, torch.nn.Tanhshrink):
    """:class:`torch.nn.Tanhshrink` by :func:`nnart_ops.functional.tanhshrink`. Shape: any to the same."""

    def forward(self, input: Tensor) -> Tensor:
        return F.tanhshrink(input, save=self.save)
