"""Measures what is kept alive between forward and backward, ours and native, and writes the tables of docs/memory.md.

python -m benchmarks.memory            prints the tables
python -m benchmarks.memory --write    puts them into docs/memory.md

A figure is what torch's allocator holds more after the forward than before it, when nothing but the graph is left of
the forward: inputs that were there before, parameters among them, do not count.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nnart_ops
import nnart_ops.functional as ours
from benchmarks import pages

ELEMENTS = 1 << 20
DOCUMENTS = [Path(__file__).parent.parent / "docs" / name for name in ("memory.md", "optimizers.md")]
MODES = ("input", "output", "mask", "recompute")
ACTIVATIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "hardshrink")},
    **{name: {} for name in ("softshrink", "elu", "selu", "celu", "sigmoid", "logsigmoid", "softplus", "softsign")},
    **{name: {} for name in ("tanh", "tanhshrink", "gelu", "silu", "mish")},
    "threshold": {"threshold": 0.1, "value": 0.0},
    "rrelu": {"training": True},
}


def bytes_kept(forward: Callable[[], Tensor]) -> int:
    """What the graph of ``forward()`` keeps of memory that it allocated."""
    forward()  # whatever is allocated once
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        y: Tensor | None = forward()
        assert y is not None
        graph = y.grad_fn
        y = None
    assert graph is not None
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def activation_rows() -> Iterable[list[str]]:
    """Bytes an element in float32 for each way to save, and in bfloat16 for torch's."""
    leaf = torch.randn(ELEMENTS, requires_grad=True)
    for name, arguments in ACTIVATIONS.items():
        native = getattr(torch if name in ("sigmoid", "tanh") else torch.nn.functional, name)
        cells = [name]
        calls: list[Callable[[Tensor], Tensor]] = [lambda x, f=native, a=arguments: f(x, **a)]
        own = getattr(ours, name)
        calls += [lambda x, f=own, a=arguments, s=save: f(x, **a, save=s) for save in (None, *MODES)]
        for call in calls:
            try:
                kept = bytes_kept(lambda call=call: call(leaf * 1)) / ELEMENTS
            except ValueError:
                cells.append("")
            else:
                cells.append(f"{kept:.3f}".rstrip("0").rstrip("."))
        yield cells


def stack_rows() -> Iterable[list[str]]:
    """MiB of a convolution, ReLU and pooling, and of a transformer's feed-forward layers, both in float32."""
    nn = torch.nn
    image = torch.randn(16, 32, 64, 64, requires_grad=True)
    tokens = torch.randn(2048, 512, requires_grad=True)

    def conv(library: Any, *between: nn.Module, **how: Any) -> nn.Module:
        return nn.Sequential(library.Conv2d(32, 64, 3, padding=1, **how), *between, library.MaxPool2d(2))

    def gated(kind: Callable[[Tensor], Tensor]) -> nn.Module:
        class FeedForward(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter, self.leave = nn.Linear(512, 4096, bias=False), nn.Linear(2048, 512, bias=False)

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = self.leave(kind(self.enter(x)))
                return result

        return FeedForward()

    def by_hand(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * nn.functional.silu(gate)

    def dense(activation: nn.Module, dropout: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(512, 2048), activation, dropout, nn.Linear(2048, 512))

    def normalized() -> nn.Module:
        return nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 32, 1))

    class Recomputed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            with nnart_ops.recompute_activations():
                result: Tensor = self.inner(x)
            return result

    stacks: dict[str, tuple[Tensor, dict[str, nn.Module]]] = {
        "Conv2d 3x3, ReLU, MaxPool2d of 16x32x64x64": (
            image,
            {
                "native": conv(nn, nn.ReLU()),
                "ours": conv(nnart_ops, nnart_ops.ReLU()),
                "ours, ReLU(save='mask')": conv(nnart_ops, nnart_ops.ReLU(save="mask")),
            },
        ),
        "Conv2d 3x3, BatchNorm2d, SiLU, Conv2d 1x1 of 16x32x64x64": (
            image,
            {"native": normalized(), "ours, fused": nnart_ops.fuse(nnart_ops.convert(normalized()))},
        ),
        "Linear, GELU, Dropout, Linear of 2048x512": (
            tokens,
            {
                "native": dense(nn.GELU(), nn.Dropout(0.1)),
                "ours": dense(nnart_ops.GELU(), nnart_ops.Dropout(0.1)),
            },
        ),
        "Linear, GELU, Linear of 2048x512": (
            tokens,
            {
                "native": dense(nn.GELU(), nn.Identity()),
                "ours": dense(nnart_ops.GELU(), nn.Identity()),
                "ours, GELU(save='recompute')": Recomputed(dense(nnart_ops.GELU(save="recompute"), nn.Identity())),
            },
        ),
        "Linear, SwiGLU, Linear of 2048x512": (
            tokens,
            {
                "native": gated(by_hand),
                "ours": gated(ours.swiglu),
                "ours, swiglu(save='recompute')": Recomputed(gated(functools.partial(ours.swiglu, save="recompute"))),
            },
        ),
    }
    for name, (leaf, variants) in stacks.items():
        for variant, model in variants.items():
            kept = bytes_kept(lambda model=model, leaf=leaf: model(leaf * 1))
            yield [name, variant, f"{kept / 2**20:.2f}"]


