"""Gradients that a convolution hands to the activation before it: the same numbers as without, whoever reads the
activation's output, and nothing left behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import nnart_ops
import nnart_ops.functional as F
from nnart_ops.autograd.handover import allow

GEMM = {"conv_strategy": "gemm"}  # no pass of these small layers is left to torch


class Called(TorchDispatchMode):
    """The names of the ops that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name().split("::")[-1].split(".")[0])
        return func(*args, **(kwargs or {}))

    @property
    def handed(self) -> int:
        return sum(name.endswith("_dgrad_activation") for name in self.names)


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    with nnart_ops.config(**GEMM):
        yield


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.Tanh(),
        nn.Conv2d(12, 6, 3, bias=False),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 4, 2),
    )


def fused(model: nn.Module) -> Any:
    return nnart_ops.fuse(nnart_ops.convert(copy.deepcopy(model)))


def pair() -> tuple[nn.Module, Any, Tensor]:
    native = network().double()
    return native, fused(native), torch.randn(2, 3, 14, 15, dtype=torch.float64)


def gradients(model: Callable[[Tensor], Tensor], x: Tensor, parameters: Any, **options: Any) -> list[Tensor]:
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    return list(torch.autograd.grad((y * weights).sum(), list(parameters), **options))


def assert_same(got: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_chain() -> None:
    """Every convolution whose input is an activation's output hands it on; the activations have no pass."""
    native, ours, x = pair()
    x.requires_grad_()
    with Called() as calls:
        found = gradients(ours, x, (x, *ours.parameters()))
    assert_same(found, gradients(native, x, (x, *native.parameters())))
    assert calls.handed == 3
    backwards = [name for name in calls.names if name.endswith("_backward")]
    assert backwards == ["avg_pool_backward", "hardtanh_backward"]  # in front of the pooling


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dimensions_and_transposed(dims: int) -> None:
    conv, transpose = getattr(nn, f"Conv{dims}d"), getattr(nn, f"ConvTranspose{dims}d")
    native = nn.Sequential(conv(2, 3, 3), nn.ReLU(), transpose(3, 4, 2, 2), nn.Sigmoid(), conv(4, 2, 3)).double()
    ours, x = fused(native), torch.randn(2, 2, *(7,) * dims, dtype=torch.float64)
    with Called() as calls:
        found = gradients(ours, x, ours.parameters())
    assert_same(found, gradients(native, x, native.parameters()))
    assert calls.handed == 2


def test_where_it_is_done() -> None:
    ours = fused(network())
    assert type(ours) is nnart_ops.Sequential
    assert repr(ours).startswith("Sequential(")
    assert list(ours.state_dict()) == list(network().state_dict())
    alone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 1))
    assert type(fused(alone)) is nn.Sequential

    class Own(nn.Sequential):
        pass

    assert type(fused(Own(*network()))) is Own
    x = torch.randn(2, 3, 14, 15)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is nnart_ops.Sequential
        with Called() as calls:
            gradients(other, x, other.parameters())
        assert calls.handed == 3


def test_a_gradient_that_is_seen_is_there() -> None:
    """A hook shows what lies between two layers: then nothing is handed there."""
    native, ours, x = pair()
    seen: dict[str, Tensor] = {}
    for model in (native, ours):

        def keep(layer: nn.Module, inputs: Any, y: Tensor, model: Any = model) -> None:
            y.retain_grad()
            seen[type(model).__module__] = y

        model[1 if model is native else 0].register_forward_hook(keep)
    with Called() as calls:
        found = gradients(ours, x, ours.parameters())
        assert calls.handed == 2
    assert_same(found, gradients(native, x, native.parameters()))
    for model in (native, ours):
        y = model(x)
        y.sum().backward()
    assert_same([seen["nnart_ops.nn.sequential"].grad], [seen["torch.nn.modules.container"].grad])
    one_by_one = x
    for layer in ours:
        one_by_one = layer(one_by_one)
        one_by_one.retain_grad()
    with Called() as calls:
        one_by_one.sum().backward()
    assert calls.handed == 0


