"""The layers of the design: what a file may include or import is decided by the folder it is in."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"

STANDARD = r"(c(math|stdint|stdlib|string|stddef|limits)|initializer_list|new|utility|type_traits)"
TORCH = r"torch/(csrc/(stable|inductor/aoti_torch/c)|headeronly)/.*"
# folder: what its files may include, as patterns of the whole name
ALLOWED = {
    "math": [r"cmath", r"cstdint", r"math/.*"],
    "core": [STANDARD, r"core/.*", r"math/.*"],
    "cpu": [STANDARD, r"(immintrin|cpuid)\.h", r"core/.*", r"math/.*", r"cpu/.*"],
    "cuda": [STANDARD, r"cassert", r"limits", r"cuda_.*", r"core/.*", r"math/.*", r"cuda/.*"],
    "emulation": [r"[a-z_]+", r"(pthread|ucontext|sys/mman|sanitizer/.*|cuda_.*|emulation/.*)\.h"],
    "ops": [r"[a-z_]+", TORCH, r"core/.*", r"math/.*", r"ops/.*", r"cpu/kernels\.h", r"cuda/kernels\.h"],
    ".": [
        r"[a-z_]+",
        r"pybind11/.*",
        TORCH,
        r"build_facts\.h",
        r"cpu/kernels\.h",
        r"core/dlpack\.h",
        r"ops/(register|conv_plan|optimizer_plan|held_tensors)\.h",
    ],
}
SOURCES = sorted(path for pattern in ("*.h", "*.cpp", "*.cu", "*.cuh") for path in CSRC.rglob(pattern))


def violations(folder: str, text: str) -> list[str]:
    """The includes of ``text`` that a file of ``folder`` may not have."""
    includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE)
    return [name for name in includes if not any(re.fullmatch(pattern, name) for pattern in ALLOWED[folder])]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CSRC)))
def test_includes(path: Path) -> None:
    relative = path.relative_to(CSRC)
    folder = relative.parts[0] if len(relative.parts) > 1 else "."
    assert violations(folder, path.read_text()) == []


def test_the_rule_can_fail() -> None:
    assert violations("math", "#include <vector>") == ["vector"]
    assert violations("cpu", "#include <torch/csrc/stable/tensor.h>") == ["torch/csrc/stable/tensor.h"]
    assert violations("cuda", '#include "ops/checks.h"') == ["ops/checks.h"]
    assert violations("ops", "#include <ATen/ATen.h>") == ["ATen/ATen.h"]


def test_device_headers_stay_at_the_door() -> None:
    """Within ops/, only the registrations know a device."""
    for path in (CSRC / "ops").iterdir():
        if not path.name.startswith("register_"):
            assert not re.search(r'"(cpu|cuda)/', path.read_text()), path


# A Python layer may import those to the right of it: nn and optim, functional, autograd.
PYTHON_LAYERS = {
    "autograd": {"nnart_ops.autograd"},
    "functional": {"nnart_ops.autograd", "nnart_ops.functional", "nnart_ops._extension"},
    "nn": {"nnart_ops.functional", "nnart_ops.nn", "nnart_ops.autograd.handover"},
    "optim": {"nnart_ops.optim", "nnart_ops.autograd", "nnart_ops.functional._native", "nnart_ops._C"},
}


@pytest.mark.parametrize("layer", PYTHON_LAYERS)
def test_imports(layer: str) -> None:
    for path in (ROOT / "nnart_ops" / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("nnart_ops"):
                    allowed = any(name == prefix or name.startswith(prefix + ".") for prefix in PYTHON_LAYERS[layer])
                    assert allowed or name == "nnart_ops.nn", f"{path.relative_to(ROOT)} imports {name}"


def test_objects_of_an_instruction_set_keep_their_symbols() -> None:
    """Each exports its launch functions and nothing else: a shared inline function could reach the linker in its
    AVX-512 form and crash an older CPU."""
    objects = sorted(ROOT.glob("build/*/CMakeFiles/nnart_cpu_*.dir/csrc/cpu/**/*.o"))
    objects = [path for path in objects if "nnart_cpu_dispatch" not in str(path)]
    if not objects:
        pytest.skip("no build directory: the library was installed from a wheel")
    for path in objects:
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        exported = [line.split(" ", 2)[2] for line in listing.splitlines() if line.split(" ", 2)[1] in "TWVBDRu"]
        # The second is the compiler's pointer to its exception handler, the same for every instruction set.
        ours = r"nnart::cpu::(Kernels<.*>::launch|ConvStrategies<.*>::[a-z_]+)\(|DW\.ref\.__gxx_personality_v0"
        others = [name for name in exported if not re.match(ours, name)]
        assert others == [], f"{path.relative_to(ROOT)} exports {others[:5]}"


def test_no_file_outgrows_its_reader() -> None:
    for path in [*SOURCES, *(ROOT / "nnart_ops").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 600, f"{path.relative_to(ROOT)} should become a folder"
