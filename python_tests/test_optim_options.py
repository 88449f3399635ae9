"""What a step does besides the rule: clipping, unscaling, averaging, zeroing; and the rest of PyTorch around it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from devices import DEVICE
from test_optim import CASES, SHAPES, TORCH, give_gradients, parameters
from tolerances import SAME_FLOAT32, SAME_FLOAT64

import nnart_ops
from nnart_ops.optim import LAMB, SGD, Adam, AdamW, Lion

LARGE = [(100_001,), (7,), (300, 301), (0,), (16, 3, 3, 3)]
EACH_CLASS = [next(case for case in CASES if case[0] is cls) for cls in dict.fromkeys(cls for cls, _ in CASES)]


def check(ours: Any, expected: Any, dtype: torch.dtype = torch.float64) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, **(SAME_FLOAT64 if dtype is torch.float64 else SAME_FLOAT32))


@pytest.mark.parametrize(("cls", "options"), EACH_CLASS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_everything_at_once_is_one_thing_after_the_other(cls: type, options: dict, threads: int) -> None:
    """Unscale, clip by norm, clip by value, step, average, zero: in one pass as with torch's separate ones."""
    max_norm, max_value, decay, scale = 3.0, 0.05, 0.9, 8.0
    ours, theirs = parameters(torch.float64, LARGE), parameters(torch.float64, LARGE)
    groups = [{"params": ours[:2]}, {"params": ours[2:], "lr": 0.02}]
    optimizer = cls(
        groups,
        **options,
        max_grad_norm=max_norm,
        max_grad_value=max_value,
        ema_decay=decay,
        zero_grad_in_step=True,
    )
    peer = cls([{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.02}], **options)
    averages = [p.detach().clone() for p in theirs]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in range(6):
            give_gradients(ours, step)
            give_gradients(theirs, step)
            for p in ours:
                p.grad.mul_(scale)
            optimizer.grad_scale = torch.tensor(scale)
            optimizer.step()
            norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            torch.nn.utils.clip_grad_value_(theirs, max_value)
            peer.step()
            for average, p in zip(averages, theirs):
                average.lerp_(p.detach(), 1 - decay)
            assert optimizer.grad_norm.item() == pytest.approx(norm.item(), rel=1e-6)
            assert all(not p.grad.any() for p in ours)
    finally:
        torch.set_num_threads(before)
    check(ours, theirs)
    check([optimizer.state[p]["ema"] for p in ours], averages)


