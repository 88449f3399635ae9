"""Gated activations, ``value * f(gate)``: one pass over memory forward, one backward.

``torch.nn.functional`` has :func:`glu` alone; the others are written by hand there, in three operations that keep their
results. They have the names of Shazeer 2020, arXiv:2002.05202. value and gate are the halves of one input along ``dim``
(what one linear layer gives), or two inputs of the same shape. Where one input has both, the gate is the second half,
as :func:`torch.nn.functional.glu` has it, unless ``gate_first``. The backward keeps the inputs and nothing else.
float32, float64, bfloat16 and float16 on CPU and CUDA run on our kernels, half precision in float32 throughout; the
rest runs the separate operations.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as native
from torch import Tensor

from nnart_ops.autograd.dropout import memory_order
from nnart_ops.autograd.gated import gated as _gated
from nnart_ops.autograd.recompute import recomputed
from nnart_ops.functional._epilogue import Epilogue, epilogue_of
from nnart_ops.functional._native import device_kernel_takes
from nnart_ops.functional._saving import GATED, check_choice


def gated(
    input: Tensor,
    gate: Tensor | None = None,
    activation: Any = "sigmoid",
    *,
    dim: int = -1,
    gate_first: bool = False,
    save: str | None = None,
) -> Tensor:
    """``value * activation(gate)``.

    Args:
        input: value, or value and gate along ``dim``.
        gate: the gate, if it is not in ``input``.
        activation: a name of ``torch.nn.functional`` with its defaults, or an activation module without weights;
            ``None`` for the identity.
        dim: the dimension that is halved if there is no ``gate``.
        gate_first: whether the gate is the first half.
        save: ``None`` or ``'input'``, or ``'recompute'``, with which the output is computed again for the operations
            that read it, within :class:`nnart_ops.recompute_activations`.

    Shape: input any, ``2 n`` in dimension ``dim``, to the same with ``n``; or input and gate the same, as the output.

    Raises:
        RuntimeError: if ``input`` cannot be halved, or ``gate`` has another shape.
        IndexError: if ``dim`` is out of range.
        ValueError: if there is no such activation, or ``save`` is anything else.

    >>> nnart_ops.functional.gated(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0]), "relu")
    tensor([0., 6.])
    """
    return _run("gated", input, gate, epilogue_of(activation), dim, gate_first, save)


def glu(input: Tensor, dim: int = -1, *, save: str | None = None) -> Tensor:
    """``a * sigmoid(b)`` with a and b the halves of the input along ``dim`` (Dauphin et al. 2017, arXiv:1612.08083).

    Shape: any with ``2 n`` in dimension ``dim`` to the same with ``n``.

    Raises:
        RuntimeError: if the input cannot be halved.
        IndexError: if ``dim`` is out of range.

    >>> nnart_ops.functional.glu(torch.tensor([1.0, 2.0, 0.0, 100.0]))
    tensor([0.5000, 2.0000])
    """
    dims = input.dim()
    if not (device_kernel_takes(input) and -dims <= dim < dims and input.size(dim) % 2 == 0):
        return native.glu(input, dim)
    return _run("glu", input, None, epilogue_of("sigmoid"), dim, False, save)


def swiglu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False, *, save: str | None = None
) -> Tensor:
    """``value * silu(gate)`` (Shazeer 2020, arXiv:2002.05202). Arguments, shapes and errors are :func:`gated`'s.

    Shape: any with ``2 n`` in dimension ``dim`` to the same with ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.functional.swiglu(torch.tensor([2.0, 1.0]))
    tensor([1.4621])
    """
    return _run("swiglu", input, gate, epilogue_of("silu"), dim, gate_first, save)


def geglu(
    input: Tensor,
    gate: Tensor | None = None,
    dim: int = -1,
    gate_first: bool = False,
    approximate: str = "none",
    *,
    save: str | None = None,
) -> Tensor:
    """``value * gelu(gate)`` (Shazeer 2020, arXiv:2002.05202). Arguments, shapes and errors are :func:`gated`'s;
    ``approximate`` is :func:`gelu`'s.

    Shape: any with ``2 n`` in dimension ``dim`` to the same with ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.functional.geglu(torch.tensor([2.0, 1.0]))
    tensor([1.6827])
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"geglu: approximate argument must be either none or tanh, but got {approximate!r}.")
    epilogue = epilogue_of("gelu")
    if approximate == "tanh":
        epilogue = Epilogue("gelu_tanh", (), lambda pre: native.gelu(pre, approximate="tanh"))
    return _run("geglu", input, gate, epilogue, dim, gate_first, save)


def reglu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False, *, save: str | None = None
) -> Tensor:
    """``value * relu(gate)`` (Shazeer 2020, arXiv:2002.05202). Arguments, shapes and errors are :func:`gated`'s.

    Shape: any with ``2 n`` in dimension ``dim`` to the same with ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.functional.reglu(torch.tensor([2.0, 3.0, 1.0, -1.0]))
    tensor([2., 0.])
    """
    return _run("reglu", input, gate, epilogue_of("relu"), dim, gate_first, save)


def bilinear_glu(
    input: Tensor, gate: Tensor | None = None, dim: int = -1, gate_first: bool = False, *, save: str | None = None
) -> Tensor:
    """``value * gate`` (Shazeer 2020, arXiv:2002.05202). Arguments, shapes and errors are :func:`gated`'s.

    Shape: any with ``2 n`` in dimension ``dim`` to the same with ``n``; or two inputs to one of the same shape.

    >>> nnart_ops.functional.bilinear_glu(torch.tensor([2.0, 3.0]))
    tensor([6.])
    """
    return _run("bilinear_glu", input, gate, epilogue_of(None), dim, gate_first, save)


def _run(
    name: str,
    input: Tensor,
    gate: Tensor | None,
    epilogue: Epilogue,
    dim: int,
    gate_first: bool,
    save: str | None,
) -> Tensor:
    dims = input.dim()
    if save is not None:
        check_choice(name, save, GATED)
    if gate is None:
        if not -dims <= dim < dims:
            raise IndexError(f"{name}: dim must be in [{-dims}, {dims - 1}] for this input, but got {dim}")
        dim %= dims
        if input.size(dim) % 2:
            raise RuntimeError(
                f"{name}: Halving dimension must be even, but dimension {dim} of the input of shape "
                f"{list(input.shape)} has {input.size(dim)}"
            )
    else:
        dim = 0
        if gate.shape != input.shape:
            raise RuntimeError(
                f"{name}: gate must have the input's shape {list(input.shape)}, but has {list(gate.shape)}"
            )
    if not (device_kernel_takes(input) if gate is None else device_kernel_takes(input, gate)):
        value, opened = (input, gate) if gate is not None else input.chunk(2, dim)
        if gate is None and gate_first:
            value, opened = opened, value
        return value * epilogue.function(opened)
    how = (epilogue.op, list(epilogue.numbers), dim, gate_first, memory_order(input))
    result: Tensor = _gated(input, gate, *how)
    if save == "recompute" and result.requires_grad:
        inputs = (input,) if gate is None else (input, gate)
        recomputed(result, inputs, lambda x, g=None: _gated(x, g, *how))
    return result
