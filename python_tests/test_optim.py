"""The optimizers against torch's own, or their papers' formulas: the same numbers, the same state, the same errors."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import optimizer_formulas as formulas
import pytest
import torch
from devices import DEVICE, cpu_only, has_fused_step, threads
from instruction_sets import each_instruction_set, run_on
from tolerances import SAME_FLOAT32, SAME_FLOAT64, TWICE_NATIVE, updates_limit
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import nnart_ops
from nnart_ops.optim import (
    ASGD,
    LAMB,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    FusedOptimizer,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)

OPS = torch.ops.nnart_ops
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TORCH = [SGD, Adam, AdamW, Adagrad, RMSprop, Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop]
PEERS: dict[type, type] = {
    **{cls: getattr(torch.optim, cls.__name__) for cls in TORCH},
    **{cls: getattr(formulas, cls.__name__) for cls in (Lion, LAMB, LARS)},
}
SHAPES = [(), (1,), (3,), (0,), (17, 5), (4, 3, 2, 2), (31,), (64,), (9001,)]

CASES: list[tuple[type, dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    (SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    (SGD, {"lr": torch.tensor(0.1), "momentum": 0.9}),
    (AdamW, {}),
    (AdamW, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.0}),
    (AdamW, {"lr": 0.01, "betas": (0.0, 0.0)}),
    (AdamW, {"lr": 0.01, "amsgrad": True, "maximize": True, "weight_decay": 0.3}),
    (AdamW, {"lr": torch.tensor(0.01, dtype=torch.float64)}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    (Adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "decoupled_weight_decay": True}),
    # A decay that every dtype has: where it cancels a gradient of the first step, what is left decides lr's sign.
    (Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.125}),
    (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    (RMSprop, {"lr": 0.01, "weight_decay": 0.1}),
    (RMSprop, {"lr": 0.01, "momentum": 0.9, "maximize": True}),
    (RMSprop, {"lr": 0.01, "alpha": 0.9, "centered": True, "eps": 1e-2}),
    (RMSprop, {"lr": 0.01, "alpha": 0.9, "centered": True, "momentum": 0.5, "eps": 1e-2}),
    (Adadelta, {"lr": 0.5, "weight_decay": 0.1}),
    (Adadelta, {"rho": 0.5, "eps": 1e-3, "maximize": True}),
    (Adamax, {"lr": 0.01, "weight_decay": 0.1}),
    (Adamax, {"betas": (0.5, 0.8), "maximize": True}),
    (NAdam, {"lr": 0.01, "weight_decay": 0.1}),
    (NAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1}),
    (RAdam, {"lr": 0.01, "weight_decay": 0.1}),
    (RAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.8, 0.9)}),
    (ASGD, {"lr": 0.1, "weight_decay": 0.1}),
    (ASGD, {"lr": 0.1, "t0": 3, "lambd": 0.1, "alpha": 0.5, "maximize": True}),
    (Rprop, {"lr": 0.1}),
    (Rprop, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.3), "maximize": True}),
    (Lion, {"lr": 0.01, "weight_decay": 0.1}),
    (Lion, {"lr": 0.01, "betas": (0.5, 0.8), "maximize": True}),
    (LAMB, {"lr": 0.01, "weight_decay": 0.1}),
    (LAMB, {"lr": 0.01, "weight_decay": 0.0, "betas": (0.5, 0.8), "maximize": True}),
    (LARS, {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 0.1}),
    (LARS, {"lr": 1.0, "momentum": 0.9, "nesterov": True, "trust_coefficient": 0.001, "eps": 1e-3, "maximize": True}),
]


def _randn(shape: Any, generator: torch.Generator) -> torch.Tensor:
    """The same numbers on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(DEVICE)


def parameters(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(_randn(s, generator).to(dtype)) for s in shapes]


def give_gradients(params: list[torch.nn.Parameter], step: int, source: torch.dtype | None = None) -> None:
    """Gradients that depend on the step alone, first rounded to ``source``."""
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        grad = _randn(p.shape, generator)
        p.grad = grad.to(source or p.dtype).to(p.dtype)


