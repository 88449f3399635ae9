"""Muon and Adafactor, where the update of an element depends on the rest of its matrix, against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import cpu_only, threads
from test_optim import DTYPES, give_gradients, parameters
from tolerances import SAME_FLOAT32, SAME_FLOAT64, TWICE_NATIVE, updates_limit

from nnart_ops.optim import Adafactor, Muon


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1, "nesterov": False, "weight_decay": 0.0}, {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_muon(options: dict, dtype: torch.dtype) -> None:
    """Matrices multiplied as a batch, one by one and by halves, wide and tall; its state is torch's both ways."""
    shapes: list[tuple[int, ...]] = [(5, 9), (9, 5), (5, 9), (160, 130), (1, 4), (700, 530)]
    ours, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    optimizer, peer = Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        peer.step()
        if step == 1:
            states = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(peer.state_dict())
            optimizer.load_state_dict(states[1])
            peer.load_state_dict(states[0])
    # The iteration is bfloat16's on both sides, and so is what an operand's last bit does to it.
    limit = 2.0**-6 * options.get("lr", 1e-3) * 4 * 6 + (2.0**-3 if dtype is torch.bfloat16 else 0)
    for a, b in zip(ours, theirs):
        assert (a - b).abs().max() <= limit


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.3, "weight_decay": 0.1, "d": 1.5, "maximize": True}, {"eps": (1e-5, 0.1), "beta2_decay": -0.5}],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adafactor(options: dict, dtype: torch.dtype) -> None:
    """Scalars, vectors, wide and tall matrices, batches of small ones; its state is torch's both ways."""
    shapes: list[tuple[int, ...]] = [(), (1,), (5,), (5000,), (3, 4), (300, 7), (7, 700), (6, 5, 3, 3), (2, 1, 4)]
    # Matrices of one element, in chunks, with lines longer than a tile; and several of the chunked ones.
    shapes += [(40, 30, 1, 1), (300, 70), (20, 2500), (3, 200, 90)]
    ours, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    exact = [torch.nn.Parameter(p.detach().to(torch.float64, copy=True)) for p in ours]
    optimizer, peer = Adafactor(ours, **options), torch.optim.Adafactor(theirs, foreach=False, **options)
    least = options.get("eps", (torch.finfo(dtype).eps, 1e-3))
    oracle = torch.optim.Adafactor(exact, foreach=False, **{**options, "eps": least})
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for a, b in zip(ours, exact):
            b.grad = a.grad.double()
        for kind in (optimizer, peer, oracle):
            kind.step()
        if step == 2 and dtype is not torch.bfloat16:
            states = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(peer.state_dict())
            optimizer.load_state_dict(states[1])
            peer.load_state_dict(states[0])
    for a, b, c in zip(ours, theirs, exact):
        if dtype in (torch.float32, torch.float64):
            assert torch.allclose(a, b, **(SAME_FLOAT64 if dtype is torch.float64 else SAME_FLOAT32))
        elif a.numel():
            native_error = (b - c).abs().nan_to_num(0.0).max()  # in float16 eps squared is 0 there
            limit = TWICE_NATIVE * native_error + updates_limit(dtype, 6, c.abs().max().item())
            assert (a - c).abs().max() <= limit
    for p, q in zip(ours, theirs):
        assert optimizer.state[p].keys() == peer.state[q].keys()
        assert all(optimizer.state[p][key].shape == peer.state[q][key].shape for key in optimizer.state[p])


@pytest.mark.parametrize("size", [1e-3, 1e-5, 0.0])
def test_adafactor_of_gradients_below_eps(size: float) -> None:
    """There the rows' mean is replaced by eps[0], also where a row has one element and would cancel."""
    shapes: list[tuple[int, ...]] = [(7, 5, 1, 1), (3, 4, 3, 3), (40, 300), (9,)]
    ours, theirs = parameters(torch.float64, shapes), parameters(torch.float64, shapes)
    optimizer, peer = Adafactor(ours, eps=(1e-6, 1e-3)), torch.optim.Adafactor(theirs, eps=(1e-6, 1e-3), foreach=False)
    for step in range(3):
        for each in (ours, theirs):
            give_gradients(each, step)
            for p in each:
                p.grad.mul_(size)
        optimizer.step()
        peer.step()
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, **SAME_FLOAT64)


