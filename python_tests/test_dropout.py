"""Dropout: what is random by statistics, everything else exactly.

The oracle of the random stream is Philox4x32-10 in numpy, which is itself held to the published vectors.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as native
from devices import DEVICE, cpu_only
from instruction_sets import run_on
from tolerances import DTYPES, chi_square_limit, count_limit
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils.checkpoint import checkpoint

import nnart_ops
import nnart_ops.functional as F

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
op = torch.ops.nnart_ops.dropout
ELEMENTS = ("dropout", "alpha_dropout")
CHANNELS = ("dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")
ALL = (*ELEMENTS, *CHANNELS)
SHAPES = {"dropout1d": (3, 5, 7), "dropout3d": (3, 5, 2, 3, 4)}  # the others take (3, 5, 6, 7)
SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 10007)  # V - 1, V, V + 1, 2 V
KNOWN_ANSWERS = (  # counter, key, words: kat_vectors of Random123
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def philox(counter: list[np.ndarray], low: int, high: int) -> list[np.ndarray]:
    half, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = counter
    for _ in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (q >> shift) ^ b ^ np.uint64(low), q & half, (p >> shift) ^ d ^ np.uint64(high), p & half
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def words(n: int, seed: int) -> Tensor:
    """The first ``n`` words of the stream ``seed``."""
    block = np.arange((n + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(block)
    stream = philox([block, zero, zero, zero], seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    return torch.from_numpy(np.stack(stream, 1).reshape(-1)[:n].astype(np.int64)).to(DEVICE)


def kept(n: int, seed: int, p: float) -> Tensor:
    return words(n, seed) >= round(p * 2**32)


def sample(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPES.get(name, (3, 5, 6, 7))).to(dtype)


def seeded(name: str, p: float = 0.4, seed: int = 11, **more: Any) -> Callable[[Tensor], Tensor]:
    """The function with the same seed in each call."""

    def call(x: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return getattr(F, name)(x, p, training=True, **more)

    return call


# ---- the generator ------------------------------------------------------------------------------------------------


def test_known_answers() -> None:
    for counter, key, expected in KNOWN_ANSWERS:
        result = philox([np.array([part], dtype=np.uint64) for part in counter], *key)
        assert [int(word[0]) for word in result] == list(expected)


@dtypes
@pytest.mark.parametrize("seed", [0, 1, 2**62 + 12345, -1])
def test_decisions_are_philoxs(dtype: torch.dtype, seed: int) -> None:
    """Each element's own word decides, in every dtype and at every size."""
    for n in SIZES:
        y = op(torch.ones(n, dtype=dtype), torch.tensor(seed), 0.3, 1.5, 0.0, 0.0, False, [])
        assert torch.equal(y, kept(n, seed, 0.3).to(dtype) * 1.5)


def test_words_are_uniform() -> None:
    """Decisions at thresholds k / 64 of the same words count how many fall between them."""
    n, bins = 2**20, 64
    dropped = [
        int((op(torch.ones(n), torch.tensor(5), k / bins, 1.0, 0.0, 0.0, False, []) == 0).sum()) for k in range(bins)
    ]
    counts = np.diff([*dropped, n])
    assert ((counts - n / bins) ** 2 / (n / bins)).sum() < chi_square_limit(bins - 1)


@pytest.mark.parametrize("p", [1e-9, 0.001, 0.1, 0.5, 0.9, 0.999])
@dtypes
def test_rate(dtype: torch.dtype, p: float) -> None:
    n = 2**20
    dropped = int((F.dropout(torch.ones(n, dtype=dtype), p) == 0).sum())
    assert abs(dropped - n * p) <= count_limit(n, p) + (p < 1e-6)


