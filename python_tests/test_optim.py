"""SGD and AdamW against torch's own: the same numbers, the same state, the same errors."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from instruction_sets import each_instruction_set, run_on
from tolerances import SAME_FLOAT32, SAME_FLOAT64, TWICE_NATIVE, updates_limit
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import nnart_ops
from nnart_ops.optim import SGD, AdamW

OPS = torch.ops.nnart_ops
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PEERS = {SGD: torch.optim.SGD, AdamW: torch.optim.AdamW}
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
]


def parameters(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def give_gradients(params: list[torch.nn.Parameter], step: int, source: torch.dtype | None = None) -> None:
    """Gradients that depend on the step alone, first rounded to ``source``."""
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
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
    return {**options, "foreach": False}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often torch's own step ran on behalf of ours."""
    from nnart_ops.optim import adamw, sgd

    counts = {"native": 0}
    for module in (sgd, adamw):
        original = module.native_step

        def counted(cls: type, optimizer: Any, original: Callable = original) -> None:
            counts["native"] += 1
            original(cls, optimizer)

        monkeypatch.setattr(module, "native_step", counted)
    return counts


@pytest.mark.parametrize(("cls", "options"), CASES, ids=str)
def test_200_steps_in_float64(cls: type, options: dict, calls: dict) -> None:
    ours, optimizer = train(cls, torch.float64, 200, **options)
    expected, peer = train(PEERS[cls], torch.float64, 200, **native_only(**options))
    assert calls["native"] == 0
    for a, b in zip(ours, expected):
        assert torch.allclose(a, b, **SAME_FLOAT64)
        assert optimizer.state[a].keys() == peer.state[b].keys()
        for key, value in optimizer.state[a].items():
            assert value.dtype == peer.state[b][key].dtype
            assert torch.allclose(value, peer.state[b][key], **SAME_FLOAT64)
    assert all(a._version > 0 for a in ours)


def check_against_float64(cls: type, options: dict, dtype: torch.dtype) -> None:
    ours, _ = train(cls, dtype, 20, **options)
    native, _ = train(PEERS[cls], dtype, 20, **native_only(**options))
    oracle, _ = train(PEERS[cls], torch.float64, 20, source=dtype, **native_only(**options))
    mine, theirs, exact = (
        torch.cat([p.detach().double().flatten() for p in given]) for given in (ours, native, oracle)
    )
    # Where half precision flushes eps or a moment to 0, the native loop divides by 0; no error of its own counts then.
    native_error = (theirs - exact).abs().nan_to_num(nan=0.0, posinf=0.0).max()
    limit = TWICE_NATIVE * native_error + updates_limit(dtype, 20, exact.abs().max().item())
    assert (mine - exact).abs().max() <= limit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cls", "options"), CASES, ids=str)
def test_against_float64(cls: type, options: dict, dtype: torch.dtype) -> None:
    check_against_float64(cls, options, dtype)


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
    ("cls", "options"), [(SGD, {"lr": 0.1, "momentum": 0.9}), (AdamW, {"amsgrad": True}), (SGD, {"lr": 0.1})], ids=str
)
@pytest.mark.parametrize("to_ours", [False, True])
def test_checkpoints_both_ways_mid_run(cls: type, options: dict, variant: dict, to_ours: bool) -> None:
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
        assert torch.allclose(a, b, **SAME_FLOAT64)
    assert resumed.state_dict()["param_groups"][0].keys() == optimizer.state_dict()["param_groups"][0].keys()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_optimizer_info_inputs(name: str) -> None:
    info = next(info for info in optim_db if info.optim_cls.__name__ == name)
    ours = getattr(nnart_ops.optim, name)
    for given in info.optim_inputs_func("cpu"):
        for extra in ({}, {"foreach": True}, {"fused": True}):
            options = {**copy.deepcopy(given.kwargs), **extra}
            if extra.get("foreach") and isinstance(options.get("lr"), torch.Tensor):
                continue
            a, _ = train(ours, torch.float32, 10, **options)
            b, _ = train(info.optim_cls, torch.float32, 10, **options)
            for x, y in zip(a, b):
                assert torch.allclose(x, y, **SAME_FLOAT32), given.desc


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
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

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = result()
        torch.set_num_threads(2)
        assert torch.equal(one, result())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_layouts_of_parameters_and_gradients(cls: type, calls: dict) -> None:
    options = {"lr": 0.1, "momentum": 0.9} if cls is SGD else {"lr": 0.1}
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


