"""Measures what is kept alive between forward and backward, ours and native, and writes the tables of docs/memory.md.

python -m benchmarks.memory            prints the tables
python -m benchmarks.memory --write    puts them into docs/memory.md

A figure is what torch's allocator holds more after the forward than before it, when nothing but the graph is left of
the forward: inputs that were there before, parameters among them, do not count.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nnart_ops
import nnart_ops.functional as ours

ELEMENTS = 1 << 20
DOCUMENT = Path(__file__).parent.parent / "docs" / "memory.md"
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


TABLES: dict[str, tuple[list[str], Callable[[], Iterable[list[str]]]]] = {
    "activations": (["", "torch", "default", *(f"`{mode}`" for mode in MODES)], activation_rows),
    "operations": (["", "", "MiB kept"], loss_rows),
    "stacks": (["", "", "MiB kept"], stack_rows),
}


def table(name: str) -> str:
    """One of the tables in Markdown."""
    header, rows = TABLES[name]
    lines = [header, ["---"] * len(header), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/memory.md")
    arguments = parser.parse_args()
    text = DOCUMENT.read_text() if arguments.write else ""
    for name in TABLES:
        measured = table(name)
        print(f"{name}\n{measured}\n")
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=measured: m[1] + t + m[2], text, flags=re.S
        )
    if arguments.write:
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
