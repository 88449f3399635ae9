"""Max pooling is exact: values, indices and layouts equal native's bit by bit, whatever the window."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as native
from tolerances import compute_eps, storage_rounding
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
from nnart_ops.functional import max_pool2d

OPS = torch.ops.nnart_ops
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
OP_INFO = next(op for op in op_db if op.name == "nn.functional.max_pool2d")

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
    (2, 1, 0, 2, False),
    (1, 1, 0, 1, False),
]


def images(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format
) -> torch.Tensor:
    """Few distinct values, so that there are ties, with NaN, both zeros and infinities."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2).round() / 2
    x[..., ::3, ::4] = float("nan")
    x[..., 1::3, 2::4] = 0.0
    x[..., 1::3, 1::4] = -0.0
    x[..., -1, :] = float("inf")
    x[..., :3, :3] = -float("inf")
    x = x.to(dtype)
    return x.to(memory_format=layout) if x.dim() == 4 else x


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal down to the sign of zero, NaN equal to NaN, strides too."""
    values = torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    return values and torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan()) and a.stride() == b.stride()


def check_window(x: torch.Tensor, window: tuple) -> None:
    try:
        y, indices = native.max_pool2d(x, *window, return_indices=True)
    except RuntimeError:
        return  # the window is larger than the image
    ours, our_indices = max_pool2d(x, *window, return_indices=True)
    assert same(ours, y)
    assert same(max_pool2d(x, *window), y)
    assert torch.equal(our_indices, indices)
    assert our_indices.stride() == indices.stride()
    leaf, peer = x.detach().clone().requires_grad_(), x.detach().double().requires_grad_()
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    (grad_x,) = torch.autograd.grad(max_pool2d(leaf, *window), leaf, grad)
    (expected,) = torch.autograd.grad(native.max_pool2d(peer, *window), peer, grad.double())
    # Summed in the compute type (at most sixteen gradients of about one), rounded to the storage type once.
    limit = storage_rounding(x.dtype) * expected.abs() + 16 * compute_eps(x.dtype)
    assert ((grad_x.double() - expected).abs() <= limit).all()
    assert grad_x.stride() == expected.stride()


def check_all_windows() -> None:
    for shape, dtype, layout, window in itertools.product(SHAPES, DTYPES, LAYOUTS, WINDOWS):
        if not (len(shape) == 3 and layout is torch.channels_last):
            check_window(images(shape, dtype, layout), window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_equals_native(window: tuple, layout: torch.memory_format, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        check_window(images(shape, dtype, layout), window)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    code = "import test_pooling, nnart_ops; test_pooling.check_all_windows(); print(nnart_ops.build_info()['cpu_isa'])"
    here = Path(__file__).parent
    environment = {**os.environ, "NNART_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if result.stdout.strip() != isa:
        pytest.skip(f"this CPU has no {isa}")


@pytest.mark.parametrize("width", [*range(1, 12), 15, 16, 17, 31, 32, 33, 34, 35, 64, 65, 127])
def test_widths_around_the_vectors(width: int) -> None:
    for layout, window in itertools.product(LAYOUTS, [(2, 1), (2, 2), (3, 2, 1), (3, 4, 1), (1, 1)]):
        check_window(images((2, 2, 5, width), torch.float32, layout), window)
        check_window(images((2, width, 4, 6), torch.bfloat16, layout), window)


@pytest.mark.parametrize("make", ["sliced", "expanded", "transposed", "batch_expanded"])
def test_strides(make: str) -> None:
    base = images((4, 6, 13, 14), torch.float32)
    x = {
        "sliced": base[1:3, ::2, 1:12, 2:],
        "expanded": base[:1, :1].expand(3, 5, 13, 14),
        "transposed": base.transpose(2, 3),
        "batch_expanded": base[:1].to(memory_format=torch.channels_last).expand(3, 6, 13, 14),
    }[make]
    y, indices = native.max_pool2d(x, 3, 2, 1, return_indices=True)
    ours, our_indices = max_pool2d(x, 3, 2, 1, return_indices=True)
    assert same(ours, y)
    assert torch.equal(our_indices, indices)


def test_stride_0_gradient() -> None:
    x = images((2, 3, 8, 8), torch.float64).nan_to_num().requires_grad_()
    (ours,) = torch.autograd.grad(max_pool2d(x, 3, 1).sum(), x)
    (expected,) = torch.autograd.grad(native.max_pool2d(x, 3, 1).sum(), x)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (2, 5, 6)])
@pytest.mark.parametrize("window", [(2,), (3, 1, 1), (3, 2, 1, 1, True)])
def test_gradients_of_every_order(shape: tuple[int, ...], window: tuple) -> None:
    x = torch.randperm(torch.Size(shape).numel()).double().view(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: max_pool2d(t, *window), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda t: max_pool2d(t, *window), x)
    full = (window + (None, 0, 1, False)[len(window) - 1 :]) if len(window) < 5 else window
    kernel, stride, pad, dilation, ceil = full
    stride = stride or kernel
    assert torch.autograd.gradcheck(lambda t: OPS.max_pool2d(t, kernel, stride, pad, dilation, ceil), x)
    assert torch.autograd.gradcheck(lambda t: OPS.max_pool2d_with_indices(t, kernel, stride, pad, dilation, ceil)[0], x)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_opcheck(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 9, 10).to(memory_format=layout)
    window = ([3, 3], [2, 2], [1, 1], [1, 1])
    _, indices = OPS.max_pool2d_with_indices(x, *window, False)
    for leaf in (x, x.clone().requires_grad_()):
        torch.library.opcheck(OPS.max_pool2d.default, (leaf, *window, False))
        torch.library.opcheck(OPS.max_pool2d_with_indices.default, (leaf, *window, True))
    grad = torch.randn(indices.shape).requires_grad_()
    torch.library.opcheck(OPS.max_pool2d_backward.default, (grad, indices, 9, 10, *window))


def test_vmap_and_transforms() -> None:
    x = torch.randn(4, 2, 3, 8, 8, dtype=torch.float64)
    for dims in (0, 2):
        ours = torch.func.vmap(lambda t: max_pool2d(t, 2), in_dims=dims)(x)
        assert torch.equal(ours, torch.func.vmap(lambda t: native.max_pool2d(t, 2), in_dims=dims)(x))
    ours = torch.func.vmap(torch.func.grad(lambda t: max_pool2d(t, 3, 1).sin().sum()))(x)
    assert torch.allclose(ours, torch.func.vmap(torch.func.grad(lambda t: native.max_pool2d(t, 3, 1).sin().sum()))(x))
    ours = torch.func.jacrev(lambda t: max_pool2d(t, 2))(x[0, 0])
    assert torch.equal(ours, torch.func.jacrev(lambda t: native.max_pool2d(t, 2))(x[0, 0]))
    tangent = torch.randn_like(x[0])
    ours = torch.func.jvp(lambda t: max_pool2d(t, 2), (x[0],), (tangent,))
    assert torch.equal(ours[1], torch.func.jvp(lambda t: native.max_pool2d(t, 2), (x[0],), (tangent,))[1])


@pytest.mark.parametrize("requires_grad", [False, True])
def test_compile(requires_grad: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda t: max_pool2d(t, 3, 2, 1) * 2, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 3, 8, 9), (3, 3, 10, 12), (3, 4, 10, 12)):
        x, peer = (
            torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_(requires_grad) for _ in "ab"
        )
        y, expected = compiled(x), native.max_pool2d(peer, 3, 2, 1) * 2
        assert torch.equal(y, expected)
        if requires_grad:
            y.sum().backward()
            expected.sum().backward()
            assert torch.equal(x.grad, peer.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_the_result(dtype: torch.dtype) -> None:
    def gradient(layout: torch.memory_format, window: tuple) -> torch.Tensor:
        x = torch.randn(8, 40, 30, 31, generator=torch.Generator().manual_seed(3)).to(dtype).to(memory_format=layout)
        x.requires_grad_()
        y = max_pool2d(x, *window)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
        return torch.cat([y.flatten(), torch.autograd.grad(y, x, grad)[0].flatten()])

    before = torch.get_num_threads()
    try:
        for layout, window in itertools.product(LAYOUTS, [(2,), (3, 1, 1)]):
            torch.set_num_threads(1)
            one = gradient(layout, window)
            torch.set_num_threads(2)
            assert torch.equal(one, gradient(layout, window))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opinfo_samples(requires_grad: bool) -> None:
    for sample in list(OP_INFO.sample_inputs("cpu", torch.float32, requires_grad=requires_grad))[
        :: 1 if not requires_grad else 7
    ]:
        expected = native.max_pool2d(sample.input, *sample.args, **sample.kwargs)
        ours = max_pool2d(sample.input, *sample.args, **sample.kwargs)
        pairs = zip(ours, expected) if isinstance(expected, tuple) else [(ours, expected)]
        for a, b in pairs:
            assert same(a, b)
            if requires_grad and b.requires_grad:
                grads = [torch.autograd.grad(t.square().sum(), sample.input)[0] for t in (a, b)]
                assert torch.allclose(*grads)


def test_error_inputs() -> None:
    for error in OP_INFO.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            max_pool2d(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 0}, ["kernel size should be greater than zero", "kernel_size=[0"]),
        ({"kernel_size": 2, "stride": 0}, ["stride", "greater than zero"]),
        ({"kernel_size": 2, "dilation": 0}, ["dilation", "greater than zero"]),
        ({"kernel_size": (2, 2, 2)}, ["kernel_size", "two ints"]),
        ({"kernel_size": 3, "padding": 2}, ["pad should be", "padding=[2", "kernel_size=[3"]),
    ],
)
def test_errors_name_the_argument(arguments: dict, words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        max_pool2d(torch.zeros(1, 1, 4, 4), **arguments)
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(RuntimeError):
        native.max_pool2d(torch.zeros(1, 1, 4, 4), **arguments)


@pytest.mark.parametrize("kernel_size", [2.0, "2", None])
def test_wrong_types_are_torchs_errors(kernel_size: object) -> None:
    with pytest.raises(Exception) as expected:
        native.max_pool2d(torch.zeros(1, 1, 4, 4), kernel_size)
    with pytest.raises(expected.type):
        max_pool2d(torch.zeros(1, 1, 4, 4), kernel_size)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8], ids=str)
def test_other_dtypes_are_native(dtype: torch.dtype) -> None:
    x = torch.arange(64).view(1, 1, 8, 8).to(dtype)
    assert torch.equal(max_pool2d(x, 2), native.max_pool2d(x, 2))


def test_out_of_range_indices_write_nothing() -> None:
    for layout in LAYOUTS:
        for window in ((2, 2, 0, 1), (3, 1, 1, 1)):
            indices = torch.full((1, 2, 4, 4), 10**12).to(memory_format=layout)
            grad_x = OPS.max_pool2d_backward(torch.ones(1, 2, 4, 4), indices, 8, 8, *window)
            assert not grad_x.any()


def test_module() -> None:
    module = nnart_ops.MaxPool2d(3, 2, padding=1, return_indices=True, ceil_mode=True)
    peer = torch.nn.MaxPool2d(3, 2, padding=1, return_indices=True, ceil_mode=True)
    assert repr(module) == repr(peer)
    assert isinstance(module, torch.nn.MaxPool2d)
    x = torch.randn(2, 3, 8, 9)
    for a, b in zip(pickle.loads(pickle.dumps(module))(x), peer(x)):
        assert torch.equal(a, b)
