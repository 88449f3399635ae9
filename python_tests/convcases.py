"""How a convolution is called and judged in the tests: operands of a case, ours beside torch's, in every layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as native
from tolerances import SAME_FLOAT64, assert_close
from torch import Tensor

import nnart_ops.functional as F

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last")
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
# An activation's derivative, from its output.
SLOPES = {
    ("relu", ()): lambda y: (y > 0).to(y.dtype),
    ("hardtanh", (-0.5, 1.0)): lambda y: ((y > -0.5) & (y < 1)).to(y.dtype),
    ("leaky_relu", (0.1,)): lambda y: torch.where(y > 0, torch.ones_like(y), 0.1 * torch.ones_like(y)),
    ("sigmoid", ()): lambda y: y * (1 - y),
    ("tanh", ()): lambda y: 1 - y * y,
}


def case(x: tuple[int, ...], weight: tuple[int, ...], bias: bool = True, **numbers: Any) -> Any:
    words = [f"{key}={value}" for key, value in numbers.items()]
    name = " ".join(["x".join(map(str, x)), "x".join(map(str, weight)), *words])
    return pytest.param(x, weight, bias, numbers, id=name.replace(", ", ","))


def laid_out(t: Tensor, layout: str) -> Tensor:
    return t.contiguous(memory_format=FORMATS[t.dim()]) if layout != "contiguous" and t.dim() in FORMATS else t


def operands(x: tuple[int, ...], weight: tuple[int, ...], bias: bool, dtype: torch.dtype, layout: str) -> list[Any]:
    rows = weight[1]
    for size in weight[2:]:
        rows *= size
    tensors = [
        laid_out(torch.randn(x).to(dtype), layout),
        laid_out((torch.randn(weight) / max(rows, 1) ** 0.5).to(dtype), layout),
    ]
    return [*tensors, torch.randn(weight[0]).to(dtype) if bias else None]


def outcome(function: Any, tensors: list[Any], grad_y: Tensor | None, numbers: dict[str, Any]) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() if t is not None else None for t in tensors]
    y = function(*leaves, **numbers)
    wanted = [leaf for leaf in leaves if leaf is not None]
    grads = torch.autograd.grad(y, wanted, torch.ones_like(y) if grad_y is None else grad_y.to(y.dtype))
    return [y.detach(), *grads]


def away_from_kinks(pre: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient for an activation of ``pre``, zero near 0 and 6, where rounding to ``dtype`` may change the slope."""
    margin = 16 * torch.finfo(dtype).eps
    near = ((pre.abs() < margin) | ((pre - 6).abs() < margin)).to(dtype)
    return torch.randn(pre.shape).to(dtype) * (1 - near)


def functions(weight: tuple[int, ...] | torch.Size, kind: str = "conv") -> tuple[Any, Any]:
    name = f"{kind}{len(weight) - 2}d"
    return getattr(F, name), getattr(native, name)


def check(
    tensors: list[Any], numbers: dict[str, Any], one_value: bool = False, strides: bool = True, kind: str = "conv"
) -> None:
    ours, theirs = functions(tensors[1].shape, kind)
    doubles = [t.double() if t is not None else None for t in tensors]
    y = theirs(*doubles, **numbers)
    grad_y = (
        torch.ones((), dtype=tensors[0].dtype).expand(y.shape) if one_value else torch.randn(y.shape).to(tensors[0])
    )
    results = [outcome(f, t, grad_y, numbers) for f, t in ((ours, tensors), (theirs, tensors), (theirs, doubles))]
    for name, got, want, truth in zip(("y", "grad_x", "grad_weight", "grad_bias"), *results):
        if got.dtype == torch.float64:  # where native is the oracle, two orders of one sum
            torch.testing.assert_close(
                got,
                truth,
                rtol=SAME_FLOAT64["rtol"],
                atol=SAME_FLOAT64["atol"] * max(1, truth.numel() and truth.abs().max().item()),
            )
        else:
            assert_close(got, want, truth, name)
    if strides:
        assert results[0][0].stride() == results[1][0].stride()


def check_autocast(ours: tuple[Any, ...], theirs: Any, tensors: list[Tensor], dtype: torch.dtype) -> None:
    """Each of ``ours`` beside torch's under autocast: results in ``dtype``, gradients in the parameters' float32."""
    doubles = [t.to(dtype).double().requires_grad_() for t in tensors]
    exact = theirs(*doubles)
    grad_y = torch.randn(exact.shape).to(dtype)
    truth = [exact.detach(), *torch.autograd.grad(exact, doubles, grad_y.double())]
    results = []
    for function in (theirs, *ours):
        leaves = [t.clone().requires_grad_() for t in tensors]
        with torch.autocast("cpu", dtype):
            y = function(*leaves)
            assert function(*(t.double() for t in tensors)).dtype == torch.float64
        results.append([y.detach(), *torch.autograd.grad(y, leaves, grad_y)])
    assert [t.dtype for t in results[0]] == [dtype, *(torch.float32,) * len(tensors)]
    for result in results[1:]:
        for name, got, want, exact in zip(("y", "grad_x", "grad_weight", "grad_bias"), result, results[0], truth):
            assert got.dtype == want.dtype
            assert_close(got.to(dtype), want.to(dtype), exact, name)
