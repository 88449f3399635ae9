"""The implicit GEMM of csrc/cuda/conv against float64, on a generated table of problems: all passes, dtypes, layouts,
strides and dilations, groups, channels of whole packs and of none, with and without an epilogue."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from convcases import SLOPES
from devices import EMULATION, cuda_kernels_only
from torch import Tensor

import nnart_ops
import nnart_ops.functional as F
from benchmarks.gemm_tiles import Convolution, bytes_of
from nnart_ops._extension import tf32_switch

pytestmark = cuda_kernels_only

PROBLEMS = 172  # of three passes each
MOST_PRODUCTS = 1 << 20  # of a pass: the emulation takes some nanoseconds for each
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
# One rounding to the dtype, and sums of the compute type: relative to the largest element.
LIMITS = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 5e-3, torch.float16: 7e-4}
NAMES = ("y", "grad_x", "grad_weight", "grad_bias")
LIMIT_TF32 = 1e-3  # of float32 whose factors have 11 bits
EPILOGUES = ("", "relu", "silu", "residual", "mask", "norm", "moments")
# Of a group, and groups: those that one tile takes together are all of them, some, or none for want of a divisor.
FEW_CHANNELS = (
    ((4, 4), 16, (1, 1), True),
    ((8, 8), 24, (2, 2), True),
    ((16, 16), 6, (1, 1), True),
    ((2, 6), 10, (2, 1), False),
    ((12, 4), 7, (1, 1), True),
    ((1, 1), 96, (1, 1), True),
)


@dataclass(frozen=True)
class Problem:
    dtype: torch.dtype
    batch: int
    channels: tuple[int, int]  # of a group, in and out
    groups: int
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channels_last: bool
    bias: bool
    epilogue: str

    @property
    def out(self) -> list[int]:
        axes = zip(self.image, self.kernel, self.stride, self.padding, self.dilation)
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]

    @property
    def products(self) -> int:
        """Multiplications of a pass."""
        inner = self.groups * self.channels[0] * self.channels[1]
        return self.batch * inner * int(torch.Size(self.out).numel()) * int(torch.Size(self.kernel).numel())

    def __str__(self) -> str:
        size = lambda numbers: "x".join(map(str, numbers))  # noqa: E731
        text = f"{self.dtype} {self.batch}x{size(self.channels)}g{self.groups} {size(self.image)} k{size(self.kernel)} "
        text += f"s{size(self.stride)} p{size(self.padding)} d{size(self.dilation)} "
        return text + ("last " if self.channels_last else "first ") + ("bias " if self.bias else "") + self.epilogue


def problems() -> list[Problem]:
    """The same ones in every run."""
    chance, found = random.Random(7), list[Problem]()
    while len(found) < PROBLEMS:
        dims = chance.choice((1, 2, 2, 2, 2, 3))
        pick = lambda *numbers: tuple(chance.choice(numbers) for _ in range(dims))  # noqa: B023, E731
        channels = chance.choice(((3, 20), (8, 8), (16, 24), (1, 6), (32, 70), (64, 16), (40, 136), (5, 7), (24, 1)))
        largest = {1: 90, 2: 15, 3: 6}[dims]
        image = tuple(chance.randint(1, largest) for _ in range(dims))
        problem = Problem(
            DTYPES[len(found) % 4],
            chance.choice((1, 2, 3)),
            channels,
            chance.choice((1, 1, 1, 2, 3)),
            image,
            pick(1, 2, 3, 3, 4, 5) if chance.random() < 0.7 else (1,) * dims,
            pick(1, 1, 2, 3),
            pick(0, 1, 2),
            pick(1, 1, 2, 3),
            chance.random() < 0.6,
            chance.random() < 0.5,
            chance.choice(EPILOGUES),
        )
        if min(problem.out) > 0 and problem.products <= MOST_PRODUCTS:
            found.append(problem)
    return (
        found
        + [
            Problem(dtype, 2, channels, groups, (7, 6), (3, 3), stride, (1, 1), (1, 1), last, True, "relu")
            for channels, groups, stride, last in FEW_CHANNELS
            for dtype in DTYPES
        ]
        + [  # one tap of all elements of the window
            Problem(dtype, 5, (6, 16), 1, (3, 4), (3, 4), (1, 1), (0, 0), (1, 1), last, True, epilogue)
            for epilogue in EPILOGUES
            for last in (False, True)
            for dtype in DTYPES
        ]
    )


def operands(problem: Problem) -> list[Tensor]:
    """x, weight, bias, residual."""
    channels_in, channels_out = problem.channels
    many = channels_out * problem.groups
    sizes = [(problem.batch, channels_in * problem.groups, *problem.image), (many, channels_in, *problem.kernel)]
    sizes += [(many,), (problem.batch, many, *problem.out)]
    tensors = [torch.randn(size).to(problem.dtype) for size in sizes]
    form = FORMATS.get(len(problem.image)) if problem.channels_last else None
    return [t.contiguous(memory_format=form) if form is not None and t.dim() > 1 else t for t in tensors]


class Follower:
    """What follows a problem's convolution, by ours and by torch in float64."""

    def __init__(self, problem: Problem, residual: Tensor) -> None:
        self.name, self.residual = problem.epilogue, residual
        channels = residual.shape[1]
        wide = torch.float64 if problem.dtype is torch.float64 else torch.float32
        self.norm = [torch.randn(channels).to(wide) for _ in range(4)]  # weight, bias, mean, variance
        self.norm[3] = self.norm[3].abs() + 0.5

    def ours(self, x: Tensor, weight: Tensor, bias: Any, where: Any) -> Tensor:
        stride, padding, dilation, groups = where
        ops, geometry = torch.ops.nnart_ops, (stride, padding * 2, dilation, groups)
        if self.name == "moments":
            y, mean, var = ops.conv_moments(x, weight, bias, *geometry)
            self.hold_moments(y, mean, var)
            return y
        if self.name == "norm":
            factor, summand, mean, var = self.norm
            numbers = (factor, summand, self.residual, mean, var, 1e-5)
            return ops.conv_batch_norm(x, weight, bias, *numbers, *geometry, "relu", [])
        if self.name == "mask":
            y, mask = ops.conv_masked_activation(x, weight, bias, self.residual, *geometry, "relu", [])
            self.hold_mask(y, mask)
            return y
        options: dict[str, Any] = {"activation": self.name} if self.name else {}
        if self.name == "residual":
            options = {"activation": "relu", "residual": self.residual}
        return getattr(F, f"conv{x.dim() - 2}d")(x, weight, bias, *where, **options)

    def torchs(self, y: Tensor) -> Tensor:
        residual = self.residual.double().cpu()
        if self.name == "norm":
            factor, summand, mean, var = (t.double().cpu() for t in self.norm)
            return torch.relu(native.batch_norm(y, mean, var, factor, summand) + residual)
        if self.name in ("residual", "mask"):
            return torch.relu(y + residual)
        return native.silu(y) if self.name == "silu" else torch.relu(y) if self.name == "relu" else y

    @staticmethod
    def hold_moments(y: Tensor, mean: Tensor, var: Tensor) -> None:
        """They are those of the y that was stored."""
        others = [0, *range(2, y.dim())]
        exact_var, exact_mean = torch.var_mean(y.double().cpu(), others, correction=0)
        limit = 1e-13 if y.dtype is torch.float64 else 3e-6
        deviation = exact_var.sqrt().clamp_min(1e-2)
        assert ((mean.cpu() - exact_mean).abs() <= limit * (deviation + exact_mean.abs())).all()
        assert ((var.cpu() - exact_var).abs() <= limit * deviation**2).all()

    @staticmethod
    def hold_mask(y: Tensor, mask: Tensor) -> None:
        order = sorted(range(y.dim()), key=lambda d: (y.stride(d), y.size(d)), reverse=True)
        elements = y.permute(order).flatten()
        bits = (mask[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()
        assert torch.equal(bits[: elements.numel()].bool(), elements > 0)
        assert not bits[elements.numel() :].any()


# By epilogue, the activation before the convolution, which made x.
LEADERS = {"relu": ("relu", ()), "residual": ("leaky_relu", (0.1,)), "silu": ("tanh", ())}


@pytest.fixture(autouse=True)
def precision() -> Iterator[Callable[[str], None]]:
    """Sets torch's precision of float32 convolutions on CUDA: exact, unless a test asks for another."""
    if EMULATION is not None:
        EMULATION.set_tf32_switch(tf32_switch)

    def choose(precision: str) -> None:
        torch.backends.cudnn.conv.fp32_precision = precision

    older, before = torch._C._get_cudnn_allow_tf32(), torch.backends.cudnn.conv.fp32_precision
    choose("ieee")
    yield choose
    torch._C._set_cudnn_allow_tf32(older)  # of recurrent layers too
    choose(before)


def check(results: list[Tensor], expected: list[Tensor], limit: float, names: Sequence[str] = NAMES) -> None:
    for name, result, wanted in zip(names[: len(expected)], results, expected, strict=True):
        error, largest = (result.detach().double() - wanted).abs().max(), wanted.abs().max()
        assert error <= limit * largest.clamp_min(1e-3), f"{name} is off by {error:.3e} of {largest:.3e}"


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_against_float64_for(problem: Problem) -> None:
    """The forward with its epilogue, the gradients of the convolution alone, and that of what its input is the
    activation of."""
    hold_to_float64(problem, LIMITS[problem.dtype])


@pytest.mark.parametrize("problem", [problem for problem in problems() if problem.dtype is torch.float32], ids=str)
def test_tf32_against_float64_for(problem: Problem, precision: Callable[[str], None]) -> None:
    precision("tf32")
    hold_to_float64(problem, LIMIT_TF32)


def hold_to_float64(problem: Problem, limit: float) -> None:
    name, where = f"conv{len(problem.image)}d", (problem.stride, problem.padding, problem.dilation, problem.groups)
    x, weight, bias, residual = operands(problem)
    follower = Follower(problem, residual)
    given = bias if problem.bias else None
    inputs = [x, weight, bias] if problem.bias else [x, weight]
    exact = [t.double().cpu().requires_grad_() for t in inputs]
    plain = getattr(native, name)(*exact, *[None] * (3 - len(inputs)), *where)
    grad = torch.randn(plain.shape).to(problem.dtype)
    expected = [follower.torchs(plain).detach()]
    expected += torch.autograd.grad(plain, exact, grad.double().cpu())
    leaves = [t.detach().requires_grad_() for t in inputs]
    with nnart_ops.config(conv_strategy="gemm"):
        with torch.no_grad():
            y = follower.ours(x, weight, given, where)
        again = getattr(F, name)(*leaves, *[None] * (3 - len(inputs)), *where)
        gradients = torch.autograd.grad(again, leaves, grad.contiguous())
    assert {t.dtype for t in (y, *gradients)} == {problem.dtype}
    check([t.cpu() for t in (y, *gradients)], expected, limit)
    if problem.epilogue in LEADERS:
        leader = LEADERS[problem.epilogue]
        geometry = (where[0], where[1] * 2, *where[2:])
        with nnart_ops.config(conv_strategy="gemm"):
            before = torch.ops.nnart_ops.conv_dgrad_activation(grad, weight, x, *geometry, *leader)
        assert before.dtype == problem.dtype
        wanted = expected[1] * SLOPES[leader](exact[0].detach())
        check([before.cpu()], [wanted], limit, ["the gradient before the activation"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transposed_with_epilogue(dtype: torch.dtype) -> None:
    """The gradient of x as a convolution of its own: bias, activation and residual, phases that no tap reaches."""
    strided = (3, 2, (16, 24), (5, 6)), (2, 3, (8, 8), (5, 6)), (4, 2, (5, 3), (5, 6)), (1, 2, (32, 16), (5, 6))
    for kernel, stride, channels, image in (*strided, (4, 1, (16, 8), (1, 1))):
        x, weight = torch.randn(2, channels[0], *image).to(dtype), torch.randn(*channels, kernel, kernel).to(dtype)
        bias = torch.randn(channels[1]).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        expected = native.conv_transpose2d(x.double().cpu(), weight.double().cpu(), bias.double().cpu(), stride)
        residual = torch.randn(expected.shape).to(dtype).contiguous(memory_format=torch.channels_last)
        with nnart_ops.config(conv_strategy="gemm"):
            y = F.conv_transpose2d(x, weight, bias, stride, activation="relu", residual=residual)
        expected = torch.relu(expected + residual.double().cpu())
        assert (y.cpu().double() - expected).abs().max() <= LIMITS[dtype] * expected.abs().max()
        grad = native.conv2d(residual.double().cpu(), weight.double().cpu(), stride=stride)
        expected = grad * (1 - x.double().cpu().square())
        with nnart_ops.config(conv_strategy="gemm"):
            where = ([stride] * 2, [0] * 4, [1, 1], 1, "tanh", [])
            y = torch.ops.nnart_ops.conv_transpose_dgrad_activation(residual, weight, x, *where)
        assert (y.cpu().double() - expected).abs().max() <= LIMITS[dtype] * expected.abs().max()


def test_sums_of_many_pixels() -> None:
    """The gradients of a weight and a bias of several pieces, the same bits again."""
    x, grad = torch.randn(3, 4, 48, 50), torch.randn(3, 6, 48, 50)
    leaves = [torch.randn(6, 4, 3, 3).requires_grad_(), torch.randn(6).requires_grad_()]
    exact = [leaf.detach().double().cpu().requires_grad_() for leaf in leaves]
    y = native.conv2d(x.double().cpu(), *exact, 1, 1)
    expected = torch.autograd.grad(y, exact, grad.double().cpu())
    with nnart_ops.config(conv_strategy="gemm"):
        first, second = (torch.autograd.grad(F.conv2d(x, *leaves, 1, 1), leaves, grad) for _ in "ab")
    for one, other, wanted in zip(first, second, expected):
        assert torch.equal(one, other)
        assert (one.cpu().double() - wanted).abs().max() <= LIMITS[torch.float32] * wanted.abs().max()


@pytest.mark.skipif(EMULATION is None, reason="of an emulation that lists its kernels")
def test_the_weights_gradient_has_the_biass() -> None:
    """In one pass over the gradient of y: no kernel but the product's reads it."""
    x, weight, bias = torch.randn(2, 8, 6, 6), torch.randn(16, 8, 3, 3), torch.randn(16).requires_grad_()
    weight.requires_grad_()
    with nnart_ops.config(conv_strategy="gemm"):
        y = F.conv2d(x, weight, bias)
        grad = torch.randn(y.shape)
        with EMULATION.watched() as launches:
            torch.autograd.grad(y, (weight, bias), grad)
    assert [launch.kernel.split("<")[0].split("::")[-1] for launch in launches] == [
        "gemm_kernel",
        "add_pieces_kernel",
        "add_pieces_kernel",
    ]


@pytest.mark.skipif(EMULATION is None, reason="of an emulation that lists its kernels")
def test_the_activation_before_it_has_no_pass() -> None:
    """Its derivative is multiplied with on the sums of the next layer's gradient."""
    layers = [nnart_ops.Conv2d(8, 16, 3, activation="relu"), nnart_ops.Conv2d(16, 8, 3, groups=2, activation="tanh")]
    model = nnart_ops.Sequential(*layers, nnart_ops.Conv2d(8, 4, 1))
    with nnart_ops.config(conv_strategy="gemm"):
        y = model(torch.randn(2, 8, 9, 8))
        with EMULATION.watched() as launches:
            torch.autograd.grad(y, list(model.parameters()), torch.randn(y.shape))
    kernels = {launch.kernel.split("<")[0].split("::")[-1] for launch in launches}
    assert kernels == {"gemm_kernel", "add_pieces_kernel"}


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_wide_tiles(name: str) -> None:
    """Of 128 columns, where there are enough of them to fill a card; a transposed convolution is a gradient of x."""
    groups, few, many = 256, 16, 128
    sizes = (groups * many, few, 3, 1) if name == "conv2d" else (groups * few, many, 3, 1)
    x, weight = (torch.randn(size).bfloat16() for size in ((1, groups * few, 3, 4), sizes))
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    expected = getattr(native, name)(x.double().cpu(), weight.double().cpu(), padding=(1, 0), groups=groups)
    with nnart_ops.config(conv_strategy="gemm"):
        y = getattr(F, name)(x, weight, padding=(1, 0), groups=groups)
    assert (y.cpu().double() - expected).abs().max() <= LIMITS[torch.bfloat16] * expected.abs().max()
    if EMULATION is not None:
        conv_pass = int(name != "conv2d")
        assert any(re.search(rf"ConvPass\){conv_pass}, 128, ", kernel) for kernel in EMULATION.kernels())


@pytest.mark.parametrize(("strategy", "kernel", "groups"), [("gemm", 1, 1), ("depthwise", 3, 16)])
def test_a_residual_between_two_packs(strategy: str, kernel: int, groups: int) -> None:
    """Or what a derivative is taken at: its address decides how the result is stored, and not what it is."""
    x = torch.randn(2, 16, 5, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 16 // groups, kernel, kernel).bfloat16().contiguous(memory_format=torch.channels_last)
    memory, padding = torch.randn(2 * 5 * 6 * 16 + 1).bfloat16(), kernel // 2
    residual = memory[1:].view(2, 5, 6, 16).permute(0, 3, 1, 2)
    results, gradients = [], []
    for beside in (residual.clone(memory_format=torch.channels_last), residual):
        with nnart_ops.config(conv_strategy=strategy):
            results.append(F.conv2d(x, weight, None, 1, padding, 1, groups, activation="relu", residual=beside))
            geometry = ([1, 1], [padding] * 4, [1, 1], groups, "leaky_relu", [0.1])
            gradients.append(torch.ops.nnart_ops.conv_dgrad_activation(x, weight, beside, *geometry))
    assert torch.equal(*results)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("leader", [("relu", ()), ("tanh", ())], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_depthwise_before_an_activation(dtype: torch.dtype, stride: int, leader: tuple[str, tuple[float, ...]]) -> None:
    """The gradient of what x is the activation of, of a convolution and of its transpose."""
    x, y = torch.randn(2, 16, 7, 9).to(dtype), torch.randn(2, 16, 7 // stride + stride - 1, 9 // stride + stride - 1)
    x, y = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x, y))
    weight, where = torch.randn(16, 1, 3, 3).to(dtype), ([stride] * 2, [1] * 4, [1, 1], 16, *leader)
    wide_x, wide_y, wide_weight = (t.double().cpu() for t in (x, y, weight))
    options: dict[str, Any] = {"stride": stride, "padding": 1, "groups": 16}
    with nnart_ops.config(conv_strategy="depthwise"):
        before = torch.ops.nnart_ops.conv_dgrad_activation(y, weight, x, *where)
        transposed = torch.ops.nnart_ops.conv_transpose_dgrad_activation(x, weight, y, *where)
    exact = native.conv_transpose2d(wide_y, wide_weight, **options) * SLOPES[leader](wide_x)
    exact_transposed = native.conv2d(wide_x, wide_weight, **options) * SLOPES[leader](wide_y)
    check([before.cpu(), transposed.cpu()], [exact, exact_transposed], LIMITS[dtype], ["conv", "conv_transpose"])


COUNTED = {
    "packs": Problem(torch.bfloat16, 2, (32, 72), 1, (20, 15), (3, 3), (1, 1), (1, 1), (1, 1), True, True, ""),
    "wide": Problem(torch.bfloat16, 1, (16, 128), 1, (17, 18), (3, 3), (1, 1), (1, 1), (1, 1), True, False, ""),
    "one tap": Problem(torch.float16, 2, (64, 136), 1, (13, 15), (1, 1), (1, 1), (0, 0), (1, 1), True, False, ""),
    "strided": Problem(torch.bfloat16, 2, (24, 40), 1, (23, 21), (3, 3), (2, 2), (1, 1), (1, 1), True, False, ""),
    "groups": Problem(torch.bfloat16, 2, (8, 16), 3, (15, 16), (3, 3), (1, 1), (1, 1), (2, 2), True, False, ""),
    "few channels": Problem(torch.bfloat16, 2, (4, 4), 32, (12, 13), (3, 3), (1, 1), (1, 1), (1, 1), True, False, ""),
    "first": Problem(torch.float16, 2, (3, 24), 1, (22, 21), (5, 5), (2, 2), (2, 2), (1, 1), True, True, ""),
    "planes": Problem(torch.bfloat16, 2, (16, 24), 1, (15, 17), (3, 3), (1, 1), (1, 1), (1, 1), False, False, ""),
    "tf32": Problem(torch.float32, 2, (20, 72), 1, (14, 15), (3, 3), (1, 1), (1, 1), (1, 1), True, False, ""),
    "double": Problem(
        torch.float64, 1, (6, 12), 1, (4, 7, 8), (3, 2, 3), (1, 1, 1), (1, 0, 1), (1, 1, 1), True, True, ""
    ),
}


@pytest.mark.skipif(EMULATION is None or not EMULATION.sees_accesses, reason="of an emulation that counts bytes")
@pytest.mark.parametrize("name", COUNTED)
def test_bytes_are_those_of_the_tiles(name: str, precision: Callable[[str], None]) -> None:
    """Counted access by access, within 10 % of benchmarks/gemm_tiles.py; no two accesses race."""
    precision("tf32")
    problem = COUNTED[name]
    x, weight, bias, _ = operands(problem)
    where = (problem.stride, problem.padding, problem.dilation, problem.groups)
    sizes = (problem.batch, problem.groups, problem.channels, problem.image, problem.kernel, *where[:3])
    conv = getattr(F, f"conv{len(problem.image)}d")
    given, counted = bias if problem.bias else None, {}
    with nnart_ops.config(conv_strategy="gemm"):
        with EMULATION.watched() as counted["forward"]:
            y = conv(x, weight, given, *where)
        grad = torch.empty_like(y).normal_()
        for i, which in enumerate(("dgrad", "wgrad")):
            leaves = [x.detach(), weight.detach()]
            leaves[i].requires_grad_()
            y = conv(*leaves, given, *where)
            with EMULATION.watched() as counted[which]:
                torch.autograd.grad(y, leaves[i], grad)
    for which, launches in counted.items():
        biased = problem.bias and which == "forward"
        expected = bytes_of(Convolution(*sizes), which, str(problem.dtype)[6:], problem.channels_last, biased)
        gemm = [launch for launch in launches if "gemm_kernel" in launch.kernel or "add_pieces" in launch.kernel]
        for moved, wanted in (
            (sum(launch.read for launch in gemm), expected.read),
            (sum(launch.written for launch in gemm), expected.written),
        ):
            assert abs(moved - wanted) <= 0.1 * wanted, f"{which}: {moved} bytes, the tiles have {wanted}"


def test_tf32_is_torchs_switch() -> None:
    """Set by the older interface or the newer one, and read at each call, the backward's too."""
    x, weight = (torch.randn(2, 8, 6, 6).requires_grad_(), torch.randn(16, 8, 3, 3).requires_grad_())
    exact = native.conv2d(x.double().cpu(), weight.double().cpu())
    grad, rounded = torch.randn(exact.shape), []

    def older(allowed: bool) -> None:  # torch.backends.cudnn.allow_tf32, which torch.testing freezes
        torch._C._set_cudnn_allow_tf32(allowed)

    def newer(allowed: bool) -> None:
        torch.backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"

    with nnart_ops.config(conv_strategy="gemm"):
        for switch, allowed in ((newer, True), (newer, False), (older, True), (older, False)):
            newer(False)
            switch(allowed)
            y = F.conv2d(x, weight)
            error, largest = (y.detach().cpu() - exact.detach()).abs().max(), exact.detach().abs().max()
            assert bool(error <= LIMITS[torch.float32] * largest) != allowed
            switch(False)
            first = torch.autograd.grad(y, weight, grad, retain_graph=True)[0]
            switch(allowed)
            rounded.append(torch.autograd.grad(y, weight, grad)[0])
            assert torch.equal(first, rounded[-1]) != allowed
    assert torch.equal(rounded[0], rounded[2])
    assert torch.equal(rounded[1], rounded[3])


def test_it_is_ours() -> None:
    """What this file holds to float64 is the kernel of csrc/cuda, not another's convolution."""
    x, weight = torch.randn(1, 8, 5, 5), torch.randn(4, 8, 3, 3)
    with nnart_ops.config(conv_strategy="gemm"):
        rows = nnart_ops.explain(F.conv2d, x, weight)
    assert [row.strategy for row in rows] == ["gemm"] * 3
    assert str(rows[0].reason).startswith("forced")
    if EMULATION is not None:
        assert any("gemm_kernel<" in name for name in EMULATION.kernels())