def test_rate_is_right_to_two_to_the_minus_32() -> None:
    """A threshold equal to the least word drops nothing, the next one drops one element."""
    n = 2**16
    least = int(words(n, 3).min())
    for p, dropped in ((least / 2**32, 0), ((least + 1) / 2**32, 1)):
        y = op(torch.ones(n), torch.tensor(3), p, 1.0, 0.0, 0.0, False, [])
        assert int((y == 0).sum()) == dropped


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_positions_are_independent(p: float) -> None:
    """Disjoint pairs at many distances, and the number of runs."""
    n = 2**20
    dropped = (F.dropout(torch.ones(n), p) == 0).long()
    expected = torch.tensor([(1 - p) ** 2, p * (1 - p), p * (1 - p), p * p]) * (n // 2)
    for lag in (1, 2, 4, 8, 16, 32, 64, 256, 4096, 65536):
        pairs = dropped.view(-1, 2, lag)
        counts = torch.bincount((2 * pairs[:, 0] + pairs[:, 1]).flatten(), minlength=4)
        assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_limit(3), lag
    changes, q = int((dropped[1:] != dropped[:-1]).sum()), p * (1 - p)
    variance = n * (2 * q * (1 - 2 * q) + 2 * (q - 4 * q * q))
    assert abs(changes - 2 * q * (n - 1)) < count_limit(4 * variance, 0.5)


def test_calls_and_seeds_are_independent() -> None:
    n, p = 2**18, 0.5
    x = torch.ones(n)
    masks = [F.dropout(x, p) == 0 for _ in range(4)]
    for seed in (0, 1, 2, 3):
        masks.append(op(x, torch.tensor(seed), p, 1.0, 0.0, 0.0, False, []) == 0)
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs(int((a & b).sum()) - n * p * p) < count_limit(n, p * p)


# ---- what is exact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_manual_seed_reproduces(name: str) -> None:
    x = sample(name)
    assert torch.equal(seeded(name)(x), seeded(name)(x))
    assert not torch.equal(seeded(name)(x), seeded(name, seed=12)(x))


@dtypes
@pytest.mark.parametrize("name", ALL)
def test_values(name: str, dtype: torch.dtype) -> None:
    """Of two possible ones, that of native for kept and that of native for dropped elements."""
    x, p = sample(name, dtype), 0.3
    mask = _slope(seeded(name, p), x) != 0
    assert 0 < int(mask.sum()) < mask.numel()
    if name in CHANNELS:
        flat = mask.flatten(2)
        assert torch.equal(flat, flat[:, :, :1].expand(flat.shape))
    scale, shift, low = 1 / (1 - p), 0.0, 0.0
    if "alpha" in name:
        alpha = -1.7580993408473766
        scale = ((alpha**2 * p + 1) * (1 - p)) ** -0.5
        shift, low = -alpha * scale * p, alpha * scale * (1 - p)
    expected = torch.where(mask, x.double() * scale + shift, low)
    difference = (seeded(name, p)(x).double() - expected).abs()
    assert bool((difference <= torch.finfo(dtype).eps * (x.double().abs() * scale + abs(shift) + abs(low))).all())


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What each element is multiplied by: 0 where it is dropped, in the layout of the function's result."""
    return function(torch.ones_like(x)) - function(torch.zeros_like(x))


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = torch.randn(2**20)
    for p in (0.1, 0.5):
        y = F.alpha_dropout(x, p, training=True)
        assert abs(float(y.mean())) < 0.01
        assert abs(float(y.var()) - 1) < 0.01


@dtypes
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("inplace", [False, True])
def test_without_randomness_it_is_native(name: str, dtype: torch.dtype, inplace: bool) -> None:
    x = sample(name, dtype)
    x.view(-1)[0] = float("nan")
    for p, training in ((0.0, True), (1.0, True), (0.3, False), (0, True), (1, True)):
        ours, theirs = (
            getattr(library, name)(x.clone(), p, training=training, inplace=inplace) for library in (F, native)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        assert (getattr(F, name)(x, p, training=training) is x) == (p == 0 or not training)


@dtypes
def test_special_values(dtype: torch.dtype) -> None:
    """As native's product with a mask: a NaN or an infinity that is dropped is NaN, zeros keep their signs."""
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, -1.0, 1.0], dtype=dtype).repeat(9)
    seed = torch.tensor(2)
    y = op(x, seed, 0.5, 2.0, 0.0, 0.0, False, [])
    expected = x * (kept(x.numel(), 2, 0.5).to(dtype) * 2)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(y)[~y.isnan()], torch.signbit(expected)[~y.isnan()])


