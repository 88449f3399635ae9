"""How a comparison is timed, and what it is measured against.

Ours and the peer run in turn in one process (A B B A ...), so that a change of clock or a busy neighbour hits both and
neither always finds the caches as the other left them; the figure is of medians. Inputs rotate through copies that
together outgrow the second-level cache, unless a case is warm by nature. The roofline is measured in the same run.

On CUDA the time is the GPU's, between two events in its stream, and its second-level cache is emptied before each call.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

# With glibc's defaults every fresh output above 32 MB (and, erratically, smaller ones) is given back to the system and
# faulted in again, page by page, on each call: times grow up to five-fold, for whoever happens to allocate.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def set_allocator_thresholds() -> None:
    """Restarts this process with the thresholds set, for both sides, unless they are; glibc reads them once."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.environ.update(ALLOCATOR)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]])


@dataclass(frozen=True)
class Comparison:
    """Median seconds of one call, ours and each peer's."""

    ours: float
    peers: dict[str, float]

    @property
    def strongest(self) -> str:
        """The fastest of the peers."""
        return min(self.peers, key=lambda name: self.peers[name])

    @property
    def ratio(self) -> float:
        """The strongest peer's time over ours: above 1, ours is faster."""
        return self.peers[self.strongest] / self.ours


Seconds = Callable[[Callable[[int], Any], int, int], float]


def _cpu_seconds(function: Callable[[int], Any], i: int, inner: int) -> float:
    start = time.perf_counter()
    for _ in range(inner):
        function(i)
    return (time.perf_counter() - start) / inner


FLUSHED_BYTES = 1 << 29  # ten times the largest second-level cache
FLUSHES = 4  # 0.5 ms on an H200: long enough for Python to queue the next call


@functools.cache
def _flushed() -> torch.Tensor:
    return torch.zeros(FLUSHED_BYTES // 4, device="cuda")


def _gpu_seconds(function: Callable[[int], Any], i: int, inner: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(FLUSHES):
        _flushed().sum()  # read, not written: what is left in the cache need not be written back in the call's time
    start.record()
    for _ in range(inner):
        function(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / inner


def _seconds() -> Seconds:
    return _gpu_seconds if torch.get_default_device().type == "cuda" else _cpu_seconds


def peers_of(peer: Callable[[int], Any], *, convolves: bool, compiles: bool) -> dict[str, Callable[[int], Any]]:
    """The ways in which PyTorch may run the peer: as it is, with cuDNN's choice measured, compiled."""

    def with_measured_choice(i: int) -> Any:
        torch.backends.cudnn.benchmark = True
        try:
            return peer(i)
        finally:
            torch.backends.cudnn.benchmark = False

    peers = {"eager": peer}
    if convolves and torch.get_default_device().type == "cuda":
        peers["cudnn.benchmark"] = with_measured_choice
    if compiles:
        torch._dynamo.reset()
        peers["torch.compile"] = torch.compile(peer)
    return peers


def compare(
    ours: Callable[[int], Any], peers: dict[str, Callable[[int], Any]], *, rounds: int, inner: int = 1
) -> Comparison:
    """Times ``ours(i)`` and each peer in turn, i the number of the round, ``inner`` calls at a time.

    Who comes second finds the round's inputs in the caches. Each side does in every other round, and its figure is the
    mean of the median of those and of the median of the others; in one median of an odd number of rounds the more
    frequent kind would decide.
    """
    seconds = _seconds()
    turns: list[tuple[Callable[[int], Any], list[float]]] = [(function, []) for function in (*peers.values(), ours)]
    for i in range(2 + rounds + rounds % 2):  # two rounds to warm up
        for function, samples in turns if i % 2 else reversed(turns):
            samples.append(seconds(function, i, inner))
    *peer_times, our_time = (
        (statistics.median(samples[2::2]) + statistics.median(samples[3::2])) / 2 for _, samples in turns
    )
    return Comparison(ours=our_time, peers=dict(zip(peers, peer_times)))


def copy_bandwidth(sizes: Sequence[int]) -> dict[int, float]:
    """Bytes per second, read and written, of a copy that moves ``size`` bytes altogether, for each size in bytes.

    torch's copy on the CPU reads the lines of its target before it overwrites them; a kernel that stores past the
    caches does not, and may exceed 100 % of this.
    """
    seconds, bandwidth = _seconds(), {}
    for size in sizes:
        count = max(1, size // 8)
        sources = [torch.rand(count) for _ in range(3)]
        target = torch.empty(count)

        def copy(i: int, target: torch.Tensor = target, sources: list[torch.Tensor] = sources) -> None:
            target.copy_(sources[i % 3])

        samples = [seconds(copy, i, 1) for i in range(12)]
        bandwidth[size] = count * 8 / statistics.median(samples[2:])
    return bandwidth


def in_place_bandwidth(sizes: Sequence[int]) -> dict[int, float]:
    """Bytes per second, read and written, of an operation in place on ``size / 2`` bytes, for each size in bytes."""
    seconds, bandwidth = _seconds(), {}
    for size in sizes:
        x = torch.rand(max(1, size // 8))
        samples = [seconds(lambda i, x=x: x.mul_(1.0000001), i, 1) for i in range(12)]
        bandwidth[size] = x.numel() * 8 / statistics.median(samples[2:])
    return bandwidth


def environment(commit: str = "") -> dict[str, Any]:
    """Machine, versions, commit and date, without which a figure means nothing. A copy of a checkout without its
    history is told its ``commit``."""
    import nnart_ops

    root = Path(__file__).parent.parent
    changed = ""
    if not commit:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True).stdout
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "driver": _driver(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **nnart_ops.build_info()},
        "commit": (commit or "unknown") + (" with changes" if changed.strip() else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "allocator": ALLOCATOR,
    }


def _driver() -> str | None:
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
