"""Optimizer steps: every class against the fastest that torch has of it, on the parameter lists of real models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import nnart_ops
from benchmarks.case import DTYPES, Case

Sizes = list[tuple[int, ...]]

LENET: Sizes = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)]


def _conv_bn(out: int, into: int, kernel: int) -> Sizes:
    return [(out, into, kernel, kernel), (out,), (out,)]


def mobilenet_v2() -> Sizes:
    """158 tensors, 3.5 M parameters (Sandler et al. 2018, table 2)."""
    sizes = _conv_bn(32, 3, 3)
    channels = 32
    for expansion, out, repeats in (
        (1, 16, 1),
        (6, 24, 2),
        (6, 32, 3),
        (6, 64, 4),
        (6, 96, 3),
        (6, 160, 3),
        (6, 320, 1),
    ):
        for _ in range(repeats):
            hidden = channels * expansion
            if expansion > 1:
                sizes += _conv_bn(hidden, channels, 1)
            sizes += _conv_bn(hidden, 1, 3) + _conv_bn(out, hidden, 1)
            channels = out
    return [*sizes, *_conv_bn(1280, 320, 1), (1000, 1280), (1000,)]


def resnet50() -> Sizes:
    """161 tensors, 25.6 M parameters (He et al. 2016, table 1)."""
    sizes = _conv_bn(64, 3, 7)
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += _conv_bn(width, channels, 1) + _conv_bn(width, width, 3) + _conv_bn(4 * width, width, 1)
            if block == 0:
                sizes += _conv_bn(4 * width, channels, 1)
            channels = 4 * width
    return [*sizes, (1000, 2048), (1000,)]


LISTS: dict[str, Sizes] = {
    "LeNet": LENET,
    "MobileNetV2": mobilenet_v2(),
    "ResNet-50": resnet50(),
    "25M in 50": [(500_000,)] * 50,
}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
# name: class, arguments, tensors that an element's step reads and writes
RULES: dict[str, tuple[str, dict[str, Any], int]] = {
    "SGD momentum": ("SGD", {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}, 5),
    "Adam": ("Adam", {}, 7),
    "AdamW": ("AdamW", {}, 7),
    "Adagrad": ("Adagrad", {}, 5),
    "RMSprop": ("RMSprop", {}, 5),
    "Adadelta": ("Adadelta", {}, 7),
    "Adamax": ("Adamax", {}, 7),
    "NAdam": ("NAdam", {}, 7),
    "RAdam": ("RAdam", {}, 7),
    "ASGD": ("ASGD", {}, 5),
    "Rprop": ("Rprop", {}, 7),
    "Adafactor": ("Adafactor", {}, 3),
}


def _parameters(sizes: Sizes, dtype: str) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size).to(DTYPES[dtype])) for size in sizes]
    for p in parameters:
        p.grad = torch.randn_like(p) * 0.01  # far from denormal, which would slow either side
    return parameters


def _step(optimizer: torch.optim.Optimizer) -> Callable[[int], Tensor]:
    first = optimizer.param_groups[0]["params"][0]

    def run(_: int) -> Tensor:
        optimizer.step()
        return first.detach()

    return run


def _on_gpu() -> bool:
    return torch.get_default_device().type == "cuda"


def _faster(*candidates: Callable[[], Callable[[int], Any]]) -> Callable[[int], Any]:
    """The fastest of them in a first trial, made again so that it starts where ours does."""

    def trial(make: Callable[[], Callable[[int], Any]]) -> float:
        run, times = make(), []
        for i in range(5):
            start = time.perf_counter()
            try:
                run(i)
            except RuntimeError:  # torch has no fused step of it for the device
                return math.inf
            if _on_gpu():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    return min(candidates, key=trial)()


def _native(cls: str, arguments: dict[str, Any], sizes: Sizes, dtype: str) -> Callable[[int], Any]:
    kinds = [{"foreach": True}, {"foreach": False}, *([{"fused": True}] if cls in FUSED else [])]
    peer = getattr(torch.optim, cls)
    return _faster(*(lambda kind=kind: _step(peer(_parameters(sizes, dtype), **arguments, **kind)) for kind in kinds))


def _chain(sizes: Sizes, dtype: str) -> Case:
    """Unscale, check for overflow, clip, AdamW, average and zero the gradients, against the best eager spelling.

    After the first call the gradients are the zeros that it left, which take as long as any others.
    """

    def ours() -> Callable[[int], Tensor]:
        parameters = _parameters(sizes, dtype)
        optimizer = nnart_ops.optim.AdamW(parameters, max_grad_norm=1.0, ema_decay=0.999, zero_grad_in_step=True)
        scale = torch.tensor(1024.0)

        def run(_: int) -> Tensor:
            optimizer.grad_scale, optimizer._skips_non_finite = scale, True
            optimizer.step()
            return parameters[0].detach()

        return run

    def peer() -> Callable[[int], Tensor]:
        parameters = _parameters(sizes, dtype)
        optimizer = torch.optim.AdamW(parameters, fused=True)
        averages = [p.detach().clone() for p in parameters]
        grads = [p.grad for p in parameters]
        values = [p.detach() for p in parameters]
        inverse, found, on_gpu = torch.tensor(1 / 1024.0), torch.tensor(0.0), _on_gpu()

        def run(_: int) -> Tensor:
            torch._amp_foreach_non_finite_check_and_unscale_(grads, found.zero_(), inverse)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            if on_gpu:  # there the fused step itself looks whether it is to change anything
                optimizer.found_inf = found  # type: ignore[attr-defined]
                optimizer.step()
            elif not found.item():
                optimizer.step()
            torch._foreach_lerp_(averages, values, 1 - 0.999)
            torch._foreach_zero_(grads)
            return values[0]

        return run

    count = sum(torch.Size(size).numel() for size in sizes)
    name = next(name for name, listed in LISTS.items() if listed is sizes)
    return Case(
        "optimizer",
        f"unscale, clip, AdamW, EMA, zero_grad; {name}",
        dtype,
        ours(),
        peer(),
        inner=20 if count < 1e6 else 1,
    )


def optimizers(dtype: str) -> Iterator[Case]:
    """One step against torch's fused one where it has it, else against the faster of its foreach and for-loop."""
    torch.set_flush_denormal(True)
    size = torch.empty((), dtype=DTYPES[dtype]).element_size()
    for list_name, sizes in LISTS.items():
        count = sum(torch.Size(s).numel() for s in sizes)
        for name, (cls, arguments, moved) in RULES.items():
            yield Case(
                "optimizer",
                f"{name}, {list_name}",
                dtype,
                _step(getattr(nnart_ops.optim, cls)(_parameters(sizes, dtype), **arguments)),
                _native(cls, arguments, sizes, dtype),
                bytes=moved * count * size,
                in_place=True,
                inner=50 if count < 1e6 else 1,
                tolerance=1e-4 if size > 2 else 4e-2,
            )
        if dtype == "float32" and list_name != "25M in 50":
            yield _chain(sizes, dtype)
    if dtype == "float32":
        yield from _large()
    yield _muon(dtype)