@dtypes
@pytest.mark.parametrize("name", ALL)
def test_layouts(name: str, dtype: torch.dtype) -> None:
    """Strides as native's; the backward's mask is the forward's though the gradient lies otherwise."""
    base = torch.randn(4, 6, 5, 8).to(dtype)
    layouts = [
        base.contiguous(memory_format=torch.channels_last),
        base.permute(3, 1, 0, 2),
        base[:, 1:3, ::2],
        base[:, :1].expand(4, 6, 5, 8),
        base[:0],
        base[:, :0],
        torch.randn(2, 300, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 3, 1, 1).to(dtype),
        torch.randn(2, 3, 70, 70).to(dtype),
    ]
    if name in ("dropout1d", "feature_alpha_dropout"):
        layouts = [x.flatten(2) if x.is_contiguous() else x[..., 0] for x in layouts]
    if name == "dropout3d":
        layouts = [x.unsqueeze(2).expand(-1, -1, 2, -1, -1) for x in layouts]
        layouts.append(torch.randn(2, 6, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last_3d))
    for x in layouts:
        leaf = x.detach().requires_grad_()
        y = seeded(name)(leaf)
        if name in ELEMENTS and x.numel():
            assert y.stride() == getattr(native, name)(x, 0.4, training=True).stride()
        slope = _slope(seeded(name), y)
        backwards = torch.randn(x.shape[::-1]).to(dtype).permute(*range(x.dim())[::-1])
        for grad_y in (torch.randn(x.shape).to(dtype), backwards):
            (grad_x,) = torch.autograd.grad(y, leaf, grad_y, retain_graph=True)
            torch.testing.assert_close(grad_x, grad_y * slope, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-2)
            assert torch.equal(grad_x == 0, (slope == 0) | (grad_y == 0))
        (grad_x,) = torch.autograd.grad(y.sum(), leaf)  # a gradient of stride 0
        assert torch.equal(grad_x == 0, slope == 0)


@pytest.mark.parametrize("channels", [1, 3, 7, 16, 300, 5000])
def test_channels_agree_between_layouts(channels: int) -> None:
    x = torch.randn(3, channels, 9, 5)
    y = seeded("dropout2d")(x)
    assert torch.equal(seeded("dropout2d")(x.contiguous(memory_format=torch.channels_last)), y)
    torch.manual_seed(11)
    mask = kept(3 * channels, int(torch.randint(2**63 - 1, ())), 0.4)
    assert torch.equal(y, x * (mask.view(3, channels, 1, 1) * (1 / 0.6)))


@cpu_only
@pytest.mark.parametrize("name", ALL)
def test_any_number_of_threads(name: str) -> None:
    shapes = {"dropout1d": (300, 7, 301), "dropout3d": (30, 7, 3, 10, 101)}
    x = torch.randn(shapes.get(name, (300, 7, 301, 1)))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(seeded(name)(x))
        if x.dim() == 4:
            results.append(seeded(name)(x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)))
    torch.set_num_threads(1)
    assert all(torch.equal(result, results[0]) for result in results[:: 2 if x.dim() == 4 else 1])
    assert all(torch.equal(result, results[1]) for result in results[1 :: 2 if x.dim() == 4 else 1])


def digests() -> str:
    """Of results whose bits must not depend on the instruction set."""
    lines = []
    for dtype in DTYPES:
        x = torch.arange(1, 30_001).div(7).to(dtype)
        for n in (*SIZES, 30_000):
            lines.append(op(x[:n], torch.tensor(99), 0.37, 1 / 0.63, 0.0, 0.0, False, []))
            lines.append(op(x[:n] * 0, torch.tensor(99), 0.37, 1.3, 0.25, -0.75, False, []))
        image = x.view(10, 30, 20, 5)
        for order in ([], [0, 2, 3, 1]):
            lines.append(op(image, torch.tensor(99), 0.37, 1 / 0.63, 0.0, 0.0, True, order).contiguous())
            lines.append(op(image, torch.arange(10), 0.37, 1 / 0.63, 0.0, 0.0, False, order).contiguous())
    return "\n".join(hashlib.sha256(t.view(torch.uint8).numpy().tobytes()).hexdigest() for t in lines)


@cpu_only
@pytest.mark.parametrize("isa", nnart_ops.build_info()["cpu_isa_variants"].split())
def test_every_instruction_set_gives_the_same_bits(isa: str) -> None:
    assert run_on(isa, "import test_dropout; print(test_dropout.digests())") == digests()