def test_adafactor_passes_over_empty_matrices() -> None:
    """torch's own divides by their number of elements."""
    results = []
    for empty in ([], [(0, 4), (4, 0), (0, 3, 3), (0, 300, 70)]):
        given = parameters(torch.float32, [*empty, (30, 40)])
        optimizer = Adafactor(given, lr=0.1)
        given[-1].grad = torch.ones_like(given[-1])
        for p in given[:-1]:
            p.grad = torch.zeros_like(p)
        start = given[-1].detach().clone()
        optimizer.step()
        results.append(given[-1].detach() - start)
    assert torch.allclose(*results, **SAME_FLOAT32)


@cpu_only
def test_adafactor_does_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2, 3):
        given = parameters(torch.float32, [(300, 701), (64, 32, 3, 3), (33000,), (5, 100, 200)])
        optimizer = Adafactor(given, lr=0.1)
        with threads(count):
            for step in range(2):
                give_gradients(given, step)
                optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in given]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_adafactor_with_everything_and_any_layout() -> None:
    shapes: list[tuple[int, ...]] = [(6, 5, 3, 3), (40, 30)]
    ours, theirs = parameters(torch.float64, shapes), parameters(torch.float64, shapes)
    ours[0] = torch.nn.Parameter(ours[0].detach().to(memory_format=torch.channels_last))
    ours[1] = torch.nn.Parameter(ours[1].detach().t().contiguous().t())
    optimizer = Adafactor(ours, lr=0.1, max_grad_norm=1.0, max_grad_value=0.01, ema_decay=0.5, zero_grad_in_step=True)
    peer = torch.optim.Adafactor(theirs, lr=0.1)
    averages = [p.detach().clone() for p in theirs]
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        torch.nn.utils.clip_grad_value_(theirs, 0.01)
        optimizer.step()
        peer.step()
        assert not any(p.grad.any() for p in ours)
        for average, p in zip(averages, theirs):
            average.lerp_(p.detach(), 0.5)
    for a, b, average in zip(ours, theirs, averages):
        assert torch.allclose(a, b, **SAME_FLOAT64)
        assert torch.allclose(optimizer.state[a]["ema"], average, **SAME_FLOAT64)
    with pytest.raises(ValueError, match=r"state_dtype is torch\.bfloat16"):
        Adafactor(ours, state_dtype=torch.bfloat16)


def test_muon_refuses_what_it_cannot() -> None:
    with pytest.raises(ValueError, match="2D"):
        Muon([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=r"state_dtype is torch\.uint8"):
        Muon([torch.nn.Parameter(torch.ones(3, 3))], state_dtype=torch.uint8)


def test_muon_with_everything() -> None:
    ours, theirs = parameters(torch.float64, [(5, 9), (9, 5)]), parameters(torch.float64, [(5, 9), (9, 5)])
    optimizer = Muon(ours, lr=0.1, max_grad_norm=1.0, max_grad_value=0.1, ema_decay=0.5, zero_grad_in_step=True)
    peer = torch.optim.Muon(theirs, lr=0.1)
    averages = [p.detach().clone() for p in theirs]
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        torch.nn.utils.clip_grad_value_(theirs, 0.1)
        optimizer.step()
        peer.step()
        assert optimizer.grad_norm.item() == pytest.approx(norm.item())
        assert not any(p.grad.any() for p in ours)
        for average, p in zip(averages, theirs):
            average.lerp_(p.detach(), 0.5)
    for a, b, average in zip(ours, theirs, averages):
        assert torch.allclose(a, b, atol=0.02)
        assert torch.allclose(optimizer.state[a]["ema"], average, atol=0.02)
