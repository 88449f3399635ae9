"""What only CUDA's kernels show of the optimizers: bits from run to run, on a GPU or emulated, and on a GPU graphs,
streams and a host that never waits. What a step computes is held to the tables of the other files."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from devices import DEVICE, cuda_kernels_only, gpu_only
from tolerances import SAME_FLOAT32, SAME_FLOAT64

import nnart_ops
from nnart_ops.optim import ASGD, LAMB, SGD, Adafactor, Adam, AdamW, NAdam

pytestmark = cuda_kernels_only

SIZES = [(3,), (1024,), (17, 5), (0,), (0, 4), (5000,), (64, 3, 7, 7), (33, 300), (100_001,)]
EVERYTHING = {"max_grad_norm": 1.0, "max_grad_value": 0.5, "ema_decay": 0.9}
VARIANTS: list[tuple[type, dict[str, Any], torch.dtype]] = [
    (AdamW, {}, torch.float32),
    (AdamW, {"amsgrad": True, **EVERYTHING}, torch.float64),
    (AdamW, {"state_dtype": torch.uint8, **EVERYTHING}, torch.float32),
    (AdamW, {"low_precision": "master", **EVERYTHING}, torch.bfloat16),
    (AdamW, {"low_precision": "stochastic", "state_dtype": torch.uint8}, torch.bfloat16),
    (Adam, {"low_precision": "kahan", **EVERYTHING}, torch.float16),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, **EVERYTHING}, torch.float32),
    (NAdam, {}, torch.float32),
    (ASGD, EVERYTHING, torch.float64),
    (LAMB, EVERYTHING, torch.float32),
    (Adafactor, EVERYTHING, torch.float32),
    (Adafactor, {"low_precision": "master"}, torch.bfloat16),
]


def _parameters(dtype: torch.dtype, device: str = DEVICE) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, device="cpu").to(device, dtype)) for s in SIZES]


def _give_gradients(params: list[torch.nn.Parameter], step: int) -> None:
    """In place where there are gradients, as a captured step has it."""
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        grad = torch.randn(p.shape, generator=generator, device="cpu").to(p.device, p.dtype)
        p.grad = grad if p.grad is None else p.grad.copy_(grad)


def _everything(optimizer: Any) -> list[torch.Tensor]:
    params = optimizer.param_groups[0]["params"]
    return [*params, *(v for p in params for v in optimizer.state.get(p, {}).values())]


def _same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(_everything(a), _everything(b), strict=True))


@contextmanager
def _without_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("cls", "options", "dtype"), VARIANTS, ids=str)
def test_the_same_bits_again_and_the_cpus_numbers(cls: type, options: dict, dtype: torch.dtype) -> None:
    runs = []
    for device in (DEVICE, DEVICE, "cpu"):
        torch.manual_seed(0)
        params = _parameters(dtype, device)
        optimizer = cls(params, **options)
        for step in range(5):
            before = [p.grad for p in params]  # held, so that new ones lie elsewhere
            if step == 3:
                for p in params:
                    p.grad = None
            _give_gradients(params, step)
            optimizer.step()
            del before
        runs.append(optimizer)
    assert _same(runs[0], runs[1])
    limits = SAME_FLOAT64 if dtype is torch.float64 else SAME_FLOAT32
    if options.get("state_dtype") is not None:
        limits = {"rtol": 1e-2, "atol": 1e-2}  # a last bit decides between two codes
    elif dtype in (torch.bfloat16, torch.float16):
        limits = {"rtol": torch.finfo(dtype).eps, "atol": 1e-3}
    for a, b in zip(runs[0].param_groups[0]["params"], runs[2].param_groups[0]["params"], strict=True):
        assert torch.allclose(a.cpu(), b, **limits)


@gpu_only
def test_stochastic_rounding_draws_the_cpus_numbers() -> None:
    results = []
    for device in ("cuda", "cpu"):
        torch.manual_seed(5)
        p = torch.nn.Parameter(torch.linspace(-2, 2, 5001).bfloat16().to(device))
        optimizer = SGD([p], lr=2.0**-10, low_precision="stochastic")
        for _ in range(3):
            p.grad = torch.ones_like(p)  # every product and sum is exact
            optimizer.step()
        results.append(p.detach().cpu())
    assert torch.equal(*results)


@pytest.mark.parametrize("offset", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_addresses_that_are_not_aligned(offset: int, dtype: torch.dtype) -> None:
    """The same numbers from memory that begins between two packs."""
    results = []
    for shift in (0, offset):
        torch.manual_seed(0)
        memory = torch.randn(5000, device=DEVICE).to(dtype)
        p = torch.nn.Parameter(torch.cat([memory.new_zeros(shift), memory])[shift:])
        grad = torch.cat([memory.new_zeros(shift), memory])[shift:]
        optimizer = AdamW([p], lr=0.1, ema_decay=0.5, max_grad_norm=1.0, zero_grad_in_step=True)
        for _ in range(2):
            p.grad = grad.clone() if shift == 0 else torch.cat([memory.new_zeros(shift), memory])[shift:]
            optimizer.step()
            assert not p.grad.any()
        results.append([p.detach(), optimizer.state[p]["ema"], optimizer.grad_norm])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@gpu_only
@pytest.mark.parametrize(("cls", "options", "dtype"), VARIANTS, ids=str)
def test_a_step_is_captured_and_replayed(cls: type, options: dict, dtype: torch.dtype) -> None:
    """Counters, rates of change and averages go on from replay to replay, between eager steps with other gradients."""
    if options.get("low_precision") == "stochastic":
        pytest.skip("a graph draws the numbers of its capture again")
    params, peers = _parameters(dtype), _parameters(dtype)
    optimizer, peer = cls(params, **options), cls(peers, **options)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _give_gradients(params, 0)
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    static = [torch.zeros_like(p) for p in params]
    for p, grad in zip(params, static):
        p.grad = grad
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(1, 6):
        if step in (2, 4):
            for p in params:
                p.grad = None
            _give_gradients(params, step)
            optimizer.step()
        else:
            for p, grad in zip(params, static):
                p.grad = grad
            _give_gradients(params, step)
            graph.replay()
    for step in range(6):
        _give_gradients(peers, step)
        peer.step()
    assert _same(optimizer, peer)


@gpu_only
def test_a_learning_rate_in_the_gpus_memory_is_read_at_each_replay() -> None:
    params, peers = _parameters(torch.float64), _parameters(torch.float64)
    lr = torch.tensor(0.1, device="cuda")
    optimizer = AdamW(params, lr=lr, capturable=True)
    peer = torch.optim.AdamW(peers, lr=0.1, foreach=False)
    _give_gradients(params, 0)
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(4):
        rate = 0.1 / (step + 1)
        lr.fill_(rate)
        peer.param_groups[0]["lr"] = lr.item()
        if step:
            _give_gradients(params, step)
            graph.replay()
        _give_gradients(peers, step)
        peer.step()
    for a, b in zip(params, peers):
        assert torch.allclose(a, b, **SAME_FLOAT64)


@gpu_only
@pytest.mark.parametrize(("cls", "options", "dtype"), VARIANTS, ids=str)
def test_the_host_does_not_wait(cls: type, options: dict, dtype: torch.dtype) -> None:
    params = _parameters(dtype)
    optimizer = cls(params, **options)
    scaler = nnart_ops.optim.GradScaler("cuda", init_scale=4.0, growth_interval=1)
    scaler.scale(torch.ones((), device="cuda"))
    for step in range(3):
        _give_gradients(params, step)
        with _without_waiting() if step else torch.no_grad():
            optimizer.step()
            norm = optimizer.grad_norm
            scaler.step(optimizer)
            scaler.update()
        assert (norm is None) == (options.get("max_grad_norm") is None)
    assert scaler.get_scale() == 4.0 * 2**3


@gpu_only
@pytest.mark.parametrize("fused", [False, True])
def test_checkpoints_of_torchs_steps_on_either_side(fused: bool) -> None:
    """Counters come from the CPU and from the GPU, and go back to torch's own."""
    params, peers = _parameters(torch.float32), _parameters(torch.float32)
    peer = torch.optim.AdamW(peers, fused=fused)
    for step in range(3):
        _give_gradients(peers, step)
        peer.step()
    with torch.no_grad():
        for a, b in zip(params, peers):
            a.copy_(b)
    optimizer = AdamW(params)
    optimizer.load_state_dict(copy.deepcopy(peer.state_dict()))
    for step in range(3, 6):
        for given, kind in ((params, optimizer), (peers, peer)):
            _give_gradients(given, step)
            kind.step()
    peer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for given, kind in ((params, optimizer), (peers, peer)):
        _give_gradients(given, 6)
        kind.step()
    for a, b in zip(params, peers):
        assert torch.allclose(a, b, **SAME_FLOAT32)
        assert optimizer.state[a]["step"].item() == peer.state[b]["step"].item() == 7