def test_groups_have_their_own() -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    optimizer = AdamW(
        [
            {"params": ours[:4], "max_grad_value": 0.1},
            {"params": ours[4:], "ema_decay": 0.5, "zero_grad_in_step": True},
        ],
        max_grad_value=0.3,
    )
    peer = torch.optim.AdamW(theirs)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        torch.nn.utils.clip_grad_value_(theirs[:4], 0.1)
        torch.nn.utils.clip_grad_value_(theirs[4:], 0.3)
        optimizer.step()
        peer.step()
        optimizer.param_groups[1]["ema_decay"] = 0.25  # the next step reads it
    check(ours, theirs)
    assert all("ema" not in optimizer.state[p] for p in ours[:4])
    assert all("ema" in optimizer.state[p] for p in ours[4:])
    assert all(p.grad.any() for p in ours[:4] if p.numel())
    assert not any(p.grad.any() for p in ours[4:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_norm_is_exact_and_does_not_depend_on_threads(dtype: torch.dtype) -> None:
    params = parameters(dtype, LARGE)
    give_gradients(params, 0)
    exact = torch.cat([p.grad.double().flatten() for p in params]).norm()
    norms = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        optimizer = SGD(params, lr=0.0, max_grad_norm=1.0)
        optimizer.step()
        norms.append(optimizer.grad_norm.item())
    torch.set_num_threads(before)
    assert norms[0] == norms[1]
    assert norms[0] == pytest.approx(exact.item(), rel=2e-7)


def test_squares_that_overflow_are_no_overflow() -> None:
    p = torch.nn.Parameter(torch.zeros(2000))
    p.grad = torch.full((2000,), 1e30)
    optimizer = SGD([p], lr=1.0, max_grad_norm=1.0)
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(1e30 * math.sqrt(2000), rel=1e-6)
    assert p.norm().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("cls", "options"), EACH_CLASS, ids=str)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("scaler_class", [torch.amp.GradScaler, nnart_ops.optim.GradScaler])
def test_a_step_with_bad_gradients_changes_nothing(cls: type, options: dict, bad: float, scaler_class: type) -> None:
    params = parameters(torch.float32)
    optimizer = cls(params, **options, ema_decay=0.9, low_precision="master")
    scaler = scaler_class(DEVICE, init_scale=4.0)
    scaler.scale(torch.ones(()))
    good = 0
    for step in range(5):
        give_gradients(params, step)
        if step in (0, 3):
            params[8].grad[4321] = bad
        before = copy.deepcopy((params, optimizer.state_dict()))
        scaler.step(optimizer)
        scaler.update()
        after = (params, optimizer.state_dict())
        if step == 0 and DEVICE == "cuda":
            # State is made before the GPU has said that the step is none, and is what it would be made as again.
            torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
            assert all(state.get("step", 0) == 0 for state in optimizer.state.values())
        elif step in (0, 3):
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            good += 1
            assert not torch.equal(params[8], before[0][8])
    assert scaler.get_scale() == 1.0
    assert all(state.get("step", good) == good for state in optimizer.state.values())


@pytest.mark.parametrize("scaler_class", [torch.amp.GradScaler, nnart_ops.optim.GradScaler])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_trains_as_without(scaler_class: type, unscale: bool) -> None:
    results = []
    for scaled in (False, True):
        params = parameters(torch.float32, [(3,), (5, 4)])
        optimizer = AdamW(params, lr=0.1, max_grad_norm=1.0)
        scaler = scaler_class(DEVICE, init_scale=4096.0, enabled=scaled)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(sum((p * p * (step + 1)).sum() for p in params)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        results.append([*params, optimizer.grad_norm])
    check(*results, dtype=torch.float32)


def test_native_fallback_unscales_and_skips() -> None:
    """A sparse gradient takes torch's own step, which knows nothing of scales."""
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    start = embedding.weight.detach().clone()
    optimizer = SGD(embedding.parameters(), lr=0.5)
    scaler = nnart_ops.optim.GradScaler(DEVICE, init_scale=4.0)
    for factor in (1.0, math.inf):
        optimizer.zero_grad()
        scaler.scale(embedding(torch.tensor([1])).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    expected = start.clone()
    expected[1] -= 0.5
    assert torch.allclose(embedding.weight, expected)
    assert scaler.get_scale() == 2.0


def test_what_the_kernels_do_not_take_is_an_error_with_options() -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"SGD with max_grad_norm updates dense .* a gradient is torch.sparse_coo"):
        SGD(embedding.parameters(), lr=0.1, max_grad_norm=1.0).step()
    with pytest.raises(RuntimeError, match=r"Lion updates dense"):
        Lion(embedding.parameters()).step()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_grad_norm": 0.0}, ["AdamW", "max_grad_norm is 0.0", "above 0"]),
        ({"max_grad_value": -1.0}, ["max_grad_value is -1.0"]),
        ({"ema_decay": 1.0}, ["ema_decay is 1.0", "[0, 1)"]),
        ({"low_precision": "exact"}, ["low_precision is 'exact'", "'kahan'"]),
        ({"state_dtype": torch.int32}, ["state_dtype is torch.int32", "torch.uint8"]),
    ],
)
def test_options_that_mean_nothing(options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        AdamW([torch.nn.Parameter(torch.ones(1))], **options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("cls", "name", "value"), [(Lion, "lr", -1.0), (LAMB, "betas", (1.0, 0.9)), (LAMB, "eps", -1.0)]
)
def test_new_classes_refuse_as_torch_does(cls: type, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        cls([torch.nn.Parameter(torch.ones(1))], **{name: value})


# ---- averages -----------------------------------------------------------------------------------------------------


def test_averages_as_state_dict_and_in_place() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model[2].bias = model[0].bias = torch.nn.Parameter(torch.zeros(4))  # shared
    model[2] = torch.nn.Linear(4, 4)
    model[2].bias = model[0].bias
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    optimizer = SGD(model.parameters(), lr=0.5, ema_decay=0.9)
    with pytest.raises(RuntimeError, match="no averages"):
        optimizer.ema_state_dict(model)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        averaged.update_parameters(model)
    expected = averaged.module.state_dict()
    given = optimizer.ema_state_dict(model)
    assert given.keys() == expected.keys()
    for name, _ in model.named_parameters(remove_duplicate=False):
        assert torch.allclose(given[name], expected[name], **SAME_FLOAT32)
    weights = [p.detach().clone() for p in model.parameters()]
    with optimizer.ema_weights():
        assert torch.allclose(model[0].weight, expected["0.weight"], **SAME_FLOAT32)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    with pytest.raises(KeyError), optimizer.ema_weights():
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))


def test_swa_utils_and_schedulers_take_it() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)  # sets momentum too
    swa = torch.optim.swa_utils.AveragedModel(model)
    peer = copy.deepcopy(model)
    native = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9)
    native_cycle = torch.optim.lr_scheduler.OneCycleLR(native, max_lr=0.1, total_steps=6)
    for _ in range(5):
        x = torch.randn(8, 3)
        for net, kind, schedule in ((model, optimizer, cycle), (peer, native, native_cycle)):
            kind.zero_grad()
            net(x).square().sum().backward()
            kind.step()
            schedule.step()
        swa.update_parameters(model)
    check(model.parameters(), peer.parameters(), torch.float32)
    swa_lr = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
    swa_lr.step()


# ---- with the rest of PyTorch -------------------------------------------------------------------------------------


def test_one_optimizer_a_parameter_in_backward() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    peer = copy.deepcopy(model)
    optimizers = {p: AdamW([p], lr=0.1) for p in model.parameters()}

    def hook(p: torch.Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    native = torch.optim.AdamW(peer.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(5, 4)
        model(x).square().sum().backward()
        native.zero_grad()
        peer(x).square().sum().backward()
        native.step()
    check(model.parameters(), peer.parameters(), torch.float32)


@pytest.mark.parametrize("extra", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.9}], ids=str)
def test_compiled_training_step(extra: dict) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    peer = copy.deepcopy(model)
    optimizer, other = Adam(model.parameters(), lr=0.1, **extra), Adam(peer.parameters(), lr=0.1, **extra)

    @torch.compile(backend="eager")
    def train(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        x = torch.randn(6, 4)
        train(x)
        other.zero_grad()
        peer(x).square().sum().backward()
        other.step()
    check(model.parameters(), peer.parameters(), torch.float32)


@pytest.mark.parametrize("cls", TORCH)
def test_signature_names_torchs_arguments_and_ours(cls: type) -> None:
    import inspect

    names = list(inspect.signature(cls).parameters)
    assert names[: -len(nnart_ops.optim._optimizer._OPTION_NAMES)] == list(
        inspect.signature(getattr(torch.optim, cls.__name__)).parameters
    )
    assert names[-1] == "norm_group"


def test_shapes_are_those_of_the_other_tests() -> None:
    assert (0,) in SHAPES
    assert () in SHAPES