def _muon(dtype: str) -> Case:
    """The matrices of a Transformer's layer of width 768."""
    sizes: Sizes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    side = [_step(library.optim.Muon(_parameters(sizes, dtype))) for library in (nnart_ops, torch)]
    return Case("optimizer", "Muon, a layer of width 768", dtype, *side, tolerance=1e-2)


def _large() -> Iterator[Case]:
    """100 M parameters: AdamW against torch's, and what takes fewer bytes against our own step that takes more."""
    sizes: Sizes = [(1_000_000,)] * 100

    def adamw(library: Any, dtype: str = "float32", **extra: Any) -> Callable[[int], Tensor]:
        return _step(library.optim.AdamW(_parameters(sizes, dtype), **extra))

    def case(name: str, dtype: str, ours: Any, peer: Any, bytes_each: int, tolerance: float | None = None) -> Case:
        more = {} if tolerance is None else {"tolerance": tolerance}
        return Case("optimizer", name, dtype, ours, peer, bytes=bytes_each * 100_000_000, in_place=True, **more)

    yield case("AdamW, 100M", "float32", adamw(nnart_ops), adamw(torch, fused=True), 28)
    for moments, state_dtype, bytes_each in (("8-bit", torch.uint8, 16), ("bfloat16 moments", torch.bfloat16, 20)):
        name = f"AdamW {moments}, 100M (peer: ours in float32)"
        yield case(name, "float32", adamw(nnart_ops, state_dtype=state_dtype), adamw(nnart_ops), bytes_each, 1e-2)
    for mode, bytes_each in (("kahan", 18), ("stochastic", 14)):
        sides = (adamw(nnart_ops, "bfloat16", low_precision=each) for each in (mode, "master"))
        yield case(f"AdamW {mode}, 100M (peer: ours with master weights)", "bfloat16", *sides, bytes_each, 4e-2)