@dtypes
def test_large_results_equal_their_parts(dtype: torch.dtype) -> None:
    """A large result is stored past the caches, a small one is not."""
    n = 2**22 // dtype.itemsize + 37
    x, seed = torch.randn(n).to(dtype), torch.tensor(4)
    y = op(x, seed, 0.3, 2.0, 0.0, 0.0, False, [])
    expected = x * (kept(n, 4, 0.3).to(dtype) * 2)
    assert torch.equal(y, expected)
    shifted = torch.cat([x[:1], x])[1:]  # not aligned to a vector
    assert torch.equal(op(shifted, seed, 0.3, 2.0, 0.0, 0.0, False, []), expected)
    torch.ops.nnart_ops.dropout_(shifted, seed, 0.3, 2.0, 0.0, 0.0, False, [])
    assert torch.equal(shifted, expected)


def test_seeds_of_parts() -> None:
    x = torch.ones(6, 5, 7)
    y = op(x, torch.tensor([3, 4, 5]), 0.4, 1.0, 0.0, 0.0, False, [])
    for part, seed in zip(y.split(2), (3, 4, 5)):
        assert torch.equal(part.flatten() == 1, kept(70, seed, 0.4))
    y = op(x, torch.tensor([3, 4, 5]), 0.4, 1.0, 0.0, 0.0, True, [])
    for part, seed in zip(y.split(2), (3, 4, 5)):
        assert torch.equal(part[..., 0].flatten() == 1, kept(10, seed, 0.4))


