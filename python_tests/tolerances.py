"""Every number that decides whether a result is right.

The oracle is native PyTorch in float64. A result passes when its largest error is at most twice that of the native
operation in the same dtype, plus a constant for the cases in which native happens to be exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

ATOL = {
    torch.float64: 1e-14,
    torch.float32: 2e-7,
    torch.bfloat16: 1e-3,
    torch.float16: 2e-4,
}
DTYPES = tuple(ATOL)
TWICE_NATIVE = 2.0


def largest_error(result: Tensor, oracle: Tensor) -> float:
    """The largest absolute difference where both are finite; inf where one is not and the other differs.

    A finite oracle beyond the dtype's range rounds to infinity, so it is rounded to the result's dtype before the
    non-finite elements are compared.
    """
    assert result.shape == oracle.shape, f"shape {tuple(result.shape)} instead of {tuple(oracle.shape)}"
    rounded = oracle.to(result.dtype)
    special = ~torch.isfinite(rounded) | ~torch.isfinite(result)
    same = (rounded == result) | (torch.isnan(rounded) & torch.isnan(result))
    if bool((special & ~same).any()):
        return float("inf")
    difference = (result.double() - oracle.double()).abs()[~special]
    return difference.max().item() if difference.numel() else 0.0


def assert_close(ours: Tensor, native: Tensor, oracle: Tensor, what: str = "result", terms: float = 1.0) -> None:
    """Fails unless ``ours`` is as near to the float64 ``oracle`` as twice ``native``'s distance plus ATOL.

    All three have the same shape; ``ours`` and ``native`` the same dtype and device. The oracle may be on the CPU: some
    native CUDA kernels have constants in float32 (hardswish, hardsigmoid), and so are none in float64. ``terms`` is the
    size of what cancels in the result, if that is larger than the result.
    """
    oracle = oracle.to(ours.device)
    assert ours.dtype == native.dtype, f"{what}: dtype {ours.dtype} instead of {native.dtype}"
    error, allowed = largest_error(ours, oracle), largest_error(native, oracle)
    scale = max(terms, oracle.double().abs().nan_to_num(0, 0, 0).max().item()) if oracle.numel() else terms
    limit = TWICE_NATIVE * allowed + ATOL[ours.dtype] * scale
    assert error <= limit, f"{what}: error {error:.3e}, allowed {limit:.3e} (native has {allowed:.3e})"


# Two float64, float32 or bfloat16 computations of the same formula that round in another order.
SAME_FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}
SAME_FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
SAME_BFLOAT16 = {"rtol": 2e-2, "atol": 2e-2}


def storage_rounding(dtype: torch.dtype) -> float:
    """Half a unit in the last place, relative: what one rounding to ``dtype`` may cost."""
    return torch.finfo(dtype).eps / 2


def compute_eps(dtype: torch.dtype) -> float:
    """eps of the type that elements of ``dtype`` are computed in."""
    return torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps


def sum_limit(dtype: torch.dtype, magnitudes: float) -> float:
    """What a sum over a whole tensor may be off by: its error grows with the sum of its terms' magnitudes.

    Our fixed-order sums came to at most 0.47 of compute_eps times that over 200 seeds, native's to 0.30.
    """
    return torch.finfo(dtype).eps + compute_eps(dtype) * magnitudes


def updates_limit(dtype: torch.dtype, steps: int, largest: float) -> float:
    """What ``steps`` updates of a parameter may be off by beyond native's own error: in float64, where native is the
    oracle and itself rounds in every step, one rounding a step; otherwise one in all."""
    return (steps if dtype is torch.float64 else 1) * torch.finfo(dtype).eps * largest


SIGMAS = 5.0  # that a count of random events may be from its mean; the tests' seeds are fixed


def count_limit(n: float, p: float) -> float:
    """What a count of ``n`` independent events of probability ``p`` may be off by."""
    return SIGMAS * (n * p * (1 - p)) ** 0.5


def chi_square_limit(degrees: int) -> float:
    """What a chi-square statistic may reach (Wilson and Hilferty's approximation of its distribution)."""
    return degrees * (1 - 2 / (9 * degrees) + SIGMAS * (2 / (9 * degrees)) ** 0.5) ** 3
