"""The sums of a tensor's channels, by themselves and as the gradient of a convolution's bias."""

from __future__ import annotations

import pytest
import torch
from devices import cpu_only
from tolerances import DTYPES, assert_close

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.autograd.channel_sum import channel_sum

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SHAPES = (
    ((3, 17, 5, 7), 1),
    ((2, 5, 80, 70), 1),
    ((2, 300, 20, 17), 1),
    ((700, 3), 1),
    ((1, 1, 1, 1), 1),
    ((6, 9, 4), 0),
    ((4, 5, 3, 2, 6), 1),
    ((7,), 0),
    ((0, 3, 4, 4), 1),
    ((2, 0, 4), 1),
)


@dtypes
@pytest.mark.parametrize("order", ["contiguous", "channels last", "sliced", "transposed"])
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_against_torch(shape: tuple[int, ...], dim: int, order: str, dtype: torch.dtype) -> None:
    x = (torch.randn(shape) + 0.5).to(dtype)
    if order == "channels last":
        x = x.movedim(dim, -1).contiguous().movedim(-1, dim)
    elif order == "sliced":
        x = torch.stack([x, x + 1], dim=-1)[..., 0]
    elif order == "transposed":
        x = x.movedim(0, -1).contiguous().movedim(-1, 0)
    others = [d for d in range(x.dim()) if d != dim]
    native = x.sum(others) if others else x
    exact = x.double().sum(others) if others else x.double()
    assert_close(channel_sum(x, dim), native, exact)


@dtypes
def test_one_value_for_all(dtype: torch.dtype) -> None:
    """As the gradient of a sum is; it is not copied."""
    x = torch.full((1,), 0.5, dtype=dtype).expand(2, 3, 8, 4)
    assert torch.equal(channel_sum(x, 1), torch.full((3,), 32.0, dtype=dtype))


def test_small_numbers_after_large_ones() -> None:
    """Sums go on in double after a few terms: native's too loses nothing here."""
    x = torch.full((1, 1, 1 << 20), 1e-4)
    x[..., 0] = 1e4
    assert_close(channel_sum(x, 1), x.sum((0, 2)), x.double().sum((0, 2)))


def test_wrong_dim() -> None:
    for x, dim in ((torch.randn(2, 3), 2), (torch.randn(2, 3).t(), -1), (torch.tensor(1.0), 0)):
        with pytest.raises(RuntimeError, match=rf"channel_sum: dim must be a dimension of x, .* but is {dim}"):
            torch.ops.nnart_ops.channel_sum(x, dim)


@cpu_only
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_any_number_of_threads(layout: torch.memory_format) -> None:
    x, threads, sums = torch.randn(5, 33, 40, 50).contiguous(memory_format=layout), torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            sums.append(channel_sum(x, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@cpu_only  # on a GPU test_cuda_conv.py has it, without TF32
@dtypes
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("strategy", [None, "gemm", "native"])
@pytest.mark.parametrize("groups", [1, 4])
def test_bias_of_a_convolution(
    groups: int, strategy: str | None, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """With the weight's gradient and without, of a batch and of one image."""
    x = torch.randn(3, 8, 9, 10).to(dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(12, 8 // groups, 3, 3).to(dtype), torch.randn(12).to(dtype)
    grad = torch.randn(3, 12, 7, 8).to(dtype).contiguous(memory_format=layout)

    def gradients(conv: object, *leaves: torch.Tensor, grad: torch.Tensor = grad) -> tuple[torch.Tensor, ...]:
        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        return torch.autograd.grad(conv(*leaves, groups=groups), leaves[1:], grad)  # type: ignore[operator]

    native = gradients(torch.conv2d, x, weight, bias)
    exact = gradients(torch.conv2d, *(t.double() for t in (x, weight, bias)), grad=grad.double())
    with nnart_ops.config(conv_strategy=strategy):
        ours = gradients(F.conv2d, x, weight, bias)
        image = gradients(F.conv2d, x[0], weight, bias, grad=grad[0])
        frozen = bias.clone().requires_grad_()
        alone = torch.autograd.grad(F.conv2d(x, weight, frozen, groups=groups), frozen, grad)[0]
    for what, *three in zip(("weight", "bias"), ours, native, exact):
        assert_close(*three, what)
    assert_close(alone, native[1], exact[1], "bias alone")
    assert_close(image[1], grad[0].sum((1, 2)), grad[0].double().sum((1, 2)), "bias of one image")
