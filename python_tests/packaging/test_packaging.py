"""The build and what it says of itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nnart_ops
from nnart_ops import _extension

ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path(nnart_ops.__file__).parent
BINARIES = sorted(PACKAGE.glob("*.so"))
AUDIT = Path(sys.executable).parent / "torch-abi-audit"
BOOTSTRAP = ROOT / "scripts" / "bootstrap.py"


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})


def test_build_info() -> None:
    info = nnart_ops.build_info()
    assert info["version"] == nnart_ops.__version__
    assert info["torch_minimum"] == "2.11"
    assert info["torch_running"] == torch.__version__
    assert info["cpu_isa"] in info["cpu_isa_variants"].split()
    assert all(isinstance(value, str) and value for value in info.values())


def test_cuda_object_defines_what_it_calls() -> None:
    """A symbol of ours that _cuda lacks would only be missed on a machine with a GPU."""
    path = PACKAGE / "_cuda.so"
    if not path.exists():
        pytest.skip("built without nvcc")
    listing = run("nm", "-DC", "--undefined-only", path).stdout
    assert "libtorch_cuda.so" in run("readelf", "-d", path).stdout
    assert [line for line in listing.splitlines() if "nnart" in line] == []


@pytest.mark.skipif(not AUDIT.exists(), reason="torch-abi-audit is not installed")
@pytest.mark.parametrize("path", BINARIES, ids=lambda path: path.name.split(".")[0])
def test_binary_is_stable(path: Path) -> None:
    report = run(AUDIT, path)
    text = report.stdout + report.stderr
    assert "STABLE" in text
    assert "UNSTABLE" not in text


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_environment_picks_the_instruction_set(isa: str) -> None:
    probe = "import nnart_ops; print(nnart_ops.build_info()['cpu_isa'])"
    if isa in nnart_ops.build_info()["cpu_isa_variants"].split():
        assert run(sys.executable, "-c", probe, NNART_CPU_ISA=isa).stdout.strip() == isa


def test_too_old_a_torch_is_one_sentence() -> None:
    with pytest.raises(ImportError, match=r"needs torch 2.11 or newer, but torch 2.10.1\+cpu is installed; upgrade"):
        _extension._check_torch("2.10.1+cpu")


def test_missing_binary_is_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "nnart_ops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # An editable install's finder would bring the missing module in from the checkout.
    probe = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)];"
        f"sys.path.insert(0, {str(tmp_path)!r}); import nnart_ops"
    )
    result = run(sys.executable, "-P", "-c", probe)
    assert result.returncode != 0
    assert "the compiled module _C is not in" in result.stderr.splitlines()[-1]
    assert "make build" in result.stderr.splitlines()[-1]


def test_cuda_mismatch_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(_extension, "_CUDA_OBJECT", PACKAGE / "__init__.py")
    with pytest.warns(UserWarning, match=r"built with CUDA 13.0, this torch with CUDA 12.8; the major versions must"):
        reason = _extension._load_cuda("13.0")
    assert "CUDA 12.8" in reason
    monkeypatch.setattr(_extension, "_CUDA_OBJECT", tmp_path / "_cuda.so")
    assert "without CUDA kernels" in _extension._load_cuda("13.0")


@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_bootstrap_refuses_an_old_python(version: str) -> None:
    """The script parses under any Python 3 and says what is needed."""
    probe = (
        "import sys; sys.version_info = type('V', (tuple,), {})((3, %d, 0)); sys.argv = ['bootstrap.py'];"
        "import runpy; runpy.run_path(%r, run_name='__main__')"
    )
    result = run(sys.executable, "-c", probe % (int(version.split(".")[1]), str(BOOTSTRAP)))
    assert result.returncode != 0
    assert f"Python 3.11 or newer is needed, but {sys.executable} is {version}" in result.stderr
    assert "Traceback" not in result.stderr


def test_bootstrap_misses_the_compiler(tmp_path: Path) -> None:
    result = run(sys.executable, BOOTSTRAP, PATH=str(tmp_path), CXX="")
    assert result.returncode != 0
    assert "no C++ compiler was found; install one (Debian, Ubuntu: apt install g++" in result.stderr
    assert "Traceback" not in result.stderr


def test_cmake_says_that_torch_is_missing(tmp_path: Path) -> None:
    """-S hides site-packages from the interpreter that the build asks."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    script = tmp_path / "probe.cmake"
    script.write_text(f'set(Python_EXECUTABLE "{python}")\ninclude("{ROOT}/cmake/torch_host.cmake")\n')
    result = run(cmake, "-P", script)
    assert result.returncode != 0
    assert "the build needs torch (2.11 or newer) and pybind11" in " ".join(result.stderr.split())
