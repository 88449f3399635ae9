"""Python run on the kernels of each instruction set: the choice is made once, when the library is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

each_instruction_set = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])


def run_on(isa: str, code: str) -> str:
    """What ``code`` prints in a process of its own with the kernels of ``isa``, and these tests to import.

    Fails if the process does; skips the test if this CPU has no such instructions.
    """
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "NNART_CPU_ISA": isa, "PYTHONPATH": path}
    code = f"{code}\nimport nnart_ops\nprint(nnart_ops.build_info()['cpu_isa'])"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *lines, used = result.stdout.rstrip("\n").split("\n")
    if used != isa:
        pytest.skip(f"this CPU has no {isa}")
    return "\n".join(lines)
