"""Whether the CUDA kernels are right, and how fast, on the GPU of this machine: ``make gpu-check``.

Runs with any Python that has a CUDA torch, pytest, pybind11, cmake and ninja, without a network and without a virtual
environment. Builds for the card it finds in ``build/gpu-check`` and checks that build, not one that may be installed.
Every stage runs whatever became of the others, and leaves its output in a file beside the report.

python scripts/gpu_check.py --only build tests --out build/gpu-check/report.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu-check"

# The tests that also run with the tensors of the GPU: those of the families with CUDA kernels.
ON_DEVICE = (
    "test_ops.py",
    "test_activation.py",
    "test_batch_norm.py",
    "test_bias_activation.py",
    "test_conv.py::test_torch_samples",
    "test_conv.py::test_what_torch_refuses",
    "test_conv_transpose.py::test_torch_samples",
    "test_cross_entropy.py",
    "test_dropout.py",
    "test_gated.py",
    "test_optim.py",
    "test_optim_directions.py",
    "test_optim_low_precision.py",
    "test_optim_options.py",
    "test_pooling.py",
    "test_pooling_torch.py",
    "test_prelu.py",
    "test_rrelu.py",
    "test_save.py",
    "test_softmax.py",
    "test_torch_samples.py",
)
MOST_WORKERS = 14  # of tests on one GPU


@dataclass
class Outcome:
    """What became of a stage."""

    status: str  # passed, failed or skipped
    note: str = ""
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)  # for the table at the end


class Check:
    """The stages; each is a method that returns its :class:`Outcome`."""

    def __init__(self, out: Path, commit: str, limits: dict[str, float]) -> None:
        self.out, self.commit, self.limits = out, commit, limits
        # First what was built here, then the benchmarks; never the package in the checkout.
        path = os.pathsep.join([str(BUILD), str(ROOT), os.environ.get("PYTHONPATH", "")])
        # The cmake and ninja installed beside this Python before those of the system.
        programs = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",
            "PATH": programs,
            "NNART_CUDA_ON_TRIAL": "1",
        }

    def log(self, stage: str) -> Path:
        return self.out.parent / f"{self.out.stem}_{stage}.log"

    def run(self, stage: str, command: Sequence[object], more: dict[str, str] | None = None) -> Outcome:
        """Runs a command; its output goes to the stage's file and its end into the note if it fails."""
        words = [str(part) for part in command]
        with self.log(stage).open("a") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            try:
                code = subprocess.run(
                    words,
                    cwd=ROOT,
                    env={**self.environment, **(more or {})},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=self.limits[stage],
                ).returncode
            except subprocess.TimeoutExpired:
                return Outcome("failed", f"not done after {self.limits[stage]:.0f} s")
        tail = self.log(stage).read_text(errors="replace").strip().splitlines()
        return Outcome("passed" if code == 0 else "failed", tail[-1][:200] if tail else "")

    def build(self) -> Outcome:
        """The extension for this card alone, with the CPU's kernels for one instruction set."""
        import torch

        major, minor = torch.cuda.get_device_capability()
        package = BUILD / "nnart_ops"
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(ROOT / "nnart_ops", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        settings = {
            "Python_EXECUTABLE": sys.executable,
            "NNART_CUDA": "1",
            "NNART_CUDA_ARCHITECTURES": f"{major}.{minor}{'a' if major >= 9 else ''}",
            "NNART_BASELINE_ONLY": "ON",
            "NNART_OUTPUT_DIRECTORY": package,
        }
        defines = [f"-D{name}={value}" for name, value in settings.items()]
        configured = self.run("build", ["cmake", "-S", ROOT, "-B", BUILD / "cmake", "-G", "Ninja", *defines])
        if configured.status != "passed":
            return configured
        return self.run("build", ["cmake", "--build", BUILD / "cmake", "--parallel", os.cpu_count() or 1])

    def tests(self) -> Outcome:
        """The tests of the families on the GPU, and those that only a GPU can run."""
        files = [ROOT / "python_tests" / name for name in ON_DEVICE]
        workers = min(MOST_WORKERS, os.cpu_count() or 1)
        parallel = ["-n", workers] if importlib.util.find_spec("xdist") else []
        failures = self.out.parent / f"{self.out.stem}_failures.log"
        options = ["-v", "--tb=short", "-p", "no:cacheprovider", "--device", "cuda", "--failures", failures, *parallel]
        only_on_gpu = sorted((ROOT / "python_tests").glob("test_cuda_*.py"))
        outcome = self.run("tests", [sys.executable, "-m", "pytest", *options, *files, *only_on_gpu])
        text = self.log("tests").read_text(errors="replace")
        # Named as they fail, so that a run that is cut short says them too.
        outcome.lines = sorted(set(re.findall(r"(?:FAILED|ERROR) (python_tests\S+)", text)))[:40]
        return outcome

    def _sanitize(self, tool: str) -> Outcome:
        """A few small calls of every kernel, without torch's cache of memory, which would hide what lies beyond."""
        sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not Path(sanitizer).exists():
            return Outcome("skipped", "compute-sanitizer is not installed")
        tests = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
        tests += ["--device", "cuda"]
        options = ["--tool", tool, "--error-exitcode", 66, "--kernel-regex", "kns=nnart"]
        files = [
            ROOT / "python_tests" / name for name in ("test_cuda_conv.py", "test_cuda_kernels.py", "test_cuda_optim.py")
        ]
        selected = [
            *files,
            "-k",
            "(test_every_kernel or test_depthwise or test_transposed or same_bits_again_and) and (float32 or bfloat16)",
        ]
        more = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        outcome = self.run(tool, [sanitizer, *options, *tests, *selected], more)
        text = self.log(tool).read_text(errors="replace")
        refused = re.search(r"Device not supported|Unable to find injection|Failed to initialize", text)
        if refused and "ERROR SUMMARY: 0" not in text:
            return Outcome("skipped", f"compute-sanitizer does not take this device: {refused[0]}")
        summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", text)
        outcome.note = summary[0] if summary else outcome.note
        outcome.lines = re.findall(r"^========= (?:Invalid|Error|Warning|Race).*", text, re.MULTILINE)[:10]
        return outcome

    def memcheck(self) -> Outcome:
        """Out-of-bounds and misaligned accesses."""
        return self._sanitize("memcheck")

    def racecheck(self) -> Outcome:
        """Races in shared memory."""
        return self._sanitize("racecheck")

    def bench(self) -> Outcome:
        """Every family against native."""
        rows = self.out.parent / f"{self.out.stem}_bench.json"
        limit = self.limits["bench"] * 0.8
        options = [
            "--device",
            "cuda",
            "--dtype",
            *("float32", "bfloat16", "float16"),
            "--rounds",
            9,
            "--every",
            3,
            "--compile-every",
            9,
            "--seconds",
            limit,
            "--json",
            rows,
        ]
        if self.commit:
            options += ["--commit", self.commit]
        outcome = self.run("bench", [sys.executable, "-m", "benchmarks.run", *options])
        if rows.exists():
            outcome.lines = summary(json.loads(rows.read_text())["rows"])
        return outcome


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each family and dtype: the geometric mean and the least of the ratios, and the rooflines."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["dtype"]), []).append(row)
    lines = [f"{'family':16s} {'dtype':9s} cases  ratio to native: mean least   share of the copy: median least"]
    for (family, dtype), group in sorted(groups.items()):
        ratios = sorted(row["ratio"] for row in group)
        product = 1.0
        for ratio in ratios:
            product *= ratio ** (1 / len(ratios))
        shares = sorted(row["roofline"] for row in group if "roofline" in row)
        share = f"{shares[len(shares) // 2]:25.2f} {shares[0]:6.2f}" if shares else ""
        lines.append(f"{family:16s} {dtype:9s} {len(group):5d} {product:22.2f} {ratios[0]:5.2f} {share}")
    return lines


# The stages in their order, and the seconds each may take.
STAGES = {"build": 160.0, "tests": 210.0, "memcheck": 40.0, "racecheck": 40.0, "bench": 80.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES), help="these stages")
    parser.add_argument("--skip", nargs="+", choices=list(STAGES), default=[], help="not these")
    parser.add_argument("--out", type=Path, default=BUILD / "report.json", help="the report; logs go beside it")
    parser.add_argument("--commit", default="", help="what was checked out, where there is no .git to ask")
    parser.add_argument("--limit", nargs="+", default=[], metavar="STAGE=SECONDS", help="other limits for stages")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "gpu-check: this torch finds no CUDA device. It needs a CUDA build of torch and a GPU with its driver."
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    limits = {**STAGES, **{name: float(value) for name, value in (text.split("=") for text in arguments.limit)}}
    check = Check(arguments.out.resolve(), arguments.commit, limits)
    outcomes: dict[str, Outcome] = {}
    for stage in STAGES:
        if stage not in arguments.only or stage in arguments.skip:
            continue
        check.log(stage).unlink(missing_ok=True)
        start = time.monotonic()
        method: Callable[[], Outcome] = getattr(check, stage)
        try:
            outcomes[stage] = method()
        except Exception as error:
            outcomes[stage] = Outcome("failed", f"{type(error).__name__}: {error}")
        outcomes[stage].seconds = time.monotonic() - start
        print(f"[gpu-check] {stage}: {outcomes[stage].status} in {outcomes[stage].seconds:.0f} s", flush=True)
        report = {
            "card": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "commit": arguments.commit,
            "stages": {name: vars(outcome) for name, outcome in outcomes.items()},
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for stage, outcome in outcomes.items():
        print(f"{stage:10s} {outcome.status:8s} {outcome.seconds:5.0f} s  {outcome.note}")
        for text in outcome.lines:
            print(f"    {text[:180]}")
    return sum(outcome.status == "failed" for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
