"""The emulated build of the library, in which CPU tensors run the CUDA kernels (csrc/emulation).

How it is made, and what a process that has imported it can ask of it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / f"{sys.implementation.cache_tag}-inplace"
SCHEDULES = ("forward", "reverse", "warps")

# Of AddressSanitizer, which must be the first library of a process.
SANITIZER = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def build(variant: str) -> Path:
    """The folder with the package of ``"emulation"`` or ``"emulation_sanitized"``, compiled where it is out of date."""
    binaries = Path(sys.executable).parent
    with FileLock(BUILD / "emulation.lock"):
        command = [str(binaries / "cmake"), "--build", str(BUILD), "--target", variant, "--parallel", "2"]
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return BUILD / variant


def library_of_compiler(name: str) -> str:
    """Where the compiler's own library of that name lies."""
    command = [*os.environ.get("CXX", "c++").split(), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment(variant: str) -> Mapping[str, str]:
    """Of a process that imports that package."""
    path = os.pathsep.join([str(build(variant)), str(ROOT), str(ROOT / "python_tests")])
    chosen = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    if variant == "emulation_sanitized":
        # The sanitizer looks for the C++ library's throw when it starts: without it an exception ends the process.
        libraries = [library_of_compiler(name) for name in ("libasan.so", "libstdc++.so")]
        chosen |= {**SANITIZER, "LD_PRELOAD": " ".join(libraries)}
    return chosen


@dataclass(frozen=True)
class Launch:
    """What a launch read from global memory and wrote to it, in bytes.

    Those of all accesses, and those of the 32-byte sectors that they touched, each once a block, or once altogether.
    """

    kernel: str
    read: int
    written: int
    read_by_blocks: int
    written_by_blocks: int
    sectors_read: int
    sectors_written: int


class Emulation:
    """What the emulated library offers, by its path or as the package that is imported."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._library = ctypes.CDLL(path)
        for name in ("traffic", "kernels"):
            getattr(self._library, f"nnart_emulation_{name}").restype = ctypes.c_char_p
        self._library.nnart_emulation_object.restype = ctypes.c_void_p

    @property
    def sees_accesses(self) -> bool:
        """Whether it was compiled so that ``watched`` has something to see."""
        return "sanitized" not in self._path

    def schedule(self, name: str) -> None:
        """In which order the threads of every launch from now on run."""
        self._library.nnart_emulation_schedule(SCHEDULES.index(name))

    @contextmanager
    def watched(self) -> Iterator[list[Launch]]:
        """Launches of the block, with their accesses counted and held against one another for races."""
        launches: list[Launch] = []
        self._library.nnart_emulation_watch(1)
        try:
            yield launches
            for line in self._library.nnart_emulation_traffic().decode().splitlines():
                address, *numbers = line.split()
                launches.append(Launch(self._name(address), *map(int, numbers)))
        finally:
            self._library.nnart_emulation_watch(0)

    def set_tf32_switch(self, switch: Any) -> None:
        """What stands for torch's switch, as ``nnart_ops._extension.tf32_switch`` does on a GPU."""
        self._library.nnart_set_tf32_switch(switch)

    def kernels(self) -> set[str]:
        """Every kernel that has run, with its template arguments."""
        return {self._name(line) for line in self._library.nnart_emulation_kernels().decode().splitlines()}

    def _name(self, address: str) -> str:
        return self._symbols[int(address, 16) - self._library.nnart_emulation_object()]

    @functools.cached_property
    def _symbols(self) -> dict[int, str]:
        listing = subprocess.run(["nm", "-C", "--defined-only", self._path], capture_output=True, text=True, check=True)
        symbols = {}
        for line in listing.stdout.splitlines():
            address, kind, name = line.split(maxsplit=2)
            if kind in "tTwW":
                symbols[int(address, 16)] = name
        return symbols


@functools.cache
def loaded() -> Emulation | None:
    """The emulation that this process has imported as nnart_ops, if it has."""
    from nnart_ops import _C

    return Emulation(_C.__file__) if hasattr(ctypes.CDLL(_C.__file__), "nnart_emulation_watch") else None
