"""Parameters and state of few bits: what rounding takes from a parameter, and what a small state may lose."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from devices import DEVICE
from test_optim import give_gradients, parameters
from test_optim_options import EACH_CLASS

import nnart_ops
from nnart_ops.optim import SGD, AdamW, _quantized

# ---- low precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("cls", "options"), EACH_CLASS, ids=str)
def test_master_weights_are_the_float32_run(cls: type, options: dict, dtype: torch.dtype) -> None:
    low = [torch.nn.Parameter(p.detach().to(dtype)) for p in parameters(torch.float32)]
    exact = [torch.nn.Parameter(p.detach().float()) for p in low]
    optimizer, peer = cls(low, **options, low_precision="master"), cls(exact, **options)
    for step in range(5):
        give_gradients(low, step)
        for a, b in zip(low, exact):
            b.grad = a.grad.float()
        optimizer.step()
        peer.step()
    for a, b in zip(low, exact):
        assert torch.equal(optimizer.state[a]["master"], b)
        assert torch.equal(a, b.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kahan_keeps_what_rounding_takes(dtype: torch.dtype) -> None:
    """Updates of a thousandth of an ulp add up; without compensation none of them is seen."""
    start = torch.full((1000,), 1.0).to(dtype)
    ulp = torch.finfo(dtype).eps
    moved = {}
    for mode in (None, "kahan", "master"):
        p = torch.nn.Parameter(start.clone())
        optimizer = SGD([p], lr=ulp / 100, low_precision=mode)
        for _ in range(1000):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[mode] = (start.double() - p.detach().double()).mean().item()
    assert moved[None] == 0
    assert moved["kahan"] == pytest.approx(10 * ulp, rel=0.1)
    assert moved["master"] == pytest.approx(10 * ulp, rel=0.1)


VALUES = [1.0, -1.0, 1.001, -1.9999, 0.3, 3e-5, 5.9e-8, 1.7e-6, -2.2e-6, 0.0, 300.3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("update", [0.0, 1e-5, -0.3, 1.0])
def test_stochastic_rounding_keeps_the_mean(dtype: torch.dtype, update: float) -> None:
    """Each value goes to one of its two neighbours, and their mean is the value within five standard errors."""
    count = 20_000
    torch.manual_seed(0)
    for value in VALUES:
        start = torch.full((count,), value).to(dtype)
        target = start[0].double() + update * abs(value) * 2.0**-9
        p = torch.nn.Parameter(start.clone())
        # The update in float32, as the step computes it.
        change = float(target - start[0].double())
        p.grad = torch.full_like(p, -1.0 if change > 0 else 1.0)
        SGD([p], lr=abs(change), low_precision="stochastic").step()
        exact = (start[0].float() + torch.tensor(change, dtype=torch.float32)).double()
        got = p.detach().double()
        below, above = got.min().item(), got.max().item()
        assert below <= exact <= above
        assert len(got.unique()) <= 2
        if below == above:
            assert abs(exact - below) <= 2.0**-11 * abs(below) / 50 + 1e-12 or exact == below
            continue
        between, end = torch.tensor([below, math.inf], dtype=dtype, device="cpu")
        assert torch.nextafter(between, end).double() == above
        share = (exact - below) / (above - below)
        error = math.sqrt(share * (1 - share) / count) * (above - below)
        assert abs(got.mean().item() - exact) <= 5 * error + 1e-4 * (above - below)


def test_stochastic_rounding_is_seeded_and_leaves_infinities() -> None:
    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        p = torch.nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
        optimizer = AdamW([p], lr=1e-4, low_precision="stochastic")
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
        return p.detach()

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = run(1)
    torch.set_num_threads(before)
    assert torch.equal(one, run(1))
    assert not torch.equal(one, run(2))
    p = torch.nn.Parameter(torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.bfloat16))
    p.grad = torch.zeros_like(p)
    SGD([p], lr=1.0, low_precision="stochastic").step()
    assert p[0] == math.inf
    assert p[1] == -math.inf
    assert p[2].isnan()


@pytest.mark.parametrize("mode", [None, "kahan", "stochastic"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("count", [2, 31, 64, 1024 + 77])
def test_bfloat16_in_registers_is_what_the_buffers_give(mode: str | None, weight_decay: float, count: int) -> None:
    """A bound that no gradient reaches sends the same step through float32 buffers: every bit is the same."""
    results = []
    for bound in (None, 1e30):
        torch.manual_seed(3)
        p = torch.nn.Parameter(torch.randn(count).bfloat16())
        optimizer = AdamW([p], lr=0.01, weight_decay=weight_decay, low_precision=mode, max_grad_value=bound)
        for _ in range(3):
            p.grad = torch.randn(count).bfloat16()
            optimizer.step()
        results.append([p.detach(), *(v for v in optimizer.state[p].values() if v.numel() == count)])
    assert len(results[0]) == (4 if mode == "kahan" else 3)
    for fast, slow in zip(*results, strict=True):
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("count", [2, 31, 1024 + 77])
def test_bfloat16_state_is_the_float32_state_rounded(weight_decay: float, count: int) -> None:
    p = torch.nn.Parameter(torch.randn(count))
    optimizer = AdamW([p], lr=0.01, weight_decay=weight_decay, state_dtype=torch.bfloat16)
    for _ in range(3):
        p.grad = torch.randn(count)
        reference = torch.nn.Parameter(p.detach().clone())
        reference.grad = p.grad.clone()
        exact = AdamW([reference], lr=0.01, weight_decay=weight_decay)
        state = optimizer.state[p]
        exact.state[reference] = {name: v.float() if v.numel() == count else v.clone() for name, v in state.items()}
        optimizer.step()
        exact.step()
        assert torch.equal(p, reference)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name], exact.state[reference][name].bfloat16())


def test_plain_bfloat16_stalls_and_each_cure_trains() -> None:
    """A regression whose updates fall below half an ulp of its weights."""
    torch.manual_seed(0)
    x = torch.randn(512, 32)
    truth = torch.randn(32, 1) * 0.02 + 1.0
    y = x @ truth
    losses = {}
    for mode in ("float32", None, "master", "kahan", "stochastic"):
        w = torch.nn.Parameter(torch.ones(32, 1, dtype=torch.float32 if mode == "float32" else torch.bfloat16))
        optimizer = AdamW([w], lr=1e-3, weight_decay=0.0, low_precision=None if mode == "float32" else mode)
        for step in range(200):
            optimizer.zero_grad()
            rows = slice(step % 8 * 64, step % 8 * 64 + 64)
            ((x[rows] @ w.float() - y[rows]) ** 2).mean().backward()
            optimizer.step()
        final = optimizer.state[w].get("master", w.detach().float())
        if mode == "kahan":
            final = w.detach().float() + optimizer.state[w]["compensation"].float()
        losses[mode] = ((x @ final - y) ** 2).mean().item()
    start = ((x.sum(1, keepdim=True) - y) ** 2).mean().item()
    assert losses[None] > 0.3 * start  # it hardly moved
    assert losses["float32"] < 1e-3 * start
    assert losses["master"] < 0.01 * start
    assert losses["kahan"] < 0.01 * start
    assert losses["stochastic"] < 0.1 * start  # as near as bfloat16 can hold the weights


def test_averages_of_low_precision_weights_are_float32() -> None:
    for mode in (None, "master", "kahan", "stochastic"):
        p = torch.nn.Parameter(torch.ones(100, dtype=torch.bfloat16))
        optimizer = SGD([p], lr=1.0, ema_decay=0.5, low_precision=mode)
        average = torch.ones(100)
        for _ in range(3):
            p.grad = torch.full_like(p, 0.001953125 * 2)
            optimizer.step()
            exact = optimizer.state[p].get("master", p.detach().float())
            if mode == "kahan":
                exact = p.detach().float() + optimizer.state[p]["compensation"].float()
            average.lerp_(exact, 0.5)
        assert optimizer.state[p]["ema"].dtype is torch.float32
        assert torch.allclose(optimizer.state[p]["ema"], average)


# ---- state --------------------------------------------------------------------------------------------------------


def test_the_dynamic_map() -> None:
    for positive in (False, True):
        values = _quantized.dynamic_map(positive)
        assert len(values) == len(values.unique()) == 256
        assert values.max() == 1
        assert (values >= 0).all() == positive
    # The smallest and largest entries of bitsandbytes' create_dynamic_map.
    assert _quantized.dynamic_map(False)[128].item() == pytest.approx(5.5e-7)
    assert _quantized.dynamic_map(False)[0].item() == pytest.approx(-0.99296875)
    assert _quantized.dynamic_map(True)[1].item() == pytest.approx(3.25e-7)


@pytest.mark.parametrize("positive", [False, True])
def test_the_kernel_quantizes_to_the_nearest_value(positive: bool) -> None:
    """SGD's buffer after a step from zero is the gradient, Adagrad's its square: both as the table rounds them."""
    torch.manual_seed(0)
    n = 10_001
    grad = torch.randn(n) * 10.0 ** (torch.rand(n) * 8 - 7)
    grad[256:512] = 0
    p = torch.nn.Parameter(torch.zeros(n))
    p.grad = grad.clone()
    cls, options = (nnart_ops.optim.Adagrad, {}) if positive else (SGD, {"momentum": 0.9})
    optimizer = cls([p], lr=0.1, **options, state_dtype=torch.uint8)
    optimizer.step()
    name = "sum" if positive else "momentum_buffer"
    state = dict(optimizer.state[p])
    assert state[name + "_codes"].dtype is torch.uint8
    exact = grad.double() ** (2 if positive else 1)
    padded = torch.nn.functional.pad(exact, (0, -n % 256)).view(-1, 256)
    scales = padded.abs().amax(1)
    assert torch.allclose(state[name + "_scales"].double(), scales, rtol=1e-6)
    stored = _quantized.dequantize(state, name, positive, p).double()
    unit = exact / scales.repeat_interleave(256)[:n].clamp_min(1e-300)
    values = _quantized.dynamic_map(positive).to(DEVICE)
    nearest = (unit[:, None] - values).abs().min(1).values
    got = (unit - (stored / scales.repeat_interleave(256)[:n].clamp_min(1e-300))).abs()
    assert (got <= nearest + 1e-6 * unit.abs() + 1e-12).all()


@pytest.mark.parametrize(("cls", "options"), EACH_CLASS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_small_state_follows_the_large_one(
    cls: type, options: dict, dtype: torch.dtype, param_dtype: torch.dtype
) -> None:
    sizes = [(64, 65), (5000,), (17,)]
    ours, exact = parameters(param_dtype, sizes), parameters(param_dtype, sizes)
    optimizer = cls(ours, **options, state_dtype=dtype)
    peer = cls(exact, **options)
    start = [p.detach().clone() for p in exact]
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(exact, step)
        optimizer.step()
        peer.step()
    for a, b, s in zip(ours, exact, start):
        travelled = (b.detach() - s).double().norm()
        assert (a.detach() - b.detach()).double().norm() <= 0.35 * travelled
    if dtype is torch.uint8 and param_dtype is torch.float32:
        codes = [v for v in optimizer.state[ours[0]].values() if v.dtype is torch.uint8]
        full = [v for v in peer.state[exact[0]].values() if v.numel() > 1]
        assert len(codes) == len(full)
        assert sum(v.nbytes for v in optimizer.state[ours[0]].values()) < 0.27 * sum(v.nbytes for v in full) + 8


ROUND_TRIPS = [
    {"state_dtype": torch.bfloat16},
    {"state_dtype": torch.uint8},
    {"low_precision": "master", "ema_decay": 0.9},
    {"low_precision": "kahan", "state_dtype": torch.float32},
    {"low_precision": "master", "state_dtype": torch.uint8, "ema_decay": 0.5},
]


@pytest.mark.parametrize("extra", ROUND_TRIPS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_state_survives_saving_copying_and_pickling(extra: dict, dtype: torch.dtype) -> None:
    sizes = [(64, 65), (17,)]
    params = parameters(dtype, sizes)
    optimizer = AdamW(params, **extra)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    loaded = AdamW(loaded_params, **extra)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    copied = copy.deepcopy(optimizer)
    for step in range(3, 6):
        for kind in (optimizer, loaded, copied):
            give_gradients(kind.param_groups[0]["params"], step)
            kind.step()
    for kind in (loaded, copied):
        for a, b in zip(params, kind.param_groups[0]["params"]):
            assert torch.equal(a, b)
            assert optimizer.state[a].keys() == kind.state[b].keys()
            for key, value in optimizer.state[a].items():
                assert torch.equal(value, kind.state[b][key])
                assert value.dtype is kind.state[b][key].dtype


def test_state_changes_its_dtype_when_a_checkpoint_comes_from_another() -> None:
    params = parameters(torch.float32, [(64, 65)])
    plain = AdamW(params)
    give_gradients(params, 0)
    plain.step()
    exact = plain.state[params[0]]["exp_avg"].clone()
    small = AdamW(params, state_dtype=torch.uint8)
    small.load_state_dict(plain.state_dict())
    give_gradients(params, 1)
    small.step()
    assert "exp_avg" not in small.state[params[0]]
    back = AdamW(params)
    back.load_state_dict(small.state_dict())
    give_gradients(params, 2)
    back.step()
    value = back.state[params[0]]["exp_avg"]
    assert value.dtype is torch.float32
    assert value.shape == exact.shape
    # torch's own class does not take 8-bit state for its own.
    native = torch.optim.AdamW(params)
    native.load_state_dict(small.state_dict())
    with pytest.raises(KeyError):
        native.step()
