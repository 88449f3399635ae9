"""The layer that torch.nn has no name for: bias, activation, dropout and residual in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops import functional as F
from nnart_ops.functional._epilogue import epilogue_of


class BiasActivation(torch.nn.Module):
    """``y = residual + dropout(activation(x + bias))`` by :func:`nnart_ops.functional.bias_activation`.

    It follows a ``Linear`` or convolution without a bias of its own; called as ``layer(x)`` or ``layer(x, residual)``.

    Args:
        num_features: elements of the bias, the size of the input's dimension ``dim``.
        activation: a name of ``torch.nn.functional``, a module, or ``None``.
        dim: the bias's dimension.
        dropout: probability of an element to be zeroed in training.
        bias: whether there is a bias, which begins as zeros.

    Shape: any with ``num_features`` in dimension ``dim`` to the same; a residual as the input.

    >>> layer = nnart_ops.BiasActivation(8, "gelu", dropout=0.1)
    >>> x = torch.zeros(2, 5, 8)
    >>> layer(torch.nn.Linear(8, 8, bias=False)(x), residual=x).shape
    torch.Size([2, 5, 8])
    """

    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        activation: Any = None,
        *,
        dim: int = -1,
        dropout: float = 0.0,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        epilogue_of(activation)  # refuses what it does not know
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {dropout}")
        self.num_features, self.dim, self.dropout = num_features, dim, dropout
        self.__dict__["activation"] = activation  # not a submodule: the state_dict has the bias alone
        zeros = torch.zeros(num_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else torch.nn.Parameter(zeros))

    def reset_parameters(self) -> None:
        """Zeros the bias."""
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return F.bias_activation(
            input,
            self.bias,
            self.activation,
            dim=self.dim,
            dropout_p=self.dropout,
            residual=residual,
            training=self.training,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_features}, activation={self.activation!r}, dim={self.dim}, dropout={self.dropout}"
        return text if self.bias is not None else f"{text}, bias=False"
