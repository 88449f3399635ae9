"""PyTorch's own samples for operators, modules and their errors, run on ours: torch.testing._internal ships in the
wheel.

Convolution, pooling and optimizers have theirs in test_conv.py, test_pooling.py and test_optim.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import DEVICE
from tolerances import assert_close
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import nnart_ops
import nnart_ops.functional as F

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# OpInfo's name where it is not ours with "nn.functional." before it.
NAMES = {"sigmoid": "sigmoid", "tanh": "tanh"}
ACTIVATIONS = (
    *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish"),
    *("prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh"),
    *("tanhshrink", "threshold"),
)


def op_info(name: str) -> Any:
    wanted = NAMES.get(name, f"nn.functional.{name}")
    return next(info for info in op_db if info.name == wanted and not info.variant_test_name)


def outcome(function: Callable[..., Tensor], x: Tensor, args: Any, kwargs: Any) -> tuple[Tensor, list[Tensor]]:
    """The result and the gradients of its sum of squares, on fresh leaves."""
    x = x.detach().clone().requires_grad_()
    args = tuple(
        a.detach().clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
    )
    leaves = [x, *(a for a in args if isinstance(a, Tensor))]
    torch.manual_seed(1)
    y = function(x * 1, *args, **kwargs)
    return y.detach(), list(torch.autograd.grad((y.double() ** 2).sum(), leaves))


def as_double(value: Any) -> Any:
    """For the oracle, which is on the CPU: see assert_close."""
    return value.double().cpu() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_samples(name: str, dtype: torch.dtype) -> None:
    info = op_info(name)
    if dtype not in info.dtypes:
        pytest.skip(f"torch has no {name} in {dtype}")
    ours, native = getattr(F, name), getattr(torch if name in NAMES else torch.nn.functional, name)
    compared = 0
    for sample in info.sample_inputs(DEVICE, dtype, requires_grad=False):
        x, args, kwargs = sample.input, sample.args, dict(sample.kwargs)
        result = outcome(ours, x, args, kwargs)
        reference = outcome(native, x, args, kwargs)
        if kwargs.get("training"):  # random slopes of our own: test_rrelu.py
            continue
        doubles = {key: as_double(value) for key, value in kwargs.items()}
        oracle = outcome(native, as_double(x), tuple(map(as_double, args)), doubles)
        assert_close(result[0], reference[0], oracle[0], f"{name} {tuple(x.shape)}")
        if not (name in ("hardsigmoid", "celu") and dtype == torch.float64):  # see ActivationCase.formula
            for got, want, truth in zip(result[1], reference[1], oracle[1]):
                assert_close(got, want, truth, f"{name} gradient {tuple(x.shape)}")
        compared += 1
    assert compared


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_error_inputs(name: str) -> None:
    """What torch refuses, ours refuses: with the same type, and a text that the same pattern finds."""
    info = op_info(name)
    if info.error_inputs_func is None:
        return
    for error in info.error_inputs(DEVICE):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            getattr(F, name)(sample.input, *sample.args, **sample.kwargs)


MODULES = [info for info in module_db if hasattr(nnart_ops.nn, info.module_cls.__name__)]


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modules(info: Any, training: bool) -> None:
    """ModuleInfo's constructors and inputs: the same repr, state_dict and numbers; checkpoints load both ways."""
    ours_cls = getattr(nnart_ops.nn, info.module_cls.__name__)
    compared = 0
    for sample in info.module_inputs_func(
        info, device=DEVICE, dtype=torch.float64, requires_grad=True, training=training
    ):
        construct, call = sample.constructor_input, sample.forward_input
        if call is None:
            continue
        kwargs = {k: v for k, v in construct.kwargs.items() if k not in ("device", "dtype")}
        native = info.module_cls(*construct.args, **kwargs).double().train(training)
        ours = ours_cls(*construct.args, **kwargs).double().train(training)
        assert repr(ours) == repr(native)
        ours.load_state_dict(native.state_dict())
        native.load_state_dict(ours.state_dict())
        outputs = []
        for module in (ours, native):
            args = [
                a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in call.args
            ]
            torch.manual_seed(0)
            y = module(*args, **call.kwargs)
            first = y[0] if isinstance(y, tuple) else y
            leaves = [a for a in [*args, *module.parameters()] if isinstance(a, Tensor) and a.requires_grad]
            outputs.append([y, torch.autograd.grad(first.sum(), leaves) if first.requires_grad else ()])
        torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-7, equal_nan=True)
        compared += 1
    assert compared


WITHOUT_INFO = {"Hardsigmoid": {}, "RReLU": {"lower": 0.1, "upper": 0.2}}


@pytest.mark.parametrize(
    ("name", "training"), [("Hardsigmoid", True), ("Hardsigmoid", False), ("RReLU", False)]
)  # RReLU in training: test_rrelu.py
def test_modules_that_torch_has_no_samples_for(name: str, training: bool) -> None:
    ours = getattr(nnart_ops.nn, name)(**WITHOUT_INFO[name]).train(training)
    native = getattr(torch.nn, name)(**WITHOUT_INFO[name]).train(training)
    assert repr(ours) == repr(native)
    x = torch.randn(5, 7)
    outputs = []
    for module in (ours, native):
        torch.manual_seed(0)
        outputs.append(module(x))
    torch.testing.assert_close(*outputs)


WITH_INDICES = {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"}  # of a pooling: test_pooling.py
RANDOM = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}  # test_dropout.py
WITHOUT_TORCHS = {"BiasActivation", "BilinearGLU", "GEGLU", "ReGLU", "SwiGLU"}  # their own tests
CONTAINERS = {"Sequential"}  # test_handover.py
LAZY = {"LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"}  # test_batch_norm.py


def test_every_module_is_covered() -> None:
    covered = {info.module_cls.__name__ for info in MODULES} | set(WITHOUT_INFO) | RANDOM | WITHOUT_TORCHS
    classes = {name for name in nnart_ops.nn.__all__ if isinstance(getattr(nnart_ops.nn, name), type)}
    assert covered | WITH_INDICES | LAZY | CONTAINERS == classes
