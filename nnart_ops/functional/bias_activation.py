"""What stands around an activation in a network, in one pass over memory: bias, dropout and residual."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnart_ops.autograd.bias_activation import bias_activation as _bias_activation
from nnart_ops.autograd.dropout import memory_order
from nnart_ops.functional._epilogue import Epilogue, epilogue_of
from nnart_ops.functional._native import device_kernel_takes
from nnart_ops.functional.dropout import dropout, is_random, new_seed


def bias_activation(
    input: Tensor,
    bias: Tensor | None = None,
    activation: Any = None,
    *,
    dim: int = -1,
    dropout_p: float = 0.0,
    residual: Tensor | None = None,
    training: bool = True,
) -> Tensor:
    """``y = residual + dropout(activation(x + bias))``, every part optional, in one pass forward and one backward.

    The backward yields the bias's gradient in the same pass, added in an order that does not depend on the number of
    threads. It keeps the input and the bias; without dropout and residual a ReLU, ReLU6, Hardtanh, LeakyReLU, sigmoid
    or tanh keeps the output instead, and no activation keeps nothing. The random stream of the dropout differs from
    torch's; it is :func:`dropout`'s. float32, float64, bfloat16 and float16 on CPU and CUDA run on our kernels, half
    precision in float32 throughout; the rest, mixed dtypes among them, runs the separate operations. Every order of
    derivative exists.

    Args:
        input: x.
        bias: added along dimension ``dim``, or ``None``.
        activation: a name of ``torch.nn.functional`` (``'gelu'``, ``'relu'``, ...) with its defaults, or a module such
            as ``nn.LeakyReLU(0.1)``; ``None`` for none. It must be element-wise and have no weights.
        dim: the bias's dimension: the last after a linear layer, 1 after a convolution.
        dropout_p: probability of an element to be zeroed before the residual is added.
        residual: added last; of the input's shape.
        training: whether there is dropout.

    Shape: input any; bias ``(input.size(dim),)``; residual and output as the input.

    Raises:
        ValueError: if ``dropout_p`` is not between 0 and 1 or there is no such activation.
        IndexError: if ``dim`` is out of range.
        RuntimeError: if a shape does not fit.

    >>> x, b = torch.tensor([[1.0, -2.0]]), torch.tensor([1.0, 1.0])
    >>> nnart_ops.functional.bias_activation(x, b, "relu", residual=x)
    tensor([[ 3., -2.]])
    """
    epilogue = epilogue_of(activation)
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    dims = max(input.dim(), 1)
    if not -dims <= dim < dims:
        raise IndexError(f"bias_activation: dim must be in [{-dims}, {dims - 1}] for this input, but got {dim}")
    dim %= dims
    channels = input.size(dim) if input.dim() else 1
    if bias is not None and (bias.dim() != 1 or bias.size(0) != channels):
        raise RuntimeError(
            f"bias_activation: bias must have shape [{channels}] for dimension {dim} of an input of shape "
            f"{list(input.shape)}, but has {list(bias.shape)}"
        )
    if residual is not None and residual.shape != input.shape:
        raise RuntimeError(
            f"bias_activation: residual must have the input's shape {list(input.shape)}, but has {list(residual.shape)}"
        )
    p = float(dropout_p) if training else 0.0
    if p == 1 or not device_kernel_takes(*(t for t in (input, bias, residual) if t is not None)):
        return _separately(input, bias, epilogue, dim, p, residual)
    seed = new_seed(input.device) if is_random(p) else None
    result: Tensor = _bias_activation(
        input, bias, residual, seed, p, epilogue.op, list(epilogue.numbers), dim, memory_order(input)
    )
    return result


def _separately(
    input: Tensor, bias: Tensor | None, epilogue: Epilogue, dim: int, p: float, residual: Tensor | None
) -> Tensor:
    y = input if bias is None else input + bias.reshape([-1 if d == dim else 1 for d in range(input.dim())])
    y = dropout(epilogue.function(y), p)
    return y if residual is None else residual + y
