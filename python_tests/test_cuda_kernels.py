"""What only CUDA's kernels show: every one of them at the edges of its paths and its bits from run to run, on a GPU or
emulated, and on a GPU streams, graphs, devices and sizes past 2^31. What they compute is held to the tables of the
other files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cuda_kernels_only, gpu_only
from tolerances import DTYPES
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.autograd.channel_sum import channel_sum

pytestmark = cuda_kernels_only

Call = Callable[..., Tensor]


def _randn(*sizes: int, dtype: torch.dtype = torch.float32, layout: Any = torch.contiguous_format) -> Tensor:
    return torch.randn(sizes, device=DEVICE).to(dtype).contiguous(memory_format=layout)


def _pools(x: Tensor) -> list[Tensor]:
    """Every way to pool, whole planes, overlapping and cut windows and those of two lines included."""
    calls: list[Call] = [
        lambda t: F.max_pool2d(t, 2),
        lambda t: F.max_pool2d(t, 3, 2, 1),
        lambda t: F.max_pool2d(t, (2, 5), 1, 1, 2, ceil_mode=True),
        lambda t: F.max_pool2d(t, 17, 3, 8),  # offsets of two bytes
        lambda t: F.avg_pool2d(t, 2),
        lambda t: F.avg_pool2d(t, 3, 2, 1, count_include_pad=False),
        lambda t: F.adaptive_max_pool2d(t, 1),
        lambda t: F.adaptive_avg_pool2d(t, 1),
        lambda t: F.adaptive_max_pool2d(t, (3, 5)),
        lambda t: F.adaptive_avg_pool2d(t, (3, 5)),
    ]
    return [call(x) for call in calls]


def _rows(x: Tensor) -> list[Tensor]:
    """Softmax and cross-entropy of rows side by side and one after the other."""
    flat = x.flatten(1)
    labels = torch.arange(flat.size(0), device=DEVICE) % flat.size(1)
    pixels = torch.zeros_like(x[:, 0], dtype=torch.int64)
    weight = torch.rand(x.size(1), device=DEVICE).to(x.dtype)
    return [
        F.softmax(flat, 1),
        F.log_softmax(x, 1),
        F.cross_entropy(flat, labels),
        F.cross_entropy(x, pixels, weight, label_smoothing=0.1),
        F.cross_entropy(flat, flat.detach().softmax(1)),
    ]


def _elementwise(x: Tensor) -> list[Tensor]:
    channels = x.size(1)
    bias, slopes = (torch.rand(channels, device=DEVICE).to(x.dtype).requires_grad_() for _ in "ab")
    return [
        F.silu(x),
        F.relu(x, save="mask"),
        F.glu(x[:, : channels // 2 * 2], 1),
        F.swiglu(x, x.detach() * 2),
        F.dropout(x, 0.3),
        F.dropout2d(x, 0.3),
        F.rrelu(x, training=True),
        F.prelu(x, slopes),
        F.prelu(x, slopes[:1]),
        F.bias_activation(x, bias, "gelu", dim=1, dropout_p=0.2, residual=x.detach()),
        F.bias_activation(x, None, "tanh"),
        channel_sum(x, 1),
    ]


def _normalizations(x: Tensor) -> list[Tensor]:
    """Of the batch and with given statistics, alone and with what follows."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    weight, bias = (torch.rand(x.size(1), device=DEVICE).to(wide).requires_grad_() for _ in "ab")
    mean, var = torch.rand(x.size(1), device=DEVICE).to(wide), torch.rand(x.size(1), device=DEVICE).to(wide) + 1
    outputs = [
        F.batch_norm(x, mean, var, weight, bias, training=training, activation=name, residual=residual)
        for training in (True, False)
        for name, residual in (("silu", None), ("relu", x.detach()), ("leaky_relu", None))
    ]
    grads = torch.autograd.grad(_weighted(outputs), (weight, bias), retain_graph=x.requires_grad)
    return [*outputs, mean, var, *grads]


