"""Every linter and formatter of the project, one after the other; fails if any of them does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FILES = ["nnart_ops", "python_tests", "benchmarks", "examples", "scripts", "setup.py"]


def main(fix: bool) -> int:
    """Runs the tools; with ``fix`` they change what they can. Returns the number of tools that complained."""
    cpp = sorted(str(path) for pattern in ("*.h", "*.cpp", "*.cu", "*.cuh") for path in (ROOT / "csrc").rglob(pattern))
    commands = [
        ["ruff", "check", *(["--fix"] if fix else []), *PYTHON_FILES],
        ["ruff", "format", *([] if fix else ["--check"]), *PYTHON_FILES],
        ["mypy"],
        ["clang-format", *(["-i"] if fix else ["--dry-run", "-Werror"]), *cpp],
    ]
    failures = 0
    for command in commands:
        print(f"[lint] {' '.join(command[:2])}", flush=True)
        failures += subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=ROOT).returncode != 0
    return failures


if __name__ == "__main__":
    sys.exit(main("--fix" in sys.argv[1:]))