def train(cls: type, dtype: torch.dtype, steps: int, source: torch.dtype | None = None, **options: Any) -> tuple:
    params = parameters(source or dtype)
    params = [torch.nn.Parameter(p.detach().to(dtype)) for p in params]
    optimizer = cls(params, **options)
    for step in range(steps):
        give_gradients(params, step, source)
        optimizer.step()
    return params, optimizer


def native_only(**options: Any) -> dict[str, Any]:
    """The for-loop, with which torch's tests compare everything else."""
    return {**options, "foreach": False}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often torch's own step ran on behalf of ours."""
    counts = {"native": 0}
    original = FusedOptimizer._native_step

    def counted(self: FusedOptimizer, *arguments: Any) -> bool:
        counts["native"] += 1
        return original(self, *arguments)

    monkeypatch.setattr(FusedOptimizer, "_native_step", counted)
    return counts


@pytest.mark.parametrize(("cls", "options"), CASES, ids=str)
def test_200_steps_in_float64(cls: type, options: dict, calls: dict) -> None:
    ours, optimizer = train(cls, torch.float64, 200, **options)
    expected, peer = train(PEERS[cls], torch.float64, 200, **native_only(**options))
    assert calls["native"] == 0
    for a, b in zip(ours, expected):
        assert torch.allclose(a, b, **SAME_FLOAT64)
        assert optimizer.state[a].keys() ^ peer.state[b].keys() <= (set() if cls in TORCH else {"t", "step"})
        for key in optimizer.state[a].keys() & peer.state[b].keys():
            value, known = optimizer.state[a][key], peer.state[b][key]
            assert value.dtype == known.dtype
            # torch counts steps on the CPU, ours where the parameter is.
            assert torch.allclose(value, known.to(value.device), **SAME_FLOAT64), key
    assert all(a._version > 0 for a in ours)


def check_against_float64(cls: type, options: dict, dtype: torch.dtype) -> None:
    ours, _ = train(cls, dtype, 20, **options)
    native, _ = train(PEERS[cls], dtype, 20, **native_only(**options))
    oracle, _ = train(PEERS[cls], torch.float64, 20, source=dtype, **native_only(**options))
    mine, theirs, exact = (
        torch.cat([p.detach().double().flatten() for p in given]) for given in (ours, native, oracle)
    )
    if cls is LAMB and dtype is torch.float16:
        return  # one moment that becomes 0 decides the tensor's norm and with it every element
    # Where half precision flushes eps or a moment to 0, the native loop divides by 0; no error of its own counts then.
    native_error = (theirs - exact).abs().nan_to_num(nan=0.0, posinf=0.0).max()
    limit = TWICE_NATIVE * native_error + updates_limit(dtype, 20, exact.abs().max().item())
    assert (mine - exact).abs().max() <= limit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cls", "options"), CASES, ids=str)
def test_against_float64(cls: type, options: dict, dtype: torch.dtype) -> None:
    check_against_float64(cls, options, dtype)


@cpu_only
@each_instruction_set
def test_every_instruction_set(isa: str) -> None:
    run_on(
        isa,
        "import test_optim as t\n"
        "for dtype in (t.torch.float32, t.torch.bfloat16):\n"
        "    for cls, options in t.CASES: t.check_against_float64(cls, options, dtype)",
    )


