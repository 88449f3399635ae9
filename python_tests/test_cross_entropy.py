"""Cross-entropy against float64: labels and probabilities, weights, smoothing, ignored rows, every layout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only, generator
from instruction_sets import each_instruction_set, run_on
from tolerances import DTYPES, SAME_FLOAT32, SAME_FLOAT64, assert_close
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import nnart_ops
import nnart_ops.functional as F

INFO = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
SHAPES = [
    (5,),
    (3, 1),
    (4, 10),
    (7, 16),
    (3, 17),
    (2, 1000),
    (130, 65),
    (2, 3, 5),
    (2, 21, 9, 13),
    (1, 4, 3, 80),
    (3, 5, 2, 3, 4),
]
REDUCTIONS = ("mean", "sum", "none")
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def class_dim(x: Tensor) -> int:
    return 0 if x.dim() == 1 else 1


def inputs(shape: tuple[int, ...], dtype: torch.dtype, kind: str, weighted: bool) -> tuple[Tensor, Tensor, Any]:
    """Logits, labels (some of them ignored) or probabilities, and weights."""
    draws = generator(sum(shape))
    x = (torch.randn(shape, generator=draws) * 3).to(dtype)
    dim, rows = class_dim(x), [size for d, size in enumerate(shape) if d != class_dim(x)]
    if kind == "labels":
        target = torch.randint(shape[dim], rows, generator=draws)
        if target.dim():
            target.view(-1)[1::4] = -100
    else:
        target = torch.randn(shape, generator=draws).softmax(dim).to(dtype)
    weight = torch.rand(shape[dim], generator=draws).to(dtype) + 0.25 if weighted else None
    return x, target, weight


def doubled(t: Tensor | None) -> Tensor | None:
    return t.double() if t is not None and t.is_floating_point() else t


def outcome(function: Any, x: Tensor, target: Any, weight: Any, **how: Any) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    loss = function(leaf, target, weight, **how)
    scale = torch.linspace(0.5, 2, max(loss.numel(), 1), dtype=torch.float64)[: loss.numel()]
    grad = torch.autograd.grad(loss, leaf, scale.reshape(loss.shape).to(loss.dtype))[0]
    return loss.detach(), grad


def check(x: Tensor, target: Tensor, weight: Tensor | None, **how: Any) -> None:
    ours = outcome(F.cross_entropy, x, target, weight, **how)
    peer = outcome(native.cross_entropy, x, target, weight, **how)
    oracle = outcome(native.cross_entropy, x.double(), doubled(target), doubled(weight), **how)
    # Numbers of either sign in the place of probabilities cancel.
    terms = (target.double() * x.double().log_softmax(class_dim(x))).abs() if target.is_floating_point() else x[:0]
    for result, reference, truth, what in zip(ours, peer, oracle, ("loss", "grad_x")):
        assert_close(result, reference, truth, f"{what} {tuple(x.shape)} {how}", max(1.0, terms.sum().item()))


def check_all(dtype: torch.dtype) -> None:
    for shape, kind, weighted, smoothing in itertools.product(
        SHAPES, ("labels", "probabilities"), (False, True), (0.0, 0.1)
    ):
        x, target, weight = inputs(shape, dtype, kind, weighted)
        for reduction in REDUCTIONS:
            check(x, target, weight, reduction=reduction, label_smoothing=smoothing)


@dtypes
def test_against_float64(dtype: torch.dtype) -> None:
    check_all(dtype)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(isa, "import test_cross_entropy as t\nfor dtype in t.DTYPES: t.check_all(dtype)")


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_layouts(kind: str, reduction: str) -> None:
    """Channels-last logits, whose classes lie side by side, are read where they are; so are those of other orders."""
    x, target, weight = inputs((3, 7, 5, 6), torch.float32, kind, True)
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": 0.1}
    check(x, target, weight, **how)
    for y in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0),
        torch.cat([x, x], 3)[..., ::2].clone(memory_format=torch.preserve_format),
        torch.stack([x, x], -1)[..., 0],
        x[:, :, :1].expand(3, 7, 5, 6),
    ):
        check(y, target, weight, **how)
        check(y, target.contiguous(memory_format=torch.channels_last) if kind != "labels" else target, weight, **how)
        loss = F.cross_entropy(y, target, weight, **how)
        assert loss.shape == native.cross_entropy(y, target, weight, **how).shape
    z = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    F.cross_entropy(z, target).backward()
    assert z.grad.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_lost_far_from_zero() -> None:
    for offset in (-1e4, 1e4):
        x, target, _ = inputs((6, 50), torch.float32, "labels", False)
        check(x + offset, target, None)
        check(x * 100, target, None)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_and_empty(reduction: str, smoothing: float) -> None:
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    x = torch.randn(4, 5)
    for target, ignore_index in ((torch.full((4,), -100), -100), (torch.tensor([1, 2, 1, 1]), 1)):
        ours = outcome(F.cross_entropy, x, target, None, ignore_index=ignore_index, **how)
        peer = outcome(native.cross_entropy, x, target, None, ignore_index=ignore_index, **how)
        torch.testing.assert_close(ours[0], peer[0], equal_nan=True)
        if smoothing == 0 or ignore_index != -100:  # torch's gradient of a mean of nothing, smoothed, is NaN
            torch.testing.assert_close(ours[1], peer[1])
        else:
            assert torch.equal(ours[1], torch.zeros_like(x))
    for shape in ((0, 5), (0, 5, 3), (2, 5, 0)):
        x = torch.randn(shape)
        target = torch.zeros([shape[0], *shape[2:]], dtype=torch.int64)
        for t in (target, x.clone()):
            ours = outcome(F.cross_entropy, x, t, None, **how)
            torch.testing.assert_close(ours, outcome(native.cross_entropy, x, t, None, **how), equal_nan=True)


@pytest.mark.parametrize("inner", [1, 20])
def test_special_values(inner: int) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [[1.0, nan, 2.0], [1.0, inf, 2.0], [1.0, -inf, 2.0], [-inf, -inf, -inf], [inf, -inf, 0.0]]
    x = torch.tensor(rows).unsqueeze(2).expand(-1, -1, inner).contiguous()
    for label in range(3):
        target = torch.full((5, inner), label)
        ours = outcome(F.cross_entropy, x, target, None, reduction="none")
        peer = outcome(native.cross_entropy, x, target, None, reduction="none")
        for a, b in zip(ours, peer):
            torch.testing.assert_close(a, b, equal_nan=True, **SAME_FLOAT32)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("kind", "smoothing"), [("labels", 0.0), ("labels", 0.2), ("probabilities", 0.2)])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_gradients_of_every_order(shape: tuple[int, ...], kind: str, smoothing: float, reduction: str) -> None:
    x, target, weight = inputs(shape, torch.float64, kind, True)
    x.requires_grad_()

    def call(t: Tensor) -> Tensor:
        return F.cross_entropy(t, target, weight, reduction=reduction, label_smoothing=smoothing)

    assert torch.autograd.gradcheck(call, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, x, check_fwd_over_rev=True)


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_transforms(kind: str, reduction: str) -> None:
    x, target, weight = inputs((3, 4, 5, 2), torch.float64, kind, True)
    vmap, grad = torch.func.vmap, torch.func.grad
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": 0.1}

    def ours(a: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(a, t, weight, **how)

    def peer(a: Tensor, t: Tensor) -> Tensor:
        return native.cross_entropy(a, t, weight, **how)

    samples = x.unsqueeze(1), target.unsqueeze(1)  # a batch of batches of one: torch has no vmap of all of these
    expected = torch.stack([peer(a, t) for a, t in zip(*samples)])
    torch.testing.assert_close(vmap(ours)(*samples), expected, **SAME_FLOAT64)
    expected = torch.stack([peer(a, samples[1][0]) for a in samples[0]])
    torch.testing.assert_close(vmap(ours, (0, None))(samples[0], samples[1][0]), expected, **SAME_FLOAT64)
    gradients = [grad(lambda a, t, f=f: f(a, t).sin().sum()) for f in (ours, peer)]
    expected = torch.stack([gradients[1](a, t) for a, t in zip(*samples)])
    torch.testing.assert_close(vmap(gradients[0])(*samples), expected, **SAME_FLOAT64)
    for transform in (torch.func.hessian, torch.func.jacfwd):
        results = [transform(lambda a, f=f: f(a, target).sin().sum())(x) for f in (ours, peer)]
        torch.testing.assert_close(*results, **SAME_FLOAT64)


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_compile(kind: str) -> None:
    torch._dynamo.reset()

    def ours(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(x, target, label_smoothing=0.1) + F.cross_entropy(x, target, reduction="none").sum()

    def peer(x: Tensor, t: Tensor) -> Tensor:
        return native.cross_entropy(x, t, label_smoothing=0.1) + native.cross_entropy(x, t, reduction="none").sum()

    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for size in (5, 9):
        x, target, _ = inputs((size, 6, 3), torch.float32, kind, False)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(target, 0)
        x.requires_grad_()
        (grad,) = torch.autograd.grad(compiled(x, target), x)
        torch.testing.assert_close(grad, torch.autograd.grad(peer(x, target), x)[0])


@pytest.mark.parametrize("shape", [(301, 997), (5, 21, 64, 65), (9, 70001)])
def test_threads_do_not_change_the_result(shape: tuple[int, ...]) -> None:
    x, target, _ = inputs(shape, torch.float32, "labels", False)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(F.cross_entropy, x, target, None, label_smoothing=0.1))
    finally:
        torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_overwritten_logits(layout: torch.memory_format) -> None:
    x, target, weight = inputs((3, 7, 5, 6), torch.float32, "labels", True)
    leaf = x.clone(memory_format=layout).requires_grad_()
    logits = leaf * 2
    expected = torch.autograd.grad(F.cross_entropy(leaf * 2, target, weight, label_smoothing=0.1), leaf)[0]
    version, address = logits._version, logits.data_ptr()
    seen = []
    logits.register_hook(lambda grad: seen.append(grad.data_ptr()))
    loss = F.cross_entropy(logits, target, weight, label_smoothing=0.1, overwrite_logits=True)
    loss.backward(retain_graph=True)
    assert seen == [address]
    torch.testing.assert_close(leaf.grad, expected, **SAME_FLOAT32)
    assert logits._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    layer = nnart_ops.CrossEntropyLoss(weight, label_smoothing=0.1, overwrite_logits=True)
    other = x.clone(memory_format=layout).requires_grad_()
    layer(other * 2, target).backward()
    torch.testing.assert_close(other.grad, expected, **SAME_FLOAT32)
    with torch.no_grad():
        assert layer(x, target) == F.cross_entropy(x, target, weight, label_smoothing=0.1)


def test_overwriting_is_refused_where_it_would_lose_something() -> None:
    x, target, _ = inputs((3, 7), torch.float32, "labels", False)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="overwrite_logits would destroy the logits, which are a leaf"):
        F.cross_entropy(x, target, overwrite_logits=True)
    loss = F.cross_entropy(x * 1, target, overwrite_logits=True)
    with pytest.raises(RuntimeError, match="with overwrite_logits the gradient has no derivative of its own"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_what_is_kept() -> None:
    """The logits, the labels, two numbers a row and the total weight."""
    x, target, _ = inputs((64, 1000), torch.bfloat16, "labels", False)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        F.cross_entropy(x.requires_grad_(), target)
    sizes = {(tuple(t.shape), t.dtype) for t in kept}
    expected = {((64, 1000), torch.bfloat16), ((64,), torch.int64), ((2, 64), torch.float32), ((), torch.float32)}
    assert sizes == expected


def test_autocast_gives_float32() -> None:
    x, target, _ = inputs((4, 10), torch.bfloat16, "labels", False)
    for dtype in (torch.bfloat16, torch.float32):
        with torch.autocast(DEVICE):
            ours, peer = F.cross_entropy(x.to(dtype), target), native.cross_entropy(x.to(dtype), target)
        assert ours.dtype == peer.dtype == torch.float32
        # Not the peer's value: on CUDA its log_softmax stays in 16 bits.
        torch.testing.assert_close(ours, native.cross_entropy(x.double(), target).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_torchs_samples(dtype: torch.dtype) -> None:
    compared = 0
    for sample in INFO.sample_inputs(DEVICE, dtype, requires_grad=False):
        (target,) = sample.args
        kwargs = dict(sample.kwargs)
        weight = kwargs.pop("weight", None)
        check(sample.input, target, weight, **kwargs)
        compared += 1
    assert compared


@cpu_only
def test_torchs_errors() -> None:
    for error in INFO.error_inputs(DEVICE) if INFO.error_inputs_func else ():
        sample = error.sample_input
        with pytest.raises(error.error_type):
            F.cross_entropy(sample.input, *sample.args, **sample.kwargs)
    x, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    calls: list[tuple[Any, ...]] = [
        (x, torch.tensor([0, 5, 2])),
        (x, torch.tensor([0, -1, 2])),
        (x, labels[:2]),
        (x, labels.float()),
        (x, labels.int()),
        (torch.randn(3, 4, 2), labels),
        (torch.randn(4), torch.tensor(7)),
        (torch.tensor(1.0), torch.tensor(0)),
        (x, labels, torch.rand(3)),
        (x, labels, torch.rand(4).double()),
        (torch.randn(3, 0), labels),
    ]
    for args in calls:
        with pytest.raises((RuntimeError, ValueError, IndexError)) as theirs:
            native.cross_entropy(*args)
        with pytest.raises(theirs.type):
            F.cross_entropy(*args)
    for how in ({"label_smoothing": 2.0}, {"reduction": "max"}):
        with pytest.raises((RuntimeError, ValueError)) as theirs:
            native.cross_entropy(x, labels, **how)
        with pytest.raises(theirs.type):
            F.cross_entropy(x, labels, **how)
    with pytest.raises(IndexError, match="Target 5 is out of bounds: there are 4 classes, 0 to 3"):
        F.cross_entropy(x, torch.tensor([0, 5, 2]))
    op = torch.ops.nnart_ops.cross_entropy
    with pytest.raises(RuntimeError, match=r"labels must have the sizes \[3\] of x .* but have \[2\]"):
        op(x, labels[:2], None, "mean", -100, 0.0, [])
    with pytest.raises(RuntimeError, match="reduction must be none, mean or sum, but is 'max'"):
        op(x, labels, None, "max", -100, 0.0, [])
    with pytest.raises(RuntimeError, match=r"weight must have the sizes \[4\], one for each class, but has \[3\]"):
        op(x, labels, torch.rand(3), "mean", -100, 0.0, [])


def test_older_spellings_and_dtypes() -> None:
    x, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for kwargs in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="deprecated"):
            expected = native.cross_entropy(x, labels, **kwargs)
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(F.cross_entropy(x, labels, **kwargs), expected)
    torch.testing.assert_close(F.cross_entropy(x, labels.to(torch.uint8)), native.cross_entropy(x, labels))
    learned = torch.rand(3, 4).softmax(1).requires_grad_()
    grads = [torch.autograd.grad(f(x, learned), learned)[0] for f in (F.cross_entropy, native.cross_entropy)]
    torch.testing.assert_close(*grads)
