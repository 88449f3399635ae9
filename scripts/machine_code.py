"""What the compiler made of the CUDA kernels: registers, shared memory, spills and occupancy, read from ``_cuda.so``.

Needs no GPU, but the disassembler of the development requirements.

python scripts/machine_code.py            a line for each kernel of each source file
python scripts/machine_code.py --all      a line for each instantiation
python scripts/machine_code.py --write    the table of docs/cuda_kernels.md
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA_OBJECT = ROOT / "nnart_ops" / "_cuda.so"
DOCUMENT = ROOT / "docs" / "cuda_kernels.md"
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")

# Of a multiprocessor of each: "Technical Specifications per Compute Capability" in the CUDA C++ Programming Guide.
WARPS, BLOCKS, REGISTERS = 64, 32, 65536
SHARED = {"sm_80": 164 << 10, "sm_90a": 228 << 10, "sm_100": 228 << 10}
WARP, REGISTERS_AT_A_TIME, SHARED_OF_SYSTEM = 32, 256, 1024  # registers are handed to a warp in such portions


@dataclass(frozen=True)
class Kernel:
    """An instantiation as it was compiled for one architecture."""

    architecture: str
    symbol: str
    registers: int
    stack: int  # bytes of local memory a thread: spills, and arrays with an index that is not constant
    shared: int  # bytes a block
    threads: int  # of a block, as the launch bounds have it
    promised: int  # blocks of a multiprocessor, as they have it

    @property
    def occupancy(self) -> int:
        """Warps that a multiprocessor can have of it."""
        warps = -(-self.threads // WARP)
        portion = -(-self.registers * WARP // REGISTERS_AT_A_TIME) * REGISTERS_AT_A_TIME
        blocks = min(BLOCKS, WARPS // warps, REGISTERS // (portion * warps))
        if self.shared:
            blocks = min(blocks, SHARED[self.architecture] // (self.shared + SHARED_OF_SYSTEM))
        return blocks * warps

    @property
    def keeps_promise(self) -> bool:
        """Whether as many blocks fit as the launch bounds say."""
        return self.occupancy >= self.promised * -(-self.threads // WARP)

    @property
    def source(self) -> str:
        """The file that has its body, as far as the symbol says."""
        found = re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_", self.symbol)
        return f"{found[1]}.cu" if found else ""

    @property
    def name(self) -> str:
        found = re.search(r"\d+([a-z_]+_kernel)", self.symbol)
        return found[1] if found else self.symbol


def cuobjdump(*arguments: str) -> str:
    """The output of the disassembler that pip installed; FileNotFoundError where it is missing."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("cu*/bin/cuobjdump"))]
    if not found:
        raise FileNotFoundError("cuobjdump is not installed: pip install -r requirements/dev.txt")
    return subprocess.run([str(found[0]), *arguments], capture_output=True, text=True, check=True).stdout


def launch_bounds(path: Path) -> dict[str, tuple[int, int]]:
    """Threads of a block and promised blocks of each symbol, from the PTX that goes with the machine code."""
    bounds: dict[str, tuple[int, int]] = {}
    for entry in cuobjdump("-ptx", str(path)).split(".entry ")[1:]:
        head = entry[: entry.index("{")]
        threads, blocks = re.search(r"\.maxntid (\d+)", head), re.search(r"\.minnctapersm (\d+)", head)
        bounds[head[: head.index("(")]] = (int(threads[1]) if threads else 1024, int(blocks[1]) if blocks else 1)
    return bounds


@functools.cache
def kernels(path: Path = CUDA_OBJECT) -> tuple[Kernel, ...]:
    """Every kernel of every architecture."""
    bounds = launch_bounds(path)
    found, architecture, symbol = [], "", ""
    for line in cuobjdump("-res-usage", str(path)).splitlines():
        if line.startswith("arch = "):
            architecture = line[7:]
        elif line.startswith(" Function "):
            symbol = line[10:-1]
        elif line.startswith("  REG:"):
            numbers = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            local = numbers["STACK"] + numbers["LOCAL"]
            shared = numbers["SHARED"]
            if shared and architecture != "sm_80":
                shared -= SHARED_OF_SYSTEM  # counted here from sm_90 on
            threads, blocks = bounds.get(symbol, (1024, 1))
            found.append(Kernel(architecture, symbol, numbers["REG"], local, shared, threads, blocks))
    return tuple(found)


def accesses(chosen: Sequence[Kernel], path: Path = CUDA_OBJECT) -> dict[str, Counter[str]]:
    """How often the machine code of kernels of one architecture has each instruction for memory, and those of tensor
    cores, by symbol."""
    names = ",".join(kernel.symbol for kernel in chosen)
    text = cuobjdump("-sass", "-arch", chosen[0].architecture, "-fun", names, str(path))
    result = {}
    for function in text.split("Function : ")[1:]:
        instructions = re.findall(r"\b((?:HMMA|LDSM|LDGSTS|(?:LD|ST)[GSL])(?:\.[A-Z0-9_]+)*) ", function)
        result[function.split("\n", 1)[0].strip()] = Counter(instructions)
    return result


def demangled(symbols: Iterable[str]) -> list[str]:
    """Symbols as the source writes them, without namespaces."""
    listing = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    return [
        re.sub(r"^void |\(anonymous namespace\)::|nnart::(cuda::|math::)?", "", line) for line in listing.splitlines()
    ]


def span(numbers: Iterable[int]) -> str:
    low, high = min(numbers := list(numbers)), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def table() -> list[str]:
    """A line for each kernel of each file, in Markdown."""
    groups: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels():
        groups.setdefault((kernel.source, kernel.name), []).append(kernel)
    lines = [
        "| file | kernel | instances | threads | registers sm_80 | sm_90a | sm_100 | shared bytes | warps of 64 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (source, name), group in sorted(groups.items()):
        of = {arch: [k for k in group if k.architecture == arch] for arch in ARCHITECTURES}
        registers = " | ".join(span(k.registers for k in of[arch]) if of[arch] else "" for arch in ARCHITECTURES)
        cells = [source, name, str(len({k.symbol for k in group})), span(k.threads for k in group), registers]
        cells += [span(k.shared for k in group), span(k.occupancy for k in group)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every instantiation")
    parser.add_argument("--write", action="store_true", help=f"the table into {DOCUMENT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.all:
        for kernel, name in zip(kernels(), demangled(kernel.symbol for kernel in kernels()), strict=True):
            numbers = f"{kernel.registers:4d} registers {kernel.stack:4d} stack {kernel.shared:6d} shared"
            print(f"{kernel.architecture:7s} {numbers} {kernel.occupancy:3d} warps  {name}")
    elif arguments.write:
        text = DOCUMENT.read_text()
        begin, end = "<!-- machine code -->\n", "<!-- end of machine code -->"
        before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
        DOCUMENT.write_text(before + "\n".join(table()) + "\n" + after)
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