@pytest.mark.parametrize("variant", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SGD, {"lr": 0.1, "momentum": 0.9}),
        (AdamW, {"amsgrad": True}),
        (SGD, {"lr": 0.1}),
        *((c, {}) for c in TORCH[1:]),
    ],
    ids=str,
)
@pytest.mark.parametrize("to_ours", [False, True])
def test_checkpoints_both_ways_mid_run(cls: type, options: dict, variant: dict, to_ours: bool) -> None:
    if variant.get("fused") and not has_fused_step(cls.__name__):
        pytest.skip("torch has no fused step of it")
    first, second = (PEERS[cls], cls) if to_ours else (cls, PEERS[cls])
    params, optimizer = train(first, torch.float64, 7, **options, **variant)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed = second(params, **options)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    expected, _ = train(PEERS[cls], torch.float64, 14, **options)
    for step in range(7, 14):
        give_gradients(params, step)
        resumed.step()
    for a, b in zip(params, expected):
        # torch's own foreach ASGD rounds its rates elsewhere than its for-loop.
        assert torch.allclose(a, b, **(SAME_FLOAT32 if cls is ASGD else SAME_FLOAT64))
    assert resumed.state_dict()["param_groups"][0].keys() == optimizer.state_dict()["param_groups"][0].keys()


@pytest.mark.parametrize("name", [cls.__name__ for cls in TORCH])
def test_optimizer_info_inputs(name: str) -> None:
    info = next(info for info in optim_db if info.optim_cls.__name__ == name)
    ours = getattr(nnart_ops.optim, name)
    for given in info.optim_inputs_func("cpu"):
        for extra in ({}, {"foreach": True}, {"fused": True}):
            options = {**copy.deepcopy(given.kwargs), **extra}
            if extra.get("fused") and not has_fused_step(name):
                continue
            if extra.get("foreach") and isinstance(options.get("lr"), torch.Tensor):
                continue
            a, _ = train(ours, torch.float32, 10, **options)
            b, _ = train(info.optim_cls, torch.float32, 10, **options)
            for x, y in zip(a, b):
                assert torch.allclose(x, y, **SAME_FLOAT32), given.desc
        # In float64 the for-loop is the reference.
        if not given.kwargs.get("capturable") and not given.kwargs.get("differentiable"):
            options = native_only(**copy.deepcopy(given.kwargs))
            a, _ = train(ours, torch.float64, 10, **options)
            b, _ = train(info.optim_cls, torch.float64, 10, **options)
            for x, y in zip(a, b):
                assert torch.allclose(x, y, rtol=1e-11, atol=1e-11), given.desc


@pytest.mark.parametrize("name", [cls.__name__ for cls in TORCH])
def test_optimizer_info_errors(name: str) -> None:
    info = next(info for info in optim_db if info.optim_cls.__name__ == name)
    ours = getattr(nnart_ops.optim, name)
    for error in info.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        assert error.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.randn(1))]
        with warnings.catch_warnings():
            warnings.simplefilter("error" if error.error_type is UserWarning else "ignore")
            with pytest.raises(error.error_type, match=error.error_regex):
                ours(params, **given.kwargs)


@cpu_only
@pytest.mark.parametrize(
    ("cls", "options"),
    [(SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "nesterov": False}), (AdamW, {"amsgrad": True})],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_the_result(cls: type, options: dict, dtype: torch.dtype) -> None:
    def result() -> torch.Tensor:
        params = parameters(dtype, [(100_001,), (7,), (300, 301), (0,), (16_384,)])
        optimizer = cls(params, **options)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in params])

    with threads(1):
        one = result()
    with threads(2):
        assert torch.equal(one, result())


@pytest.mark.parametrize("cls", TORCH)
def test_layouts_of_parameters_and_gradients(cls: type, calls: dict) -> None:
    options = {"lr": 0.1, "momentum": 0.9} if cls in (SGD, RMSprop) else {"lr": 0.1}
    base = torch.randn(6, 8, 5, 5, dtype=torch.float64)
    makers = [
        (lambda: base.clone().to(memory_format=torch.channels_last), lambda g: g),
        (lambda: base.clone(), lambda g: g.to(memory_format=torch.channels_last)),
        (lambda: base.clone().transpose(0, 3), lambda g: g.contiguous()),
        (lambda: base.clone()[:, ::2], lambda g: g),  # not dense
        (lambda: base.clone(), lambda g: g[:, :1, :1, :1].expand_as(g)),  # the gradient of a sum
    ]
    for make, arrange in makers:
        a, b = torch.nn.Parameter(make()), torch.nn.Parameter(make())
        optimizer, peer = cls([a], **options), PEERS[cls]([b], **native_only(**options))
        for _ in range(4):
            grad = torch.randn(a.shape, dtype=torch.float64)
            a.grad, b.grad = arrange(grad), arrange(grad)
            strides = a.stride()
            optimizer.step()
            peer.step()
            assert a.stride() == strides
            assert torch.allclose(a, b, **SAME_FLOAT64)
    assert calls["native"] == 0


