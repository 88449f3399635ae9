"""How many bytes the CUDA kernels move, counted access by access in the emulation, and the fewest that they could.

python python_tests/traffic.py            prints the table
python python_tests/traffic.py --write    puts it into docs/cuda_kernels.md

The floor of a call has each of its inputs read once and each output written once. *Moved* are the 32-byte sectors that
each launch touches, counted once, as if the card's cache held them from block to block; *by blocks* those that each
block touches, as if no block had anything of another's. Between the two lies what a GPU moves.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import emulation
import torch
from torch import Tensor

DOCUMENT = emulation.ROOT / "docs" / "cuda_kernels.md"
LIMIT = 1.05  # times the floor


@dataclass(frozen=True)
class Count:
    """The bytes of a call. ``shares`` says that blocks read what others read too: windows that overlap, factors."""

    name: str
    dtype: str
    kernels: str
    floor: int
    moved: int
    by_blocks: int
    shares: bool

    @property
    def keeps_to_the_floor(self) -> bool:
        return self.moved <= LIMIT * self.floor and (self.shares or self.by_blocks <= LIMIT * self.floor)


def bytes_of(*tensors: Tensor) -> int:
    return sum(t.nbytes for t in tensors)


def counts(dtype: torch.dtype) -> Iterator[Count]:
    """Every family's calls in one dtype."""
    import nnart_ops
    import nnart_ops.functional as F
    from nnart_ops import optim

    emulated, ops = emulation.loaded(), torch.ops.nnart_ops
    assert emulated is not None, "not the emulated build"

    def counted(name: str, run: Callable[[], object], floor: int, shares: bool = False) -> Count:
        with emulated.watched() as launches:
            run()
        moved = sum(launch.sectors_read + launch.sectors_written for launch in launches)
        by_blocks = sum(launch.read_by_blocks + launch.written_by_blocks for launch in launches)
        names = dict.fromkeys(re.sub(r"^.*?(\w+_kernel)[<(].*$", r"\1", launch.kernel) for launch in launches)
        return Count(name, str(dtype)[6:], ", ".join(names), floor, moved, by_blocks, shares)

    def pair(
        name: str, call: Callable[..., Tensor], *inputs: Tensor, saved: int = -1, shares: bool = False
    ) -> Iterator[Count]:
        """Forward and backward; ``saved`` are the bytes that the backward reads besides the gradient."""
        saved = bytes_of(*inputs) if saved < 0 else saved
        with torch.no_grad():
            y = call(*inputs)
        yield counted(f"{name} forward", lambda: call(*inputs), bytes_of(*inputs, y), shares)
        leaves = [t.detach().requires_grad_() for t in inputs]
        y = call(*leaves)
        grad = torch.randn_like(y) if y.dim() else torch.ones_like(y)
        floor = bytes_of(grad, *leaves) + saved
        yield counted(f"{name} backward", lambda: torch.autograd.grad(y, leaves, grad), floor, shares)

    def normalizations(images: Tensor, layout: str) -> Iterator[Count]:
        """Sums and results are two readings, each with the channels' numbers in every block; a convolution has the
        sums beside its result."""
        order = [] if layout == "NCHW" else [0, 2, 3, 1]
        weight, bias, mean, var = torch.rand(4, 64)
        beside = torch.randn_like(images)  # the residual, or the gradient
        how, x = (1e-5, True, "relu", [], order), bytes_of(images)
        given = lambda: ops.batch_norm(images, weight, bias, beside, mean, var, *how)  # noqa: E731
        yield counted(f"batch norm, residual and ReLU {layout} forward", given, 3 * x, True)
        of_batch = lambda: ops.batch_norm(images, weight, bias, None, None, None, *how)  # noqa: E731
        yield counted(f"batch norm of the batch and ReLU {layout} forward", of_batch, 3 * x, True)
        backward = (*how[:2], False, *how[2:])
        of_batch = lambda: ops.batch_norm_backward(beside, images, weight, bias, None, mean, var, *backward)  # noqa: E731
        yield counted(f"batch norm of the batch and ReLU {layout} backward", of_batch, 5 * x, True)
        if layout == "NCHW":
            return
        filters, where = torch.rand(64, 64, 1, 1).to(images), ([1, 1], [0] * 4, [1, 1], 1)
        for name, call, more in (
            ("its moments", lambda: ops.conv_moments(images, filters, None, *where), 0),
            (
                "batch norm, residual and ReLU",
                lambda: ops.conv_batch_norm(
                    images, filters, None, weight, bias, beside, mean, var, 1e-5, *where, "relu", []
                ),
                x,
            ),
            (
                "ReLU and its mask",
                lambda: ops.conv_masked_activation(images, filters, None, None, *where, "relu", []),
                images.numel() // 8,
            ),
            (
                "ReLU before it, dgrad",
                lambda: ops.conv_dgrad_activation(images, filters, beside, *where, "relu", []),
                x,
            ),
        ):
            with nnart_ops.config(conv_strategy="gemm"):
                yield counted(f"1x1 convolution with {name}", call, 2 * x + bytes_of(filters) + more, True)

    size = 1 << (20 if dtype is torch.bfloat16 else 19)
    x, other = (torch.randn(size).to(dtype) for _ in "xy")
    yield from pair("silu", F.silu, x)
    yield from pair("relu, save='mask'", lambda t: F.relu(t, save="mask"), x, saved=size // 8)
    yield from pair("swiglu", F.swiglu, x, other)
    yield from pair("dropout", lambda t: F.dropout(t, 0.3), x, saved=0)
    for layout, columns in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        images = x.view(-1, 64, 32, 32).contiguous(memory_format=columns)
        parameter = torch.rand(64).to(dtype)
        yield from pair(f"prelu {layout}", F.prelu, images, parameter)
        biased = lambda t, b: F.bias_activation(t, b, "gelu", dim=1, dropout_p=0.2)  # noqa: E731
        yield from pair(f"bias, gelu and dropout {layout}", biased, images, parameter)
        yield counted(f"sums of channels {layout}", lambda t=images: ops.channel_sum(t, 1), bytes_of(images, parameter))
        yield from normalizations(images, layout)
        for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
            window = f"{kernel}x{kernel} stride {stride} {layout}"
            maximum = lambda t, w=(kernel, stride, padding): F.max_pool2d(t, *w)  # noqa: E731
            offsets = maximum(images).numel()
            yield from pair(f"max_pool2d {window}", maximum, images, saved=offsets, shares=True)
            mean = lambda t, w=(kernel, stride, padding): F.avg_pool2d(t, *w)  # noqa: E731
            yield from pair(f"avg_pool2d {window}", mean, images, saved=0, shares=True)
        for taps, step in ((3, 1), (3, 2), (5, 1), (7, 1)):
            weight = torch.rand(64, 1, taps, taps).to(dtype)
            where = ([step] * 2, [taps // 2] * 4, [1, 1], 64)
            y = ops.conv(images, weight, None, *where)
            name, floor = f"depthwise {taps}x{taps} stride {step} {layout}", bytes_of(images, weight, y)
            yield counted(f"{name} forward", lambda a=(images, weight, None, *where): ops.conv(*a), floor, True)
            backward = lambda a=(y, weight, None, images.shape, *where): ops.conv_transpose(*a)  # noqa: E731
            yield counted(f"{name} dgrad", backward, floor, True)
            backward = lambda a=(y, images, [taps] * 2, *where): ops.conv_wgrad(*a)  # noqa: E731
            yield counted(f"{name} wgrad", backward, floor, True)
        yield from pair(f"global average {layout}", lambda t: F.adaptive_avg_pool2d(t, 1), images, saved=0, shares=True)
        pixels = torch.zeros(images.size(0), 32, 32, dtype=torch.int64)
        for name, logits in (("rows of 64", images), ("rows of 1024", x.view(-1, 1024))):
            if name != "rows of 64" and layout == "NHWC":
                continue
            place = f"{name} {layout}" if name == "rows of 64" else name
            yield from pair(f"softmax {place}", lambda t: F.softmax(t, 1), logits)
            labels = pixels if name == "rows of 64" else torch.zeros(logits.size(0), dtype=torch.int64)
            compute = 4 * labels.numel()
            loss = lambda t, labels=labels: F.cross_entropy(t, labels)  # noqa: E731
            for count in pair(f"cross-entropy {place}", loss, logits):
                statistics = bytes_of(labels) + 2 * compute  # of each row, which the forward leaves to the backward
                yield Count(**{**vars(count), "floor": count.floor + statistics})

    # The tensors a step reads or writes, and how often it reads the gradient. Adafactor averages it, measures the
    # update and makes it; what it keeps of rows and columns is next to nothing.
    for name, options, tensors, grads in (
        ("SGD with momentum", {"cls": optim.SGD, "lr": 0.1, "momentum": 0.9}, 5, 1),
        ("AdamW", {"cls": optim.AdamW}, 7, 1),
        ("AdamW, norm clipped", {"cls": optim.AdamW, "max_grad_norm": 1.0}, 7, 2),
        (
            "AdamW, average kept, gradient zeroed",
            {"cls": optim.AdamW, "ema_decay": 0.9, "zero_grad_in_step": True},
            8,
            1,
        ),
        ("Adafactor", {"cls": optim.Adafactor}, 4, 3),
    ):
        weights = [torch.nn.Parameter(t.clone()) for t in x.view(4, 512, -1)]
        cls = options.pop("cls")
        optimizer = cls(weights, **options)
        for _ in range(2):  # the table is there then, and so is the state
            for p in weights:
                p.grad = torch.randn_like(p) if p.grad is None else p.grad.normal_()
            optimizer.step()
        for p in weights:
            p.grad.normal_()
        floor = (tensors + grads - 1) * x.nbytes
        if "ema_decay" in options:  # in float32, read and written
            floor += 8 * x.numel()
        yield counted(name, optimizer.step, floor, shares=cls is optim.Adafactor)


def all_counts() -> list[Count]:
    torch.manual_seed(0)
    return [count for dtype in (torch.float32, torch.bfloat16) for count in counts(dtype)]


def table(rows: list[Count]) -> str:
    lines = ["| call | dtype | kernels | floor, MB | moved / floor | by blocks / floor |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = f"{row.floor / 1e6:.2f} | {row.moved / row.floor:.3f} | {row.by_blocks / row.floor:.3f}"
        lines.append(f"| {row.name} | {row.dtype} | {row.kernels} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/cuda_kernels.md")
    arguments = parser.parse_args()
    if emulation.loaded() is None:  # once more, with the emulated build
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=dict(emulation.environment("emulation"))).returncode)
    rows = all_counts()
    if arguments.write:
        from benchmarks import pages

        pages.put(table(rows), DOCUMENT, "traffic")
    else:
        print(table(rows))
    over = [f"{row.name} {row.dtype}" for row in rows if not row.keeps_to_the_floor]
    sys.exit(f"more than {LIMIT} times the floor: {over}" if over else 0)


if __name__ == "__main__":
    main()