def _convolutions(x: Tensor) -> list[Tensor]:
    """Depthwise, down lines and through any filter, alone and with what follows."""
    channels = x.size(1)
    outputs, weights = [], []
    strided = [(size, stride, 1) for size in (3, 5, 7) for stride in (1, 2)]
    for size, stride, dilation in [*strided, (3, 1, 2), (2, 3, 1)]:
        weights.append((torch.rand(channels, 1, size, size, device=DEVICE) - 0.5).to(x.dtype).requires_grad_())
        outputs.append(F.conv2d(x, weights[-1], None, stride, size // 2 * dilation, dilation, channels))
    bias = torch.rand(channels, device=DEVICE).to(x.dtype)
    outputs.append(F.conv2d(x, weights[0], bias, 1, 1, 1, channels, activation="silu"))
    flat, line = x.flatten(2), torch.rand(channels, 1, 31, device=DEVICE).to(x.dtype)
    outputs.append(F.conv1d(flat, line, bias, 1, 15, 1, channels, activation="relu", residual=flat.detach()))
    return [*outputs, *torch.autograd.grad(_weighted(outputs), weights, retain_graph=x.requires_grad)]


def _dense(x: Tensor) -> list[Tensor]:
    """The implicit GEMM: of whole packs of channels or not, strided, grouped."""
    results, leaf = [], x.detach().requires_grad_()
    with nnart_ops.config(conv_strategy="gemm"):
        for out, groups, size, stride in ((20, 1, 3, 1), (x.size(1), 1, 1, 2), (x.size(1) * 2, x.size(1), 3, 2)):
            weight = (torch.rand(out, x.size(1) // groups, size, size, device=DEVICE) - 0.5).to(x.dtype)
            weight.requires_grad_()
            y = F.conv2d(leaf, weight, None, stride, size // 2, 1, groups)
            results += [y.detach(), *torch.autograd.grad(y, (leaf, weight), y.detach())]
            results += _followed(x.detach(), weight.detach(), ([stride] * 2, [size // 2] * 4, [1, 1], groups))
    return results


def _followed(x: Tensor, weight: Tensor, where: Any) -> list[Tensor]:
    """What an implicit GEMM leaves beside its result, and the normalization in it."""
    ops, wide = torch.ops.nnart_ops, torch.float64 if x.dtype is torch.float64 else torch.float32
    y, mean, var = ops.conv_moments(x, weight, None, *where)
    numbers = torch.rand(2, weight.size(0), device=DEVICE).to(wide)
    normal = ops.conv_batch_norm(x, weight, None, *numbers, y, mean, var, 1e-5, *where, "relu", [])
    masked = ops.conv_masked_activation(x, weight, None, y, *where, "leaky_relu", [0.1])
    return [y, mean, var, normal, *masked]


def _weighted(outputs: list[Tensor]) -> Tensor:
    """Their sum, weighted so that no gradient is one value."""
    return sum((y.float() * torch.linspace(0.5, 1, y.numel(), device=DEVICE).view(y.shape)).sum() for y in outputs)


def _results(x: Tensor) -> list[Tensor]:
    """Outputs of every kernel and the gradients of their sum."""
    leaf = x.detach().requires_grad_()
    torch.manual_seed(3)
    outputs = [*_elementwise(leaf), *_pools(leaf), *_rows(leaf), *_normalizations(leaf), *_convolutions(leaf)]
    total = _weighted(outputs)
    (grad,) = torch.autograd.grad(total, leaf)
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    unpooled = F.max_unpool2d(y, indices, 2, output_size=x.shape[2:])
    return [*(t.detach() for t in outputs), *_dense(x), grad, indices, unpooled]


LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((3, 16, 18, 24), (2, 5, 9, 11))  # of whole packs and of none


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), list(itertools.product(SHAPES, LAYOUTS)), ids=str)
def test_every_kernel_runs_and_gives_the_same_bits_again(shape: Any, layout: Any, dtype: torch.dtype) -> None:
    x = _randn(*shape, dtype=dtype, layout=layout)
    first, second = _results(x), _results(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not any(t.isnan().any() for t in first if t.is_floating_point())


FILTERS = (  # sizes of an image, of the filter, stride, padding, dilation
    ((9, 11), (3, 3), 1, 1, 1),
    ((9, 11), (3, 3), 2, 1, 1),
    ((40, 32), (3, 3), 1, 1, 1),  # the filter's gradient in several pieces
    ((8, 8), (5, 5), 1, 2, 1),
    ((13, 10), (5, 5), 2, 2, 1),
    ((12, 9), (7, 7), 1, 3, 1),
    ((12, 9), (7, 7), 2, 3, 1),
    ((12, 13), (3, 3), 1, 2, 2),
    ((12, 13), (3, 2), 3, (0, 1), (2, 1)),
    ((12, 13), (4, 4), (2, 4), (1, 2), (2, 3)),
    ((40,), (31,), 1, 15, 1),
    ((40,), (4,), 2, 1, 3),
    ((5, 6, 7), (3, 3, 3), 1, 1, 1),
    ((5, 6, 7), (2, 3, 3), 2, 1, 1),
)
LIMITS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize(("image", "size", "stride", "padding", "dilation"), FILTERS)
def test_depthwise(
    image: Any, size: Any, stride: Any, padding: Any, dilation: Any, channels: int, dtype: torch.dtype
) -> None:
    """The forward and both gradients against float64 on the CPU, in both layouts."""
    name, where = f"conv{len(size)}d", (stride, padding, dilation, channels)
    operands = [
        torch.randn(s, device="cpu").to(dtype) for s in ((2, channels, *image), (channels, 1, *size), (channels,))
    ]
    exact = [t.double().requires_grad_() for t in operands]
    expected = getattr(native, name)(*exact, *where)
    grad = torch.randn(expected.shape, device="cpu").to(dtype)
    expected = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(image) + 2, torch.contiguous_format)
    for layout in dict.fromkeys((torch.contiguous_format, last)):
        ours = [t.to(DEVICE).requires_grad_() for t in operands]
        x = ours[0].detach().contiguous(memory_format=layout).requires_grad_()
        y = getattr(F, name)(x, *ours[1:], *where)
        results = [y, *torch.autograd.grad(y, [x, *ours[1:]], grad.to(DEVICE))]
        for result, wanted in zip(results, expected, strict=True):
            error = (result.detach().cpu().double() - wanted.detach()).abs().max()
            assert error <= LIMITS[dtype] * wanted.detach().abs().max()


@pytest.mark.parametrize("shape", [(3000, 8), (2, 3, 40, 50)], ids=str)
def test_gradient_of_the_bias_is_summed_beyond_float(shape: Any) -> None:
    """A sum that float itself would have little of, and an infinite one."""
    grad = torch.rand(shape, device="cpu", dtype=torch.float64).float()
    grad[0] += 1e7
    grad[-1] -= 1e7
    where = [0, *range(2, len(shape))]
    for last in (grad[-1, 0].clone(), torch.full_like(grad[-1, 0], torch.inf)):
        grad[-1, 0] = last
        expected = grad.double().sum(where)
        leaf = torch.zeros(shape[1], device=DEVICE).requires_grad_()
        y = F.bias_activation(torch.ones(shape, device=DEVICE), leaf, "relu", dim=1)
        (result,) = torch.autograd.grad(y, leaf, grad.to(DEVICE))
        torch.testing.assert_close(result.cpu().double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_addresses_that_are_not_aligned(dtype: torch.dtype) -> None:
    """The same numbers from memory that begins between two packs."""
    x = _randn(2, 8, 6, 8, dtype=dtype)
    shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    assert shifted.data_ptr() % 16
    for a, b in zip(_results(x), _results(shifted)):
        torch.testing.assert_close(a, b)


@gpu_only
def test_large_reductions_give_the_same_bits_again() -> None:
    """Of several blocks, and of several pieces a block."""
    for shape in ((4096, 1000), (64, 33000), (16, 64, 56, 56), (100_000, 24)):
        x, grad = _randn(*shape, dtype=torch.bfloat16), _randn(*shape, dtype=torch.bfloat16)
        for function in (
            lambda t, b: F.bias_activation(t, b, "gelu", dim=1, dropout_p=0.1),
            lambda t, b: F.prelu(t, b),
            lambda t, b: F.softmax(t, 1) * b.view(-1, *(1,) * (t.dim() - 2)),
        ):
            results = []
            for _ in range(2):
                leaves = [x.clone().requires_grad_(), torch.ones(shape[1], device=DEVICE).bfloat16().requires_grad_()]
                torch.manual_seed(1)
                results.append(torch.autograd.grad(function(*leaves), leaves, grad))
            assert all(torch.equal(a, b) for a, b in zip(*results))


@gpu_only
def test_the_numbers_of_a_seed_are_the_cpus() -> None:
    cases: list[tuple[Any, bool, list[int], Any]] = [
        ((1003,), False, [], 5),
        ((6, 7, 8, 9), False, [], [1, 2, 3]),
        ((6, 7, 8, 9), True, [], [1, 2, 3]),
        ((6, 16, 8, 9), True, [0, 2, 3, 1], 5),
        ((6, 7, 8, 9), True, [0, 2, 3, 1], [1, 2, 3]),
    ]
    for shape, by_channel, order, seed in cases:
        for dtype in DTYPES:
            results = []
            for device in ("cpu", "cuda"):
                x, seeds = torch.ones(shape, dtype=dtype, device=device), torch.tensor(seed, device=device)
                dropped = torch.ops.nnart_ops.dropout(x, seeds, 0.3, 2.0, 0.0, 0.0, by_channel, order)
                slopes = torch.ops.nnart_ops.rrelu(-x, -x, seeds, 0.1, 0.9, order)
                results.append((dropped.cpu(), slopes.cpu()))
            assert torch.equal(results[0][0], results[1][0])
            torch.testing.assert_close(results[0][1], results[1][1])


@gpu_only
def test_the_current_stream() -> None:
    """Work is queued behind what is already in the caller's stream, and on no other."""
    x, stream = torch.zeros(1 << 20, device="cuda"), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(-1.0)
        y = F.leaky_relu(x, 0.5)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(y, torch.full_like(y, -0.5))


@gpu_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_device_of_the_tensor() -> None:
    x = torch.randn(1000, device="cuda:1")
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(F.silu(x), native.silu(x))


@gpu_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_graph_capture(layout: Any) -> None:
    """A training step is captured once and replayed with other numbers: nothing waits for the GPU, and dropout draws
    new masks."""
    static = _randn(4, 8, 12, 16, layout=layout)
    bias = torch.zeros(8, device="cuda", requires_grad=True)

    def step() -> list[Tensor]:
        leaf = static.detach().requires_grad_()
        h = F.bias_activation(leaf, bias, "gelu", dim=1)
        h = F.max_pool2d(F.swiglu(F.prelu(h, bias[:1] + 0.25), h), 2)
        h = F.avg_pool2d(F.relu(h, save="mask"), 3, 2, 1)
        kept = F.dropout(torch.ones(1000, device="cuda"), 0.5)
        loss = F.cross_entropy(F.log_softmax(h, 1), torch.zeros_like(h[:, 0], dtype=torch.int64))
        return [loss.detach(), *torch.autograd.grad(loss, [leaf, bias]), kept]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    masks = []
    for _ in range(2):
        static.copy_(torch.randn_like(static))
        graph.replay()
        for result, expected in zip(captured[:3], step()[:3]):
            assert torch.equal(result, expected)
        masks.append(captured[3].clone())
    assert not torch.equal(*masks)


@gpu_only
def test_autocast() -> None:
    """Where torch's autocast changes a dtype on CUDA, ours does."""
    x = torch.randn(4, 6, 8, device="cuda")
    weight = torch.rand(6, device="cuda")
    labels = torch.zeros(4, 8, dtype=torch.int64, device="cuda")
    calls: list[Callable[[Any, Tensor], Tensor]] = [
        lambda library, t: library.softmax(t, 1),
        lambda library, t: library.log_softmax(t, 1),
        lambda library, t: library.softplus(t),
        lambda library, t: library.prelu(t, weight.to(t.dtype)),
        lambda library, t: library.cross_entropy(t, labels),
        lambda library, t: library.gelu(t),
        lambda library, t: library.max_pool1d(t, 2),
        lambda library, t: library.glu(t, 1),
    ]
    for call, dtype in itertools.product(calls, (torch.float32, torch.bfloat16)):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            ours, expected = call(F, x.to(dtype)), call(native, x.to(dtype))
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours, expected, rtol=2e-2, atol=2e-2)


@gpu_only
def test_more_than_two_to_the_31_elements() -> None:
    n = 2**31 + 16 * 1024 + 5
    if torch.cuda.mem_get_info()[0] < 6 * n:
        pytest.skip("not enough memory")
    x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    x[-5:] = -2
    x[0] = 3
    y = F.leaky_relu(x, 0.5)
    assert y[-5:].tolist() == [-1.0] * 5
    assert y[0].item() == 3
    del y
    pooled = F.max_pool1d(x[: 2**31 + 16 * 1024].view(1, 1, -1), 4)
    assert pooled[0, 0, 0].item() == 3
    assert pooled[0, 0, 1:].abs().max().item() == 0
    del pooled
    y, mask = torch.ops.nnart_ops.masked_activation(x, "relu", [], [])
    assert mask[0].item() == 1
    assert y[-1].item() == 0
    del y, mask
    rows = F.softmax(x[: 2**31].view(-1, 2**10), 1)
    assert rows[-1].float().sum().item() == pytest.approx(1, rel=1e-2)
