"""What the tiles of CUDA's implicit GEMM read and write, and the least time of its layers on an H200.

python -m benchmarks.gemm_tiles                       the layers of benchmarks/layers.py in bfloat16
python -m benchmarks.gemm_tiles --dtype float32       in another dtype; float32 as TF32

A tile of csrc/cuda/conv/gemm.cu reads its rows and its columns of the two matrices whole: each row is read once for
each tile across and each column once for each tile down, padding never. *Tiles* are these bytes and those that are
written, most of them from and to the second-level cache; *floor* has each tensor moved once. The least time is the
longer of the floor at the memory's rate and the multiplications at the tensor cores'.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from benchmarks.case import DTYPES
from benchmarks.layers import NETWORKS, NETWORKS_TRANSPOSED, Layer

# An H200's memory and tensor cores at their best: TF32 at half the rate of 16 bits.
BYTES_A_SECOND = 4.3e12
FLOPS_A_SECOND = {"bfloat16": 790e12, "float16": 790e12, "float32": 395e12}

# As in csrc/cuda/conv/gemm_load.cuh and gemm.cu, to which python_tests/test_cuda_conv.py holds what is computed here.
NARROW, WIDE = 64, 128
FILLING_TILES, FILLING_WIDE_TILES, LEAST_TERMS, MOST_TERMS, LINE_BYTES = 512, 256, 2048, 16384, 64


@dataclass(frozen=True)
class Convolution:
    """Sizes as of a forward convolution; a transposed one is its gradient of x."""

    batch: int
    groups: int
    channels: tuple[int, int]  # of a group, in and out
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def axes(self) -> list[tuple[int, ...]]:
        """Size, filter, stride, padding and dilation of each axis, and its size in y."""
        axes = zip(self.image, self.kernel, self.stride, self.padding, self.dilation)
        return [(n, k, s, p, d, (n + 2 * p - d * (k - 1) - 1) // s + 1) for n, k, s, p, d in axes]

    @property
    def out(self) -> int:
        """Pixels of y, of all images."""
        return self.batch * prod(axis[5] for axis in self.axes)

    @property
    def met(self) -> int:
        """Pairs of a pixel of y and a tap that meets x there, and not its padding."""
        return sum(met for _, _, met in self.phases)

    @property
    def phases(self) -> Iterator[tuple[int, int, int]]:
        """Pixels of x that the same taps reach, those taps, and their pairs with pixels of y: in the gradient of x a
        product of its own each."""
        each = []
        for n, k, s, p, d, out in self.axes:
            met = [o * s - p + q * d for o in range(out) for q in range(k)]
            of_axis = [
                (
                    len(range(phase, n, s)),
                    sum((phase + p - q * d) % s == 0 for q in range(k)),
                    sum(0 <= x < n and x % s == phase for x in met),
                )
                for phase in range(s)
            ]
            each.append(of_axis)
        for phases in itertools.product(*each):
            pixels, taps, met = (prod(numbers) for numbers in zip(*phases))
            if pixels:
                yield self.batch * pixels, taps, self.batch * met


@dataclass(frozen=True)
class Bytes:
    read: int
    written: int
    floor: int  # of both

    @property
    def moved(self) -> int:
        return self.read + self.written


def columns_of(tiles_down: int, n: int, may_be_wide: bool, any_number: bool) -> int:
    """Of a tile."""
    wide = (
        may_be_wide and ceil(n / NARROW) % 2 == 0 and (any_number or tiles_down * ceil(n / WIDE) >= FILLING_WIDE_TILES)
    )
    return WIDE if wide else NARROW


def bytes_of(conv: Convolution, which: str, dtype: str, channels_last: bool = True, bias: bool = False) -> Bytes:
    """``which``: ``forward``, ``dgrad`` or ``wgrad``. float32 is multiplied as TF32."""
    size = DTYPES[dtype].itemsize
    fitting = [n for n in range(1, conv.groups + 1) if conv.groups % n == 0 and n * max(conv.channels) <= NARROW]
    together = max(fitting, default=1)  # groups that a tile takes as one
    groups, (c_in, c_out) = conv.groups // together, (c * together for c in conv.channels)
    rows = 64 if size == 8 else 128
    width = 16 // size
    packs = channels_last and c_in % width == 0 and c_out % width == 0
    taps = prod(conv.kernel)
    filters = groups * c_in * c_out // together * taps * size
    x, y = (groups * c * pixels * size for c, pixels in zip((c_in, c_out), (conv.batch * prod(conv.image), conv.out)))
    floor = x + y + filters
    if which == "wgrad":
        m, n, k = c_out, taps * c_in, conv.out
        down, columns = ceil(m / rows), columns_of(0, n, packs and size == 2, True)
        across = ceil(n / columns)
        step = LINE_BYTES // size
        terms = min(max(ceil(k / ceil(FILLING_TILES / (down * across * groups))), LEAST_TERMS), MOST_TERMS)
        pieces = ceil(k / min(ceil(max(k, 1) / step) * step, ceil(terms / step) * step))
        sums = pieces * filters // size * 8
        read = groups * size * (across * m * k + down * conv.met * c_in) + sums
        return Bytes(read, sums + filters, floor)
    n, inner = (c_out, c_in) if which == "forward" else (c_in, c_out)
    packed_columns = packs and together == 1 and (which == "forward" or size == 2)
    read, written = 0, (y if which == "forward" else x)
    products = [(conv.out, taps, conv.met)] if which == "forward" else conv.phases
    for pixels, taps, met in products:
        down = ceil(pixels / rows)
        across = ceil(n / columns_of(groups * down, n, packed_columns and size != 8, False))
        read += groups * size * (across * met * inner + down * n * taps * inner // together)
    if bias:
        read += written
    return Bytes(read, written, floor)


def convolution_of(layer: Layer, transposed: bool) -> Convolution:
    (batch, _, *image), weight, options = layer
    dims = len(image)
    spread = lambda value: (value,) * dims if isinstance(value, int) else tuple(value)  # noqa: E731
    numbers: dict[str, Any] = {
        name: spread(options.get(name, default)) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    groups, kernel = options.get("groups", 1), tuple(weight[2:])
    if transposed:
        sizes = zip(image, kernel, numbers["stride"], numbers["padding"], numbers["dilation"])
        image = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in sizes]
    return Convolution(batch, groups, (weight[1], weight[0] // groups), tuple(image), kernel, **numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=FLOPS_A_SECOND, default="bfloat16")
    dtype = parser.parse_args().dtype
    print(f"{'layer':44} {'pass':8} {'GFLOP':>7} {'floor MB':>9} {'tiles MB':>9} {'least us':>9}  bound by")
    layers = [(name, convolution_of(layer, False)) for name, layer in NETWORKS.items()]
    layers += [(f"transposed {name}", convolution_of(layer, True)) for name, layer in NETWORKS_TRANSPOSED.items()]
    for (name, conv), which in itertools.product(layers, ("forward", "dgrad", "wgrad")):
        count = bytes_of(conv, which, dtype)
        flops = 2 * conv.groups * prod(conv.channels) * conv.out * prod(conv.kernel)
        times = {"memory": count.floor / BYTES_A_SECOND, "arithmetic": flops / FLOPS_A_SECOND[dtype]}
        bound = max(times, key=lambda key: times[key])
        print(
            f"{name:44} {which:8} {flops / 1e9:7.1f} {count.floor / 1e6:9.1f} {count.moved / 1e6:9.1f} "
            f"{times[bound] * 1e6:9.1f}  {bound}"
        )


if __name__ == "__main__":
    main()