@gpu_only
def test_the_current_stream() -> None:
    p = torch.nn.Parameter(torch.zeros(1 << 20, device="cuda"))
    p.grad = torch.zeros_like(p)
    optimizer = SGD([p], lr=1.0)
    optimizer.step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        p.grad.fill_(1.0)
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(p, torch.full_like(p, -1.0))


@gpu_only
def test_many_tensors_and_groups() -> None:
    """More than the arguments of one launch hold."""
    sizes = [(1 + i % 7,) for i in range(1100)]
    results = []
    for kind in (AdamW, torch.optim.AdamW):
        params = [torch.nn.Parameter(torch.full(size, 1.0, device="cuda")) for size in sizes]
        groups = [{"params": params[i : i + 11], "lr": 1e-3 * (i + 1)} for i in range(0, len(params), 11)]
        optimizer = kind(groups)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, float(i - 500 + step))
            optimizer.step()
        results.append(torch.cat([p.detach() for p in params]))
    assert torch.allclose(*results, **SAME_FLOAT32)


@gpu_only
def test_parameters_on_two_devices_take_torchs_own_step() -> None:
    params = [torch.nn.Parameter(torch.ones(3, device=device)) for device in ("cuda", "cpu")]
    for p in params:
        p.grad = torch.ones_like(p)
    SGD(params, lr=0.5).step()
    assert all(p.tolist() == [0.5] * 3 for p in params)
    with pytest.raises(RuntimeError, match="several devices"):
        SGD(params, lr=0.5, max_grad_norm=1.0).step()
