"""The measured choice of a convolution's strategy: the switch, and the files that keep what was measured.

The compiled half measures a problem when it first meets it (csrc/ops/conv_tuning.h). Each choice is a file of its own,
in a folder for each machine and set of versions: it appears whole or not at all, so that any number of processes may
write, and one that cannot be read counts as missing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from nnart_ops import _extension

_RECALL = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_KEEP = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_double)
_missing: set[tuple[str, str]] = set()  # of which there is no file, as far as this process knows


def switch(on: bool) -> None:
    """Turns measuring on or off for the whole process."""
    _extension.tunes_convs = on
    for device, planner in _extension.planners().items():
        planner.nnart_tune_convs(ctypes.c_bool(on), *_callbacks(device))
    _extension.conv_plans.clear()


def folder(device: str) -> Path:
    """Where the choices of such a device are: ``NNART_CACHE_DIR``, or ``nnart_ops`` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("NNART_CACHE_DIR") or Path(cache) / "nnart_ops")
    return root / "convolutions" / _short(json.dumps(_environment(device), sort_keys=True))


@functools.cache
def _callbacks(device: str) -> tuple[Any, Any]:
    """What the compiled half calls, from whichever thread computes: for a choice made elsewhere, and with one made."""
    planner = _extension.planners()[device]

    def recall(problem: bytes) -> None:
        found = _read(device, problem.decode())
        if found is not None:
            strategy, reason, gain = found
            planner.nnart_remember_conv(problem, strategy.encode(), reason.encode(), ctypes.c_double(gain))

    def keep(problem: bytes, strategy: bytes, reason: bytes, gain: float) -> None:
        _write(device, problem.decode(), strategy.decode(), reason.decode(), gain)

    return _RECALL(recall), _KEEP(keep)


def _read(device: str, problem: str) -> tuple[str, str, float] | None:
    """Strategy, reason, and the seconds gained over native."""
    if (device, problem) in _missing:
        return None
    try:
        kept = json.loads(_path(device, problem).read_text())
        if kept["problem"] == problem:
            return str(kept["strategy"]), str(kept["reason"]), float(kept["gain"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    _missing.add((device, problem))
    return None


def _write(device: str, problem: str, strategy: str, reason: str, gain: float) -> None:
    path = _path(device, problem)
    kept = {
        "problem": problem,
        "strategy": strategy,
        "reason": reason,
        "gain": gain,
        "environment": _environment(device),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as own:
            whole = Path(own) / path.name
            whole.write_text(json.dumps(kept, indent=1))
            os.replace(whole, path)
    except OSError as error:
        warnings.warn(
            f"nnart_ops: what was measured of convolutions cannot be kept in {path.parent} ({error}), so that the next "
            "process measures again; set NNART_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )


def _path(device: str, problem: str) -> Path:
    return folder(device) / f"{_short(problem)}.json"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _environment(device: str) -> dict[str, Any]:
    """What, besides the problem, a time depends on. The GPUs of a machine count as of one kind."""
    facts = dict(_fixed_environment(device))
    if device == "cuda":
        facts["cudnn.benchmark"] = torch.backends.cudnn.benchmark
    return facts


@functools.cache
def _fixed_environment(device: str) -> dict[str, Any]:
    info = _extension.build_info()
    binary = Path(_extension.planners()[device]._name).read_bytes()
    facts = {"torch": torch.__version__, "nnart_ops": info["version"], "build": hashlib.sha256(binary).hexdigest()}
    if device == "cuda":
        name, versions = torch.cuda.get_device_name(), (torch.version.cuda, torch.backends.cudnn.version())
        return {**facts, "device": name, "cuda": versions[0], "cudnn": versions[1]}
    return {
        **facts,
        "device": _processor(),
        "isa": info["cpu_isa"],
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    """The CPU's name and numbers, which tell apart what a name does not."""
    keys = ("vendor_id", "cpu family", "model", "model name", "stepping")
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return "unknown"
    pairs = (line.partition(":") for line in first.splitlines())
    return ", ".join(value.strip() for key, _, value in pairs if key.strip() in keys)