# ---- gradients, transforms, compilers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_kept(name: str) -> None:
    x = sample(name).requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        getattr(F, name)(x, 0.3, training=True)
        getattr(F, name)(x * 1, 0.3, training=True, inplace=True)
    assert sizes == [1, 1]


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name: str) -> None:
    x = sample(name)[:2, :3].requires_grad_()
    assert torch.autograd.gradcheck(seeded(name), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(seeded(name), x)


@pytest.mark.parametrize("name", ALL)
def test_inplace(name: str) -> None:
    x = sample(name)
    expected = seeded(name)(x)
    for view in (x.clone(), torch.stack([x, x], -1)[..., 0]):
        version = view._version
        assert seeded(name, inplace=True)(view) is view
        assert torch.equal(view, expected)
        assert view._version > version
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    seeded(name, inplace=True)(leaf * 1).square().sum().backward()
    seeded(name)(other).square().sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        seeded(name, inplace=True)(leaf)


@pytest.mark.parametrize("name", ["dropout1d", "dropout3d"])
def test_unbatched(name: str) -> None:
    x = sample(name)[0]
    y = seeded(name)(x)
    assert torch.equal(y, seeded(name)(x[None])[0])
    other = x.clone()
    assert seeded(name, inplace=True)(other) is other
    assert torch.equal(other, y)


@pytest.mark.parametrize("name", ALL)
def test_randomness_of_vmap(name: str) -> None:
    xs = torch.ones(4, *sample(name).shape) + torch.rand(())
    for in_dim in (0, 1):
        x = xs.movedim(0, in_dim)
        run = lambda randomness, x=x, d=in_dim: torch.func.vmap(  # noqa: E731
            lambda v: getattr(F, name)(v, training=True), in_dims=d, randomness=randomness
        )(x)
        with pytest.raises(RuntimeError, match="randomness"):
            run("error")
        same, different = run("same"), run("different")
        assert torch.equal(same, same[:1].expand(same.shape))
        assert len({tuple(row.flatten().tolist()) for row in different}) == 4
    torch.manual_seed(11)
    same = torch.func.vmap(lambda v: getattr(F, name)(v, 0.4, training=True), randomness="same")(xs)
    assert torch.equal(same[0], seeded(name)(xs[0]))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_transforms(name: str, randomness: str) -> None:
    """The slope is the mask: of each example its own, in nested transforms, whatever the layout."""
    function = getattr(F, name)
    xs = torch.randn(3, *sample(name).shape, dtype=torch.float64)

    def value_and_slope(v: Tensor) -> tuple[Tensor, Tensor]:
        def total(v: Tensor) -> tuple[Tensor, Tensor]:
            y = function(v, training=True)
            return y.sum(), y

        grad, y = torch.func.grad(total, has_aux=True)(v)
        return grad, y

    def check(grad: Tensor, y: Tensor, x: Tensor) -> None:
        dropped = grad == 0
        assert 0 < int(dropped.sum()) < dropped.numel()
        torch.testing.assert_close(y[dropped], y[dropped][:1].expand_as(y[dropped]))
        slope, low = grad[~dropped][0], y[~dropped] - grad[~dropped] * x[~dropped]
        torch.testing.assert_close(grad[~dropped], slope.expand_as(low))
        torch.testing.assert_close(low, low[:1].expand_as(low))

    check(*torch.func.vmap(value_and_slope, randomness=randomness)(xs), xs)
    last = xs.movedim(0, -1)
    check(*(t.movedim(0, -1) for t in torch.func.vmap(value_and_slope, -1, randomness=randomness)(last)), last)
    nested = torch.func.vmap(torch.func.vmap(value_and_slope, randomness=randomness), randomness=randomness)
    twice = torch.stack([xs, xs + 1])
    check(*nested(twice), twice)
    tangent = torch.randn_like(xs[0])
    torch.manual_seed(11)
    _, slope = torch.func.jvp(lambda v: function(v, 0.4, training=True), (xs[0],), (tangent,))
    other = xs[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(seeded(name)(other).sum(), other)
    torch.testing.assert_close(slope, grad * tangent)
    jacobian = torch.func.jacrev(
        seeded(name),
    )(xs[0]).reshape(tangent.numel(), -1)
    torch.testing.assert_close(jacobian.diagonal(), grad.flatten())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("inplace", [False, True])
def test_compile_dynamic(name: str, inplace: bool) -> None:
    torch._dynamo.reset()

    def call(x: Tensor) -> Tensor:
        return getattr(F, name)(x * 1, 0.4, training=True, inplace=inplace)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    shape = sample(name).shape[1:]
    for size in (5, 9):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(size, *shape, dtype=torch.float64)
            if x.dim() == 4:
                x = x.contiguous(memory_format=memory_format)
            torch._dynamo.mark_dynamic(x, 0)
            x.requires_grad_()
            torch.manual_seed(11)
            y = compiled(x)
            (grad,) = torch.autograd.grad(y.sum(), x)
            other = x.detach().clone().requires_grad_()
            expected = seeded(name)(other)
            assert torch.equal(y, expected)
            assert y.stride() == expected.stride()
            assert torch.equal(grad, torch.autograd.grad(expected.sum(), other)[0])
            assert not torch.equal(compiled(x), y)  # another seed for each call


@pytest.mark.skipif(" " in torch.__file__, reason="torch's compiler does not quote its own path when it links")
def test_inductor_draws_a_seed_for_each_call() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: F.dropout(x, 0.4) + 1, fullgraph=True)
    x = torch.randn(50, 40, requires_grad=True)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        y = compiled(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad != 0, y != 1)
        results.append(y)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(compiled(x), compiled(x))


def test_checkpointing_draws_the_same_seed_again() -> None:
    x = torch.randn(100, requires_grad=True)
    for reentrant in (False, True):
        y = checkpoint(lambda v: F.dropout(v * 1), x, use_reentrant=reentrant, preserve_rng_state=True)
        (grad,) = torch.autograd.grad(y.sum(), x) if not reentrant else (None,)
        if reentrant:
            x.grad = None
            y.sum().backward()
            grad = x.grad
        assert torch.equal(grad != 0, y != 0)


# ---- torch's samples, modules, errors -------------------------------------------------------------------------------

INFOS = [
    info for info in op_db if info.name.removeprefix("nn.functional.") in ALL and info.name.startswith("nn.functional.")
]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: f"{info.name[14:]}-{info.variant_test_name}")
@pytest.mark.filterwarnings("ignore:dropout")
def test_torch_samples(info: Any) -> None:
    """OpInfo's samples: shapes, dtypes and strides are native's, and so are the values where nothing is random."""
    name = info.name.removeprefix("nn.functional.")
    for dtype in info.dtypes:
        for case in info.sample_inputs(DEVICE, dtype, requires_grad=False):
            ours, theirs = (getattr(m, name)(case.input, *case.args, **case.kwargs) for m in (F, native))
            assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
            p, training = case.kwargs.get("p", 0.5), case.kwargs.get("training", "alpha" not in name)
            if p in (0.0, 1.0) or not training:
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ALL)
def test_errors_are_torchs(name: str) -> None:
    """The same type and text for the same wrong arguments, out of place and in place."""
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        *(((torch.randn(2, 3, 4), p), {}) for p in (-0.1, 1.1, -1, 2, "a", None)),
        ((torch.ones(2, 3, 4, dtype=torch.int64), 0.5), {}),
        ((None, 0.5), {}),
        (([1.0], 0.5), {}),
        *(((torch.randn((2,) * dims), 0.5), {"inplace": flag}) for dims in range(7) for flag in (False, True)),
    ]
    for args, kwargs in wrong:
        outcomes = []
        for library in (F, native):
            x = args[0].clone() if isinstance(args[0], Tensor) else args[0]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    result = getattr(library, name)(x, args[1], training=True, **kwargs)
                except Exception as error:
                    outcomes.append((type(error), str(error), len(caught)))
                else:
                    outcomes.append((result.shape, result.dtype, [str(w.message) for w in caught]))
        assert outcomes[0] == outcomes[1], (args[1], kwargs)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("Dropout", "dropout"),
        ("Dropout1d", "dropout1d"),
        ("Dropout2d", "dropout2d"),
        ("Dropout3d", "dropout3d"),
        ("AlphaDropout", "alpha_dropout"),
        ("FeatureAlphaDropout", "feature_alpha_dropout"),
    ],
)
def test_modules(name: str, function: str) -> None:
    ours, theirs = (getattr(library, name)(0.4) for library in (nnart_ops, torch.nn))
    assert repr(ours) == repr(theirs)
    assert repr(getattr(nnart_ops, name)(inplace=True)) == repr(getattr(torch.nn, name)(inplace=True))
    for library in (nnart_ops, torch.nn):
        with pytest.raises(ValueError, match=r"dropout probability has to be between 0 and 1, but got 1\.5"):
            getattr(library, name)(1.5)
    x = sample(function)
    torch.manual_seed(11)
    assert torch.equal(ours(x), seeded(function)(x))
    assert type(nnart_ops.convert(theirs)) is getattr(nnart_ops, name)
    torch.manual_seed(11)
    assert torch.equal(pickle.loads(pickle.dumps(theirs))(x), seeded(function)(x))
    assert ours.eval()(x) is x
    for inplace in (getattr(library, name)(0.4, inplace=True) for library in (nnart_ops, torch.nn)):
        assert (inplace(y := x.clone()) is y) == ("Alpha" not in name)  # torch's alpha modules ignore inplace