def test_one_plan_serves_groups_and_dtypes_and_what_changes(calls: dict) -> None:
    def groups() -> list[dict]:
        a, b = parameters(torch.float64), parameters(torch.float32)
        return [{"params": a[:3] + b[:2]}, {"params": a[3:]}, {"params": b[2:], "lr": 0.5}]

    mine, theirs = groups(), groups()
    optimizer, peer = AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    plans = set()
    for step in range(12):
        for given, kind in ((mine, optimizer), (theirs, peer)):
            for group in given:
                if step % 2:
                    give_gradients(group["params"], step)  # new tensors, or the old ones
                else:
                    for p in group["params"]:
                        p.grad = torch.full_like(p, 0.5) if p.grad is None else p.grad.mul_(-1.5)
            given[0]["params"][1].grad = None if step < 6 else given[0]["params"][1].grad
            if step == 7:
                kind.param_groups[1]["amsgrad"] = True
                for p in kind.param_groups[1]["params"]:
                    kind.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
            if step == 8:
                kind.add_param_group({"params": [given[0].setdefault("more", torch.nn.Parameter(torch.ones(5)))]})
            if step >= 8:
                given[0]["more"].grad = torch.full((5,), float(step))
            if step == 9:
                kind.param_groups[2]["lr"] = 0.25
                given[1]["params"][0].data = given[1]["params"][0].data.clone()  # moves it
            if step == 10:
                state = kind.state[given[1]["params"][1]]
                state["exp_avg"] = torch.full_like(state["exp_avg"], 0.25)
            if step == 11:
                kind.load_state_dict(copy.deepcopy(kind.state_dict()))
            kind.step()
        plans.add(id(optimizer._plan))
    for a, b in zip(mine, theirs):
        for x, y in zip([*a["params"], *a.get("more", [])], [*b["params"], *b.get("more", [])]):
            assert torch.allclose(x, y, **(SAME_FLOAT32 if x.dtype == torch.float32 else SAME_FLOAT64))
    assert torch.allclose(mine[0]["more"], theirs[0]["more"], **SAME_FLOAT32)
    assert calls["native"] == 0
    assert len(plans) < 8  # a step with other gradients, rates or no change needs no other plan


def test_steady_steps_keep_the_plan() -> None:
    params = parameters(torch.float32)
    optimizer = AdamW(params)
    plans = []
    for step in range(5):
        optimizer.zero_grad(set_to_none=True)
        give_gradients(params, step)
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
        plans.append(optimizer._plan)
    assert plans[0] is not None
    assert all(plan is plans[0] for plan in plans)


@pytest.mark.parametrize("count", [1, 2])
def test_parameters_that_share_memory(count: int) -> None:
    results = []
    with threads(count):
        for kind, extra in ((SGD, {}), (torch.optim.SGD, {"foreach": False})):
            base = torch.ones(100_000)
            params = [torch.nn.Parameter(base), torch.nn.Parameter(base[:50_000]), torch.nn.Parameter(base[25_000:])]
            optimizer = kind(params, lr=0.1, weight_decay=0.5, **extra)
            for step in range(3):
                give_gradients(params, step)
                optimizer.step()
            results.append(base)
    assert torch.allclose(*results, **SAME_FLOAT32)


def _sparse(cls: type, **options: Any) -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    peer = copy.deepcopy(embedding)
    for module, kind in ((embedding, cls), (peer, PEERS[cls])):
        optimizer = kind(module.parameters(), **options)
        module(torch.tensor([1, 1, 3])).sum().backward()
        optimizer.step()
    assert torch.equal(embedding.weight, peer.weight)