def loss_rows() -> Iterable[list[str]]:
    """MiB of softmax losses and of poolings by themselves."""
    logits = torch.randn(256, 10000, requires_grad=True)
    labels = torch.randint(10000, (256,))
    image = torch.randn(16, 64, 64, 64, requires_grad=True)
    cases: dict[str, tuple[Tensor, Callable[[Any], Callable[[Tensor], Tensor]]]] = {
        "cross_entropy of 256x10000": (logits, lambda f: lambda x: f.cross_entropy(x, labels)),
        "max_pool2d 2x2 of 16x64x64x64": (image, lambda f: lambda x: f.max_pool2d(x, 2)),
        "dropout of 16x64x64x64": (image, lambda f: lambda x: f.dropout(x, 0.1)),
    }
    for name, (leaf, make) in cases.items():
        for variant, library in (("native", torch.nn.functional), ("ours", ours)):
            call = make(library)
            kept = bytes_kept(lambda call=call, leaf=leaf: call(leaf * 1))
            yield [name, variant, f"{kept / 2**20:.2f}"]


def optimizer_rows() -> Iterable[list[str]]:
    """Bytes a parameter, kept and moved by a step, of a matrix of a million."""
    optim = nnart_ops.optim
    kinds: list[tuple[str, torch.dtype, Callable[[Any], torch.optim.Optimizer]]] = [
        ("SGD with momentum", torch.float32, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)),
        ("Lion", torch.float32, lambda p: optim.Lion(p)),
        ("Adagrad, RMSprop, ASGD", torch.float32, lambda p: optim.Adagrad(p)),
        ("Adam and its kin, Adadelta, Rprop", torch.float32, lambda p: optim.AdamW(p)),
        ("AdamW, zero_grad_in_step", torch.float32, lambda p: optim.AdamW(p, zero_grad_in_step=True)),
        ("AdamW, ema_decay", torch.float32, lambda p: optim.AdamW(p, ema_decay=0.9)),
        ("AdamW, state_dtype=bfloat16", torch.float32, lambda p: optim.AdamW(p, state_dtype=torch.bfloat16)),
        ("AdamW, state_dtype=uint8", torch.float32, lambda p: optim.AdamW(p, state_dtype=torch.uint8)),
        ("AdamW", torch.bfloat16, lambda p: optim.AdamW(p)),
        ("AdamW, stochastic", torch.bfloat16, lambda p: optim.AdamW(p, low_precision="stochastic")),
        ("AdamW, kahan", torch.bfloat16, lambda p: optim.AdamW(p, low_precision="kahan")),
        ("AdamW, master", torch.bfloat16, lambda p: optim.AdamW(p, low_precision="master")),
        (
            "AdamW, master, state_dtype=uint8",
            torch.bfloat16,
            lambda p: optim.AdamW(p, low_precision="master", state_dtype=torch.uint8),
        ),
        (
            "AdamW, stochastic, state_dtype=uint8",
            torch.bfloat16,
            lambda p: optim.AdamW(p, low_precision="stochastic", state_dtype=torch.uint8),
        ),
    ]
    for name, dtype, make in kinds:
        p = torch.nn.Parameter(torch.ones(1000, 1000, dtype=dtype))
        p.grad = torch.ones_like(p)
        optimizer = make([p])
        optimizer.step()
        state = [t for t in optimizer.state[p].values() if t.numel() > 1]
        kept = sum(t.nbytes for t in state)
        written = p.nbytes + kept + (0 if p.grad.any() else p.grad.nbytes)
        read = (0 if "master" in optimizer.state[p] else p.nbytes) + kept + p.grad.nbytes
        kind = str(dtype).removeprefix("torch.")
        yield [name, kind, f"{kept / p.numel():.2f}", f"{(read + written) / p.numel():.2f}"]


TABLES: dict[str, tuple[list[str], Callable[[], Iterable[list[str]]]]] = {
    "activations": (["", "torch", "default", *(f"`{mode}`" for mode in MODES)], activation_rows),
    "operations": (["", "", "MiB kept"], loss_rows),
    "stacks": (["", "", "MiB kept"], stack_rows),
    "optimizers": (["", "parameters", "kept", "moved by a step"], optimizer_rows),
}


def document_of(name: str) -> Path:
    """The page that has the table."""
    return next(page for page in DOCUMENTS if f"<!-- {name} -->" in page.read_text())


def table(name: str) -> str:
    """One of the tables in Markdown."""
    header, rows = TABLES[name]
    lines = [header, ["---"] * len(header), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into the pages of docs")
    arguments = parser.parse_args()
    for name in TABLES:
        measured = table(name)
        print(f"{name}\n{measured}\n")
        if arguments.write:
            pages.put(measured + "\n", document_of(name), name)


if __name__ == "__main__":
    main()
