"""Pooling as torch has it: its own samples and error inputs, what our errors say, other dtypes, autocast, modules."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F

KINDS = ["max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool", "max_unpool"]
NAMES = [f"{kind}{space}d" for kind in KINDS for space in (1, 2, 3)]


def op_infos(name: str) -> list[Any]:
    return [op for op in op_db if op.name == f"nn.functional.{name}"]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if op_infos(name)])
def test_opinfo_samples(name: str, requires_grad: bool) -> None:
    for info in op_infos(name):
        samples = list(info.sample_inputs(DEVICE, torch.float32, requires_grad=requires_grad))
        for sample in samples[:: max(1, len(samples) // (200 if not requires_grad else 60))]:
            args, kwargs = sample.args, sample.kwargs
            if name.startswith("max_unpool"):  # OpInfo's samples pool as they go
                kwargs = {k: v for k, v in kwargs.items() if k != "return_indices"}
            expected, ours = (getattr(lib, name)(sample.input, *args, **kwargs) for lib in (native, F))
            pairs = zip(ours, expected) if isinstance(expected, tuple) else [(ours, expected)]
            for a, b in pairs:
                torch.testing.assert_close(a, b)
                assert a.stride() == b.stride() or (name.startswith("max_unpool") and DEVICE == "cuda")
                if requires_grad and b.requires_grad and b.numel():
                    grads = [torch.autograd.grad(t.square().sum(), sample.input)[0] for t in (a, b)]
                    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if any(op.error_inputs_func for op in op_infos(name))])
def test_error_inputs(name: str) -> None:
    for error in op_infos(name)[0].error_inputs(DEVICE):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            getattr(F, name)(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("max_pool2d", {"kernel_size": 0}, ["kernel size should be greater than zero", "kernel_size=[0"]),
        ("max_pool2d", {"kernel_size": 2, "stride": 0}, ["stride", "greater than zero"]),
        ("max_pool2d", {"kernel_size": 2, "dilation": 0}, ["dilation", "greater than zero"]),
        ("max_pool2d", {"kernel_size": (2, 2, 2)}, ["kernel_size", "tuple of"]),
        ("max_pool2d", {"kernel_size": 3, "padding": 2}, ["pad should be", "padding=[2", "kernel_size=[3"]),
        ("max_pool2d", {"kernel_size": 7}, ["Given input size: (1x4x4)", "too small"]),
        ("avg_pool2d", {"kernel_size": 3, "padding": 2}, ["pad should be", "padding=[2", "kernel_size=[3"]),
        ("avg_pool2d", {"kernel_size": 3, "divisor_override": 0}, ["divisor"]),
        ("adaptive_avg_pool2d", {"output_size": (-1, 2)}, ["output_size", "-1"]),
        ("adaptive_max_pool2d", {"output_size": (-1, 2)}, ["output_size", "-1"]),
    ],
)
def test_errors_name_the_argument(name: str, arguments: dict, words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        getattr(F, name)(torch.zeros(1, 1, 4, 4), **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    with pytest.raises(RuntimeError):
        getattr(native, name)(torch.zeros(1, 1, 4, 4), **arguments)


@pytest.mark.parametrize("kernel_size", [2.0, "2", None])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_wrong_types_are_torchs_errors(name: str, kernel_size: object) -> None:
    with pytest.raises(Exception) as expected:
        getattr(native, name)(torch.zeros(1, 1, 4, 4), kernel_size)
    with pytest.raises(expected.type):
        getattr(F, name)(torch.zeros(1, 1, 4, 4), kernel_size)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8], ids=str)
def test_other_dtypes_are_native(dtype: torch.dtype) -> None:
    x = torch.arange(64).view(1, 1, 8, 8).to(dtype)
    for name in ("max_pool2d", "avg_pool2d"):
        try:
            expected = getattr(native, name)(x, 2)
        except RuntimeError as error:
            with pytest.raises(type(error)):
                getattr(F, name)(x, 2)
        else:
            assert torch.equal(getattr(F, name)(x, 2), expected)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_as_torch(name: str) -> None:
    space = int(name[-2])
    x = torch.randn((2, 3) + (8,) * space).bfloat16().abs()
    arguments: tuple = (2.0, 2) if name.startswith("lp") else (2,)
    if name.startswith("max_unpool"):
        x, indices = getattr(native, f"max_pool{space}d")(x, 2, return_indices=True)
        arguments = (indices, 2)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        ours, expected = (getattr(lib, name)(x, *arguments) for lib in (F, native))
    assert ours.dtype == expected.dtype
    torch.testing.assert_close(ours, expected, rtol=2e-2, atol=2e-2)


MODULES = [
    ("MaxPool2d", (3, 2), {"padding": 1, "return_indices": True, "ceil_mode": True}, (2, 3, 8, 9)),
    ("MaxPool1d", (3,), {"dilation": 2}, (2, 3, 18)),
    ("MaxPool3d", ((1, 2, 3),), {}, (2, 3, 4, 5, 6)),
    ("AvgPool2d", (3, 2), {"padding": 1, "count_include_pad": False, "divisor_override": 5}, (2, 3, 8, 9)),
    ("AdaptiveMaxPool2d", ((3, None),), {"return_indices": True}, (2, 3, 8, 9)),
    ("AdaptiveAvgPool3d", (2,), {}, (2, 3, 4, 5, 6)),
    ("LPPool2d", (2, 3), {}, (2, 3, 8, 9)),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), MODULES)
def test_modules(name: str, args: tuple, kwargs: dict, shape: tuple) -> None:
    module, peer = getattr(nnart_ops, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert repr(module) == repr(peer)
    assert isinstance(module, getattr(torch.nn, name))
    x = torch.randn(shape)
    results = [m(x) for m in (pickle.loads(pickle.dumps(module)), peer)]
    torch.testing.assert_close(*results)