def test_sparse_gradients_are_native(calls: dict) -> None:
    _sparse(SGD, lr=0.1)
    _sparse(Adagrad, lr=0.1)
    assert calls["native"] == 2
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        _sparse(AdamW)


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_complex_and_subclasses_are_native(cls: type, calls: dict) -> None:
    class Tagged(torch.Tensor):
        pass

    for make in (lambda: torch.randn(4, dtype=torch.complex64), lambda: torch.randn(4).as_subclass(Tagged)):
        start = make()
        a, b = start.clone().requires_grad_(), start.clone().requires_grad_()
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        cls([a], lr=0.1).step()
        PEERS[cls]([b], lr=0.1).step()
        assert torch.equal(a.detach(), b.detach())
    assert calls["native"] == 2


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_differentiable_is_native(cls: type, calls: dict) -> None:
    def final(kind: type) -> torch.Tensor:
        lr = torch.tensor(0.1, requires_grad=True)
        p = torch.ones(3, requires_grad=True).clone()
        p.retain_grad()
        p.grad = torch.tensor([1.0, 2.0, 3.0])
        optimizer = kind([p], lr=lr, differentiable=True, foreach=False)
        optimizer.step()
        p.sum().backward()
        return torch.cat([p.detach(), lr.grad.reshape(1)])

    assert torch.equal(final(cls), final(PEERS[cls]))
    assert calls["native"] == 1


@pytest.mark.parametrize("cls", TORCH)
def test_hooks_schedulers_closures_and_pickling(cls: type) -> None:
    torch.optim.SGD(parameters(torch.float32))  # wraps torch's own step with hooks, which must not run twice
    torch.optim.AdamW(parameters(torch.float32))
    counts = {"pre": 0, "post": 0}
    for sparse in (False, True):
        if sparse and cls is not SGD:
            continue
        params = [torch.nn.Parameter(torch.ones(4, 2))]
        optimizer = cls(params, lr=0.1)
        optimizer.register_step_pre_hook(lambda *_: counts.update(pre=counts["pre"] + 1))
        optimizer.register_step_post_hook(lambda *_: counts.update(post=counts["post"] + 1))
        params[0].grad = torch.ones(4, 2).to_sparse() if sparse else torch.ones(4, 2)
        before = dict(counts)
        optimizer.step()
        assert counts == {key: value + 1 for key, value in before.items()}
    params = parameters(torch.float32)
    peers = parameters(torch.float32)
    optimizer, peer = cls(params, lr=0.1), PEERS[cls](peers, lr=0.1)
    for given, kind in ((params, optimizer), (peers, peer)):
        scheduler = torch.optim.lr_scheduler.StepLR(kind, 2, 0.5)
        for step in range(6):
            give_gradients(given, step)
            assert kind.step(lambda: torch.tensor(3.0)) == 3.0
            scheduler.step()
    for a, b in zip(params, peers):
        assert torch.allclose(a, b, **SAME_FLOAT32)
    clone = pickle.loads(pickle.dumps(optimizer))
    assert type(clone) is cls
    assert repr(optimizer) == repr(peer)
    give_gradients(clone.param_groups[0]["params"], 7)
    clone.step()


def test_closure_computes_gradients() -> None:
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = SGD([p], lr=0.25)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == 1.0