def test_what_has_no_kernel_runs_native() -> None:
    class Marked(Tensor):
        pass

    x = torch.ones(50).as_subclass(Marked)
    results = []
    for library in (F, native):
        torch.manual_seed(1)
        results.append(library.dropout(x))
    assert torch.equal(*results)
    assert type(results[0]) is Marked
    assert F.dropout(torch.ones(3, device="meta")).is_meta


def test_messages_name_the_argument() -> None:
    x, seed, rest = torch.randn(4, 3), torch.tensor(1), (1.0, 0.0, 0.0)
    for match, args in (
        ("p must be at least 0 and less than 1, but is 1", (x, seed, 1.0, *rest, False, [])),
        ("seed must have dtype int64", (x, torch.tensor(1.0), 0.5, *rest, False, [])),
        (r"one for each of as many equal parts .* has sizes \[3\]", (x, torch.arange(3), 0.5, *rest, False, [])),
        ("order must be empty or have each of the 2 dimensions", (x, seed, 0.5, *rest, False, [0, 0])),
        ("to drop channels, order must be empty", (x[..., None], seed, 0.5, *rest, True, [2, 0, 1])),
        (r"x must have 2 dimensions or more to drop channels, but has sizes \[3\]", (x[0], seed, 0.5, *rest, True, [])),
        ("x has dtype int64; allowed are float32", (x.long(), seed, 0.5, *rest, False, [])),
    ):
        with pytest.raises(RuntimeError, match=match):
            op(*args)
