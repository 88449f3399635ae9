"""Pooling. Maxima are exact: values, indices and layouts equal native's bit by bit, whatever the window; averages and
all gradients are held to the float64 oracle."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only, generator
from instruction_sets import each_instruction_set, run_on
from tolerances import SAME_BFLOAT16, SAME_FLOAT32, assert_close, compute_eps, storage_rounding
from torch import Tensor

import nnart_ops.functional as F
from nnart_ops.functional import max_pool2d

OPS = torch.ops.nnart_ops
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
FORMATS = {3: None, 4: torch.channels_last, 5: torch.channels_last_3d}

SHAPES = [(2, 3, 11, 11), (3, 20, 26, 26), (1, 1, 7, 37), (2, 16, 5, 8), (2, 67, 4, 5), (0, 3, 8, 8), (3, 9, 9)]
WINDOWS = [  # kernel_size, stride, padding, dilation, ceil_mode
    (2, None, 0, 1, False),
    (2, 2, 0, 1, True),
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (3, 1, 1, 1, False),
    (3, 3, 0, 1, False),
    ((2, 3), (3, 1), (1, 0), (1, 2), True),
    (2, 3, 0, 1, False),
    (4, 1, 2, 1, False),
    (5, 2, 2, 2, False),
    (2, 1, 0, 2, False),
    (1, 1, 0, 1, False),
]
LARGE_WINDOWS = [(17, 16, 3, 1, False), (20, 1, 0, 1, False), (13, 1, 6, 1, True)]  # above 256 elements, and below
SHAPES_3D = [(2, 3, 5, 6, 7), (1, 17, 4, 5, 9), (2, 2, 3, 4, 34), (2, 4, 5, 6)]
WINDOWS_3D = [
    (2, None, 0, 1, False),
    (3, 2, 1, 1, True),
    (3, 1, 1, 1, False),
    ((1, 2, 3), (2, 1, 2), (0, 1, 1), 1, False),
    (2, 1, 0, 2, False),
    ((2, 2, 2), 3, 0, 1, False),
]
SHAPES_1D = [(2, 3, 11), (2, 5, 64), (3, 40), (5, 40, 45)]
WINDOWS_1D = [(2, None, 0, 1, False), (3, 2, 1, 1, True), (3, 1, 1, 1, False), (5, 3, 2, 2, False)]
LARGE = [((1, 3, 40, 43), window) for window in LARGE_WINDOWS]
# Small planes, so many that it is written down once what each input of one picks.
MANY = [
    *(((9, 16, h, w), (2, None, 0, 1, False)) for h, w in [(2, 2), (6, 6), (8, 8), (12, 22), (4, 34)]),
    *(((5, 40, 9, 12), (kernel, stride, 0, 1, False)) for kernel, stride in [((3, 2), 2), ((1, 3), 1), (3, 3)]),
    ((4, 50, 4, 4, 6), (2, None, 0, 1, False)),
]
MAX_CASES = [
    *itertools.product(SHAPES, WINDOWS),
    *itertools.product(SHAPES_3D, WINDOWS_3D),
    *itertools.product(SHAPES_1D, WINDOWS_1D),
    *LARGE,
    *MANY,
]
# The sizes of x and of y: windows of one size, of two, larger outputs than inputs, one window, none.
ADAPTIVE = [
    *(((2, 3, 12, 14), size) for size in [(3, 7), (5, 3), (12, 14), (20, 3), (1, 1), (4, 0), (None, 2), 5]),
    *(((3, 9, 40), size) for size in [(2, 2), (1, 1)]),
    *(((2, 17, 40, 35), size) for size in [(1, 1), (3, 5)]),
    *(((2, 3, 6, 7, 9), size) for size in [(2, 7, 3), (1, 1, 1), (4, 5, 4)]),
    *(((2, 3, 31), size) for size in [5, 1, 31]),
    ((0, 3, 4, 4), (2, 2)),
]
AVERAGES = [  # kernel_size, stride, padding, ceil_mode, count_include_pad
    *[(2, None, 0, False, True), (2, 2, 0, True, True), (3, 2, 1, False, True), (3, 2, 1, True, False)],
    *[(3, 1, 1, False, False), (3, 3, 1, True, True), (5, 4, 2, False, False), (4, 1, 2, False, True)],
    *[(2, 3, 0, False, True), (1, 1, 0, False, True), (7, 1, 3, True, True)],
]


def formats_of(shape: tuple[int, ...]) -> list[Any]:
    batched = len(shape) in (4, 5) and not (len(shape) == 4 and shape == (2, 4, 5, 6))
    return [torch.contiguous_format, *([FORMATS[len(shape)]] if batched else [])]


def space_of(shape: tuple[int, ...]) -> int:
    """Of a shape that may lack its batch: such 3-D shapes stand in SHAPES_3D, 1-D ones in SHAPES_1D."""
    if shape in SHAPES_3D or len(shape) == 5:
        return 3
    return 1 if shape in SHAPES_1D else 2


def images(shape: tuple[int, ...], dtype: torch.dtype, layout: Any = torch.contiguous_format) -> Tensor:
    """Few distinct values, so that there are ties, with NaN, both zeros and infinities.

    In three dimensions torch's index of a window of minus infinities is 0, outside the window: there are none.
    """
    x = (torch.randn(shape, generator=generator(0)) * 2).round() / 2
    x[..., ::3, ::4] = float("nan")
    x[..., 1::3, 2::4] = 0.0
    x[..., 1::3, 1::4] = -0.0
    x[..., -1, :] = float("inf")
    x[..., :3, :3] = -float("inf") if len(shape) < 5 and shape not in SHAPES_3D else -9
    x = x.to(dtype)
    return x.to(memory_format=layout) if x.dim() in (4, 5) else x


def same(a: Tensor, b: Tensor) -> bool:
    """Equal down to the sign of zero, NaN equal to NaN, strides too where they mean something."""
    return same_values(a, b) and same_strides(a, b)


def same_values(a: Tensor, b: Tensor) -> bool:
    values = torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    return values and torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan())


def same_strides(a: Tensor, b: Tensor) -> bool:
    return a.numel() == 0 or all(x == y for x, y, n in zip(a.stride(), b.stride(), a.shape) if n > 1)


def check_max(name: str, x: Tensor, *arguments: Any) -> None:
    """The function ``name`` of both libraries: values, indices, layouts; the gradient against float64."""
    ours, peer = getattr(F, name), getattr(native, name)
    try:
        y, indices = peer(x, *arguments, return_indices=True)
    except RuntimeError:
        return  # the window is larger than the image
    result, our_indices = ours(x, *arguments, return_indices=True)
    assert same(result, y)
    assert same(ours(x, *arguments), peer(x, *arguments))
    # On CUDA torch's index of a channels-last window of minus infinities is 0, outside it; on the CPU the first in it.
    assert torch.equal(our_indices.cpu(), peer(x.cpu(), *arguments, return_indices=True)[1])
    assert same_strides(our_indices, indices)
    if y.numel() == 0:
        return  # torch has no gradient of it
    leaf, oracle = x.detach().clone().requires_grad_(), x.detach().double().cpu().requires_grad_()
    grad = torch.randn(y.shape, generator=generator(1)).to(x.dtype)
    (grad_x,) = torch.autograd.grad(ours(leaf, *arguments), leaf, grad)
    (expected,) = torch.autograd.grad(peer(oracle, *arguments), oracle, grad.double().cpu())
    # Summed in the compute type (gradients of about one), rounded to the storage type once.
    limit = storage_rounding(x.dtype) * expected.abs() + 64 * compute_eps(x.dtype)
    assert ((grad_x.double().cpu() - expected).abs() <= limit).all()
    assert same_strides(grad_x, expected) or name == "adaptive_max_pool3d"  # where torch's is always contiguous


def check_all_windows() -> None:
    for (shape, window), dtype in itertools.product(MAX_CASES, DTYPES):
        for layout in formats_of(shape):
            check_max(f"max_pool{space_of(shape)}d", images(shape, dtype, layout), *window)
    for (shape, size), dtype in itertools.product(ADAPTIVE, DTYPES):
        for layout in formats_of(shape):
            check_adaptive_max(shape, size, dtype, layout)
            check_adaptive_avg(shape, size, dtype, layout)
    for shape, window, dtype in itertools.product(SHAPES, AVERAGES, DTYPES):
        for layout in formats_of(shape):
            check_average("avg_pool2d", plain(shape, dtype, layout), *window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("space", "shapes", "window"),
    [
        *((2, SHAPES, window) for window in WINDOWS),
        *((2, [(1, 3, 40, 43)], window) for window in LARGE_WINDOWS),
        *((3, SHAPES_3D, window) for window in WINDOWS_3D),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_max(space: int, shapes: list, window: tuple, dtype: torch.dtype) -> None:
    for shape in shapes:
        for layout in formats_of(shape):
            check_max(f"max_pool{space}d", images(shape, dtype, layout), *window)


@cpu_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "window"), MANY, ids=str)
def test_max_of_many_planes(shape: tuple, window: tuple, dtype: torch.dtype) -> None:
    check_max(f"max_pool{space_of(shape)}d", images(shape, dtype), *window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", WINDOWS_1D, ids=str)
def test_max_1d(window: tuple, dtype: torch.dtype) -> None:
    for shape in SHAPES_1D:
        x = images(shape, dtype)
        check_max("max_pool1d", x, *window)
        if x.dim() == 3:  # the channels innermost
            check_max("max_pool1d", x.transpose(1, 2).contiguous().transpose(1, 2), *window)


def check_adaptive_max(shape: tuple, size: Any, dtype: torch.dtype, layout: Any) -> None:
    check_max(f"adaptive_max_pool{adaptive_space(shape)}d", images(shape, dtype, layout), size)


def adaptive_space(shape: tuple[int, ...]) -> int:
    return 2 if shape == (3, 9, 40) else len(shape) - 2


def plain(shape: tuple[int, ...], dtype: torch.dtype, layout: Any = torch.contiguous_format) -> Tensor:
    x = torch.randn(shape, generator=generator(0)).to(dtype)
    return x.to(memory_format=layout) if x.dim() in (4, 5) else x


def check_average(name: str, x: Tensor, *arguments: Any) -> None:
    ours, peer = getattr(F, name), getattr(native, name)
    try:
        expected = peer(x, *arguments)
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            return  # the window is larger than the image
        expected = peer(x.float(), *arguments).to(x.dtype)  # torch has no float16 kernel
    leaf = x.detach().clone().requires_grad_()
    # In NCHW: the gradient of padded NHWC images is wrong on CUDA (pytorch/pytorch#188344).
    twin, oracle = (
        t.clone(memory_format=torch.contiguous_format).requires_grad_() for t in (x.detach(), x.detach().double())
    )
    result, truth = ours(leaf, *arguments), peer(oracle, *arguments)
    assert same_strides(result, expected)
    assert_close(result.detach(), expected, truth.detach(), f"{name} {tuple(x.shape)} {arguments}")
    if expected.numel() == 0:
        return  # torch has no gradient of it
    grad = torch.randn(expected.shape, generator=generator(1)).to(x.dtype)
    (grad_x,) = torch.autograd.grad(result, leaf, grad)
    (true_grad,) = torch.autograd.grad(truth, oracle, grad.double())
    try:
        (peer_grad,) = torch.autograd.grad(peer(twin, *arguments), twin, grad)
    except RuntimeError:
        peer_grad = true_grad.to(x.dtype)
    assert_close(grad_x, peer_grad, true_grad, f"{name} gradient {tuple(x.shape)} {arguments}")


def check_adaptive_avg(shape: tuple, size: Any, dtype: torch.dtype, layout: Any) -> None:
    check_average(f"adaptive_avg_pool{adaptive_space(shape)}d", plain(shape, dtype, layout), size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "size"), ADAPTIVE, ids=str)
def test_adaptive(shape: tuple, size: Any, dtype: torch.dtype) -> None:
    for layout in formats_of(shape):
        check_adaptive_max(shape, size, dtype, layout)
        check_adaptive_avg(shape, size, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", AVERAGES, ids=str)
def test_average(window: tuple, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for layout in formats_of(shape):
            check_average("avg_pool2d", plain(shape, dtype, layout), *window)
            check_average("avg_pool2d", plain(shape, dtype, layout), *window, 7)
    for shape in SHAPES_3D:
        for layout in formats_of(shape):
            check_average("avg_pool3d", plain(shape, dtype, layout), *window)
    for shape in SHAPES_1D:
        check_average("avg_pool1d", plain(shape, dtype), *window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf"), -float("inf")])
def test_lp(norm_type: float, dtype: torch.dtype) -> None:
    """Powers and roots are torch's own in the tensor's dtype: each of their roundings counts, in 16 bits twice over.

    The limits of the norm are the largest and the smallest magnitude; torch 2.11 has 1 there.
    """
    for space, shape in ((1, (2, 3, 11)), (2, (2, 3, 9, 10)), (3, (2, 3, 5, 6, 7))):
        for kernel_size, stride, ceil_mode in ((2, None, False), (3, 2, True)):
            x = plain(shape, dtype).abs()
            leaf, oracle = x.clone().requires_grad_(), x.double().requires_grad_()
            result = getattr(F, f"lp_pool{space}d")(leaf, norm_type, kernel_size, stride, ceil_mode)
            if abs(norm_type) == float("inf"):
                sign = 1 if norm_type > 0 else -1
                pool = getattr(native, f"max_pool{space}d")
                truth = sign * pool(sign * oracle, kernel_size, stride, ceil_mode=ceil_mode)
            else:
                truth = getattr(native, f"lp_pool{space}d")(oracle, norm_type, kernel_size, stride, ceil_mode)
            exact = SAME_FLOAT32 if dtype in (torch.float32, torch.float64) else SAME_BFLOAT16
            torch.testing.assert_close(result.double(), truth, **exact)
            grads = [torch.autograd.grad(y.sum(), t)[0].double() for y, t in ((result, leaf), (truth, oracle))]
            torch.testing.assert_close(*grads, **exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpool(dtype: torch.dtype) -> None:
    for space, shape in ((1, (2, 3, 12)), (2, (2, 5, 8, 10)), (3, (2, 3, 4, 6, 8)), (2, (5, 8, 10))):
        for layout in formats_of(shape):
            x = plain(shape, dtype, layout)
            y, indices = getattr(native, f"max_pool{space}d")(x, 2, return_indices=True)
            leaves = [y.clone().requires_grad_() for _ in "ab"]
            results = [getattr(lib, f"max_unpool{space}d")(leaf, indices, 2) for lib, leaf in zip((F, native), leaves)]
            assert same_values(*(result.detach() for result in results))
            assert same_strides(*results) or DEVICE == "cuda"  # where torch's is always contiguous
            grad = torch.randn(results[0].shape).to(dtype)
            grads = [torch.autograd.grad(result, leaf, grad)[0] for result, leaf in zip(results, leaves)]
            assert torch.equal(*grads)


def test_unpool_is_deterministic_with_one_index_twice() -> None:
    """Torch refuses under deterministic algorithms; ours keeps the last."""
    x = torch.arange(4.0).view(1, 1, 2, 2)
    torch.use_deterministic_algorithms(True)
    try:
        y = F.max_unpool2d(x, torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2)
        leaf = torch.randn(2, 3, 12, 12, requires_grad=True)
        for function in (F.max_pool2d, F.adaptive_max_pool2d, F.adaptive_avg_pool2d, F.avg_pool2d):
            function(leaf, 3).sum().backward()
        volume = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
        for function in (F.max_pool3d, F.adaptive_max_pool3d, F.adaptive_avg_pool3d, F.avg_pool3d):
            function(volume, 3).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert y.flatten().tolist() == [3.0] + [0.0] * 15


@cpu_only
def test_unpool_names_a_wrong_index() -> None:
    for index in (16, -1):
        with pytest.raises(RuntimeError, match=f"invalid max index.*{index}"):
            F.max_unpool2d(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), index), 2)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(isa, "import test_pooling; test_pooling.check_all_windows()")


@pytest.mark.parametrize("width", [*range(1, 12), 15, 16, 17, 31, 32, 33, 34, 35, 64, 65, 127])
def test_widths_around_the_vectors(width: int) -> None:
    for layout, window in itertools.product(
        formats_of((1, 1, 1, 1)), [(2, 1), (2, 2), (3, 2, 1), (3, 4, 1), (1, 1), (3, 1, 1)]
    ):
        for x in (images((2, 2, 5, width), torch.float32, layout), images((2, width, 4, 6), torch.bfloat16, layout)):
            check_max("max_pool2d", x, *window)
            check_max("adaptive_max_pool2d", x, (2, 3))
        for x in (plain((2, 2, 5, width), torch.float32, layout), plain((2, width, 4, 6), torch.bfloat16, layout)):
            check_average("avg_pool2d", x, *window)
            check_average("adaptive_avg_pool2d", x, (2, 3))


STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda base: base[1:3, ::2, 1:12, 2:],
    "expanded": lambda base: base[:1, :1].expand(3, 5, 13, 14),
    "transposed": lambda base: base.transpose(2, 3),
    "batch_expanded": lambda base: base[:1].to(memory_format=torch.channels_last).expand(3, 6, 13, 14),
}


@pytest.mark.parametrize("make", STRIDED)
def test_strides(make: str) -> None:
    x = STRIDED[make](images((4, 6, 13, 14), torch.float32))
    y, indices = native.max_pool2d(x, 3, 2, 1, return_indices=True)
    ours, our_indices = max_pool2d(x, 3, 2, 1, return_indices=True)
    assert same(ours, y)
    assert torch.equal(our_indices, indices)
    x = STRIDED[make](plain((4, 6, 13, 14), torch.float32))
    for name, arguments in (("avg_pool2d", (3, 2, 1)), ("adaptive_avg_pool2d", (3,))):
        expected = getattr(native, name)(x, *arguments)
        result = getattr(F, name)(x, *arguments)
        assert_close(result, expected, getattr(native, name)(x.double(), *arguments), name)
        assert result.stride() == expected.stride()


@pytest.mark.parametrize(("name", "arguments"), [("max_pool2d", (3, 1)), ("avg_pool2d", (3, 2, 1))])
def test_stride_0_gradient(name: str, arguments: tuple) -> None:
    x = images((2, 3, 8, 8), torch.float64).nan_to_num(posinf=5, neginf=-5).requires_grad_()
    (ours,) = torch.autograd.grad(getattr(F, name)(x, *arguments).sum(), x)
    (expected,) = torch.autograd.grad(getattr(native, name)(x, *arguments).sum(), x)
    torch.testing.assert_close(ours, expected, rtol=1e-14, atol=1e-14)


GRADIENTS = [
    *((f"max_pool{space}d", window) for space in (1, 2, 3) for window in [(2,), (3, 1, 1), (3, 2, 1, 1, True)]),
    *((f"avg_pool{space}d", window) for space in (1, 2, 3) for window in [(2,), (3, 1, 1), (3, 2, 1, True, False)]),
    *((f"adaptive_{kind}_pool{space}d", (size,)) for kind in ("max", "avg") for space in (1, 2, 3) for size in (2, 3)),
    *((f"lp_pool{space}d", (3.0, 2)) for space in (1, 2, 3)),
]


@pytest.mark.parametrize(("name", "arguments"), GRADIENTS, ids=str)
def test_gradients_of_every_order(name: str, arguments: tuple) -> None:
    space = int(name[-2])
    shape = {1: (2, 2, 7), 2: (2, 2, 5, 6), 3: (1, 2, 4, 4, 5)}[space]
    for size, layout in ((shape, "batched"), (shape, "last"), (shape[1:], "single")):
        x = torch.randperm(torch.Size(size).numel()).double().add(1).view(size) / 10
        if layout == "last" and space > 1:
            x = x.to(memory_format=FORMATS[len(size)])
        x.requires_grad_()
        function = lambda t: getattr(F, name)(t, *arguments)  # noqa: E731
        assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, x)


def test_gradients_of_unpool() -> None:
    x, indices = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True), torch.arange(4).expand(2, 2, 4)
    function = lambda t: F.max_unpool2d(t, indices.view(2, 2, 2, 2) * 3, 2)  # noqa: E731
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_opcheck(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 9, 10).to(memory_format=layout)
    window = ([3, 3], [2, 2], [1, 1], [1, 1])
    _, offsets = OPS.max_pool_with_offsets(x, *window, False)
    for leaf in (x, x.clone().requires_grad_()):
        torch.library.opcheck(OPS.max_pool.default, (leaf, *window, False))
        torch.library.opcheck(OPS.max_pool_with_offsets.default, (leaf, *window, True))
        torch.library.opcheck(OPS.adaptive_max_pool_with_offsets.default, (leaf, [3, 4]))
        torch.library.opcheck(OPS.adaptive_avg_pool.default, (leaf, [3, 4]))
        torch.library.opcheck(OPS.avg_pool.default, (leaf, *window[:3], True, False, 0))
    grad = torch.randn(offsets.shape).requires_grad_()
    torch.library.opcheck(OPS.max_pool_backward.default, (grad, offsets, [9, 10], *window))


CALLS = [
    *[("max_pool2d", (2,)), ("max_pool2d", (3, 1)), ("avg_pool2d", (3, 2, 1))],
    *[("adaptive_max_pool2d", (3,)), ("adaptive_avg_pool2d", (3,)), ("lp_pool2d", (2.0, 2))],
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=str)
def test_vmap_and_transforms(name: str, arguments: tuple) -> None:
    ours, peer = (lambda t, lib=lib: getattr(lib, name)(t, *arguments) for lib in (F, native))
    x = torch.rand(4, 2, 3, 8, 8, dtype=torch.float64) + 0.1
    close = {"rtol": 1e-12, "atol": 1e-12}
    for dims in (0, 2):
        results = [torch.func.vmap(f, in_dims=dims)(x) for f in (ours, peer)]
        torch.testing.assert_close(*results, **close)
    results = [torch.func.vmap(torch.func.grad(lambda t, f=f: f(t).sin().sum()))(x) for f in (ours, peer)]
    torch.testing.assert_close(*results, **close)
    torch.testing.assert_close(*(torch.func.jacrev(f)(x[0, 0]) for f in (ours, peer)), **close)
    tangent = torch.randn_like(x[0])
    torch.testing.assert_close(*(torch.func.jvp(f, (x[0],), (tangent,)) for f in (ours, peer)), **close)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=str)
def test_compile(name: str, arguments: tuple, requires_grad: bool) -> None:
    torch._dynamo.reset()
    function = getattr(F, name)
    compiled = torch.compile(
        lambda t: function(t, *arguments) * 2, backend="aot_eager", fullgraph=True, dynamic="adaptive" not in name
    )
    for shape in ((2, 3, 8, 9), (3, 3, 10, 12), (3, 4, 10, 12)):
        x, peer = (torch.rand(shape, generator=generator(2)).requires_grad_(requires_grad) for _ in "ab")
        y, expected = compiled(x), getattr(native, name)(peer, *arguments) * 2
        torch.testing.assert_close(y, expected)
        if requires_grad:
            y.sum().backward()
            expected.sum().backward()
            torch.testing.assert_close(x.grad, peer.grad)


@cpu_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_threads_do_not_change_the_result(layout: torch.memory_format, dtype: torch.dtype) -> None:
    def gradient(name: str, arguments: tuple) -> Tensor:
        x = torch.randn(8, 40, 30, 31, generator=generator(3)).to(dtype).to(memory_format=layout)
        x.requires_grad_()
        y = getattr(F, name)(x, *arguments)
        grad = torch.randn(y.shape, generator=generator(4)).to(dtype)
        return torch.cat([y.flatten(), torch.autograd.grad(y, x, grad)[0].flatten()])

    calls = [*CALLS[:5], ("max_pool2d", (3, 1, 1)), ("max_pool2d", (9, 1, 4)), ("adaptive_max_pool2d", (1,))]
    before = torch.get_num_threads()
    try:
        for call in calls:
            torch.set_num_threads(1)
            one = gradient(*call)
            torch.set_num_threads(2)
            assert torch.equal(one, gradient(*call))
    finally:
        torch.set_num_threads(before)


def test_offsets_that_no_window_has_write_nothing() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        for window in ((2, 2, 0, 1), (3, 1, 1, 1), (5, 1, 2, 1)):
            sizes = [[number] * 2 for number in window]
            out = 4 if window[1] == 2 else 8
            offsets = torch.full((40, 2, out, out), 255, dtype=torch.uint8).to(memory_format=layout)
            grad_x = OPS.max_pool_backward(torch.ones(40, 2, out, out), offsets, [8, 8], *sizes)
            assert not grad_x.any()


def kept_bytes(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps alive between forward and backward, besides the input itself."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x.clone().requires_grad_())
    return sum(kept.values())


def test_memory_between_forward_and_backward() -> None:
    """A byte an output, where native keeps its input and eight."""
    x = torch.randn(2, 8, 32, 32)
    outputs = x.numel() // 4
    assert kept_bytes(lambda t: F.max_pool2d(t, 2), x) == outputs
    assert kept_bytes(lambda t: native.max_pool2d(t, 2), x) >= 8 * outputs
    assert kept_bytes(lambda t: F.avg_pool2d(t, 2), x) == 0
    assert kept_bytes(lambda t: F.adaptive_avg_pool2d(t, 3), x) == 0