def test_a_module_hook_of_all() -> None:
    _, ours, x = pair()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with Called() as calls:
            gradients(ours, x, ours.parameters())
    finally:
        handle.remove()
    assert calls.handed == 0


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid"])
def test_other_readers(activation: str) -> None:
    """Of what is handed on, and in the ordinary way, together: the gradient is their sum."""
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 6, 6), (4, 3, 3, 3), (4,))]
    readers = [torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def model(x: Tensor, w: Tensor, b: Tensor, first: Tensor, second: Tensor, allowed: bool) -> Tensor:
        y = F.conv2d(x, w, b, activation=activation, residual=x[:, :1, 1:-1, 1:-1].expand(-1, 4, -1, -1))
        if allowed:
            allow(y)
        return F.conv2d(y, first) + F.conv2d(y, second, padding=1)[..., :2, :2] + y.sum()

    results = []
    for allowed in (True, False):
        y = model(*leaves, *readers, allowed)
        with Called() as calls:
            results.append(list(torch.autograd.grad(y.square().sum(), [*leaves, *readers])))
        assert calls.handed == 2 * allowed
    assert_same(*results)


def test_what_is_asked_for() -> None:
    """Gradients of some leaves, with some of them frozen, once more through the same graph, and of a batch of them."""
    native, ours, x = pair()
    x.requires_grad_()
    for some in (lambda m: [m[0].weight], lambda m: [m[4].bias], lambda m: [x], lambda m: [m[9].weight, m[2].bias]):
        assert_same(gradients(ours, x, some(ours)), gradients(native, x, some(native)))
    for model in (native, ours):
        model[2].requires_grad_(False)
        model[9].requires_grad_(False)
    both = [[x, *(p for p in model.parameters() if p.requires_grad)] for model in (native, ours)]
    assert_same(gradients(ours, x, both[1]), gradients(native, x, both[0]))
    results = []
    for model, leaves in zip((native, ours), both):
        y = model(x)
        twice = [torch.autograd.grad(y.sum(), leaves, retain_graph=True) for _ in "ab"]
        batch = torch.randn(3, *y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
        batched = torch.autograd.grad(y, leaves, batch, is_grads_batched=True)
        results.append([*twice[0], *twice[1], *batched])
    assert_same(results[1], results[0])


def test_derivatives_of_gradients() -> None:
    native, ours, x = pair()
    x.requires_grad_()
    seconds = []
    for model in (native, ours):
        leaves = [x, *model.parameters()]
        with Called() as calls:
            firsts = gradients(model, x, leaves, create_graph=True)
        assert calls.handed == 0
        seconds.append(list(torch.autograd.grad(sum(g.square().sum() for g in firsts), leaves, allow_unused=True)))
    assert [g is None for g in seconds[0]] == [g is None for g in seconds[1]]
    assert_same(*([g for g in found if g is not None] for found in reversed(seconds)))


def test_a_backward_that_fails_leaves_nothing() -> None:
    native, ours, x = pair()
    y = ours(x)

    def fail(_: Tensor) -> None:
        raise ValueError("on purpose")

    handle = ours[2].weight.register_hook(fail)
    with Called() as calls, pytest.raises(ValueError, match="on purpose"):
        y.sum().backward(retain_graph=True)
    assert calls.handed > 0
    handle.remove()
    found = torch.autograd.grad(y.sum(), list(ours.parameters()))
    assert_same(list(found), list(torch.autograd.grad(native(x).sum(), list(native.parameters()))))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_within_other_machinery() -> None:
    native, ours, x = pair()
    wanted = gradients(native, x, native.parameters())
    for reentrant in (True, False):
        recomputed = lambda x: checkpoint(ours, x.detach().requires_grad_(), use_reentrant=reentrant)  # noqa: B023, E731
        ours.zero_grad()
        y = recomputed(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        assert_same([p.grad for p in ours.parameters()], wanted)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly():
        assert_same(gradients(ours, x, ours.parameters()), wanted)
    compiled = torch.compile(ours, backend="aot_eager")
    assert_same(gradients(compiled, x, ours.parameters()), wanted)
    values = dict(ours.named_parameters())
    loss = lambda values: torch.func.functional_call(ours, values, (x,)).sum()  # noqa: E731
    transformed = torch.func.grad(loss)(values)
    plain = torch.autograd.grad(native(x).sum(), list(native.parameters()))
    assert_same(list(transformed.values()), list(plain))
    with torch.no_grad():
        assert_same([ours(x)], [native(x)])
    with torch.autocast("cpu", torch.bfloat16), Called() as calls:
        model = fused(network())
        assert all(g.isfinite().all() for g in gradients(model, x.float(), model.parameters()))
    assert calls.handed == 0  # of 16 bits, on the CPU


def test_refused_activation() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 1, 1)
    ops, y, where = torch.ops.nnart_ops, torch.randn(1, 3, 4, 4), ([1, 1], [0] * 4, [1, 1], 1)
    with pytest.raises(RuntimeError, match="the output of silu does not say what its derivative is"):
        ops.conv_dgrad_activation(y, weight, x, *where, "silu", [])
    with pytest.raises(RuntimeError, match=r"x has \[1, 3, 4, 5\] and the output has \[1, 3, 4, 4\]"):
        ops.conv_transpose_dgrad_activation(x, weight, torch.randn(1, 3, 4, 5), *where, "relu", [])