def test_several_groups_and_dtypes_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnart_ops.optim import adamw

    batches: list[int] = []
    original = AdamW._batches
    monkeypatch.setattr(adamw.AdamW, "_batches", lambda self: (found := original(self), batches.append(len(found)))[0])

    def groups() -> list[dict]:
        a, b = parameters(torch.float64), parameters(torch.float32)
        return [{"params": a[:3] + b[:2]}, {"params": a[3:]}, {"params": b[2:], "lr": 0.5}]

    mine, theirs = groups(), groups()
    optimizer, peer = AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    for step in range(5):
        for given in (mine, theirs):
            for group in given:
                give_gradients(group["params"], step)
        mine[0]["params"][1].grad = theirs[0]["params"][1].grad = None  # takes no part in this step
        if step == 3:
            give_gradients([mine[0]["params"][1]], 9)
            give_gradients([theirs[0]["params"][1]], 9)
        optimizer.step()
        peer.step()
    assert batches == [3] * 5
    for a, b in zip(mine, theirs):
        for x, y in zip(a["params"], b["params"]):
            assert torch.allclose(x, y, **(SAME_FLOAT32 if x.dtype == torch.float32 else SAME_FLOAT64))


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
    assert calls["native"] == 1
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
        optimizer = kind([p], lr=lr, differentiable=True)
        optimizer.step()
        p.sum().backward()
        return torch.cat([p.detach(), lr.grad.reshape(1)])

    assert torch.equal(final(cls), final(PEERS[cls]))
    assert calls["native"] == 1


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_hooks_schedulers_closures_and_pickling(cls: type) -> None:
    torch.optim.SGD(parameters(torch.float32))  # wraps torch's own step with hooks, which must not run twice
    torch.optim.AdamW(parameters(torch.float32))
    counts = {"pre": 0, "post": 0}
    for sparse in (False, True):
        if sparse and cls is AdamW:
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
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
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


@pytest.mark.parametrize("momentum", [False, True])
def test_opcheck_sgd(momentum: bool) -> None:
    params, grads, buffers = ([torch.randn(5), torch.randn(2, 3)] for _ in range(3))
    arguments = (params, grads, buffers if momentum else [], 0.1, 0.9 if momentum else 0.0, 0.0, 0.1, False, True)
    torch.library.opcheck(OPS.sgd_.default, arguments)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_opcheck_adamw(amsgrad: bool) -> None:
    params, grads, exp_avgs = ([torch.randn(5), torch.randn(2, 3)] for _ in range(3))
    exp_avg_sqs, largest = ([torch.rand(5), torch.rand(2, 3)] for _ in range(2))
    state = (exp_avgs, exp_avg_sqs, largest if amsgrad else [], [torch.zeros(()), torch.ones(())])
    torch.library.opcheck(OPS.adamw_.default, (params, grads, *state, 0.1, 0.9, 0.99, 1e-8, 0.1, False))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([torch.ones(3)], []), ["params and grads must have the same length", "1 and 0"]),
        (([torch.ones(3)], [torch.ones(4)]), ["same sizes", "[3]", "[4]"]),
        (([torch.ones(3)], [torch.ones(3).double()]), ["same dtype", "float32", "float64"]),
        (([torch.ones(3).long()], [torch.ones(3).long()]), ["params", "int64", "allowed"]),
    ],
)
def test_errors_name_the_argument(arguments: tuple, words: list[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        OPS.sgd_(*arguments, [], 0.1, 0.0, 0.0, 0.0, False, False)
    assert all(word in str(caught.value) for word in words)