@pytest.mark.parametrize("cls", [SGD, AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(cls: type, fused: bool) -> None:
    results = []
    for kind in (cls, PEERS[cls]):
        params = parameters(torch.float32, [(3,), (5, 4)])
        optimizer = kind(params, lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = sum((p * (step + 1)).sum() for p in params)
            if step == 2:
                loss = loss * float("inf")  # skipped
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append([p.detach().clone() for p in params])
    for a, b in zip(*results):
        assert torch.allclose(a, b, **SAME_FLOAT32)


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_a_stale_parameter_is_noticed(cls: type) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    y = (p * p).sum()
    p.grad = torch.ones(3)
    cls([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_nan_and_infinite_gradients() -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-42, 1.0])
    for cls, options in CASES:
        results = []
        for kind, extra in ((cls, {}), (PEERS[cls], {"foreach": False})):
            p = torch.nn.Parameter(torch.linspace(-1, 1, 7))
            optimizer = kind([p], **options, **extra)
            for _ in range(3):
                p.grad = special.clone()
                optimizer.step()
            results.append(p.detach())
        assert torch.allclose(*results, **SAME_FLOAT32, equal_nan=True)


@pytest.mark.parametrize("rule", ["sgd", "sgd_momentum", "adam_amsgrad", "nadam", "lamb"])
def test_opcheck(rule: str) -> None:
    hyper, states, scalars = {
        "sgd": ([0.1, 0.0, 0.0], 0, 0),
        "sgd_momentum": ([0.1, 0.9, 0.1], 1, 0),
        "adam_amsgrad": ([0.1, 0.9, 0.99, 1e-8], 3, 0),
        "nadam": ([0.1, 0.9, 0.99, 1e-8, 4e-3], 2, 1),
        "lamb": ([0.1, 0.9, 0.99, 1e-8, 0.1], 2, 0),
    }[rule]
    params, grads = ([torch.randn(5), torch.randn(2, 3)] for _ in range(2))
    state = [torch.rand(size) for _ in range(states) for size in ((5,), (2, 3))]
    one = [torch.ones(()) for _ in range(2 * scalars)]
    steps = [torch.zeros(()), torch.ones(())]
    torch.library.opcheck(
        OPS.optimizer_step_.default, (rule, hyper, 0.1, False, False, params, grads, state, one, steps)
    )


@pytest.mark.parametrize(("cls", "options"), CASES, ids=str)
def test_the_op_is_the_class(cls: type, options: dict) -> None:
    params, peers = parameters(torch.float64, [(5,), (2, 3)]), parameters(torch.float64, [(5,), (2, 3)])
    optimizer = cls(peers, **options)
    give_gradients(peers, 0)
    optimizer.step()
    give_gradients(params, 0)
    group = optimizer.param_groups[0]
    rule = optimizer._rule_of(group)
    numbers = [
        constant if key is None else float(group[key] if item < 0 else group[key][item])
        for key, item, constant in rule.sources()
    ]
    states = [torch.full_like(p, optimizer._initial(name, group)) for name in rule.states for p in params]
    scalars = [torch.tensor(optimizer._initial(name, group)) for name in rule.scalars for _ in params]
    steps = [torch.zeros(()) for _ in params]
    decay = 0.0 if rule.decay == "none" else float(group["weight_decay"])
    arguments = (decay, rule.decay == "decoupled", bool(group["maximize"]))
    grads = [p.grad for p in params]
    with torch.no_grad():
        OPS.optimizer_step_(rule.name, numbers, *arguments, params, grads, states, scalars, steps)
    for a, b in zip(params, peers):
        assert torch.allclose(a, b, **SAME_FLOAT64)
    assert [float(step) for step in steps] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([torch.ones(3)], []), ["grads", "there are 0"]),
        (([torch.ones(3)], [torch.ones(4)]), ["same sizes", "[3]", "[4]"]),
        (([torch.ones(3).long()], [torch.ones(3).long()]), ["parameter", "int64", "allowed"]),
        (([torch.ones(3)], [torch.ones(3).long()]), ["gradient", "int64", "allowed"]),
    ],
)
def test_errors_name_the_argument(arguments: tuple, words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        OPS.optimizer_step_("sgd", [0.1, 0.0, 0.0], 0.0, False, False, *arguments, [], [], [torch.zeros(())])
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("rule", "hyper", "words"), [("sdg", [0.1], ["sdg", "sgd_momentum"]), ("sgd", [0.1], ["3", "1"])]
)
def test_errors_name_the_rule(rule: str, hyper: list[float], words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        OPS.optimizer_step_(rule, hyper, 0.0, False, False, [torch.ones(3)], [torch.ones(3)], [], [], [torch.zeros(())])
    assert all(word in str(caught.value) for word in words)
