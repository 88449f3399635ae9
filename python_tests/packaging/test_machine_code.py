"""What the compiler made of the CUDA kernels, read from the machine code: no GPU is asked."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnart_ops

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import machine_code  # noqa: E402
from machine_code import ARCHITECTURES, Kernel  # noqa: E402

pytestmark = pytest.mark.skipif(
    not machine_code.CUDA_OBJECT.exists()
    or Path(nnart_ops.__file__).parent != machine_code.CUDA_OBJECT.parent
    or importlib.util.find_spec("nvidia") is None,
    reason="built without nvcc, or no disassembler",
)

# In double, which is not what they are made for, these index arrays or hold more than the registers they may have.
LOCAL_MEMORY_IN_DOUBLE = re.compile(r"(update|measure)_kernel<double>|class_columns_kernel<Forward<double>, 2>")

# Kernels that move whole packs, by their source and how they begin; C is the dtype and w the elements of a pack.
PACKED = {
    "activation.cu": ["map_kernel<w, Forward<C, Silu", "map_kernel<w, Backward<C, Silu"],
    "masked_activation.cu": ["map_kernel<8, Forward<C, Relu<float>, true>", "map_kernel<8, Backward<C, true>"],
    "gated.cu": ["map_kernel<w, Forward<C>", "map_kernel<w, Backward<C>"],
    "dropout.cu": ["map_kernel<w, Dropout<C"],
    "prelu.cu": ["rows_kernel<PRelu<C", "planes_kernel<PRelu<C"],
    "bias_activation.cu": ["rows_kernel<Forward<C>", "planes_kernel<Backward<C>"],
    "max_pool.cu": ["pool_kernel<Forward<C, w>, int, w, 2, 2>", "gather_kernel<Backward<C, w>, int, w, false>"],
    "avg_pool.cu": ["pool_kernel<Forward<C, w>, int, w, 3, 3>", "gather_kernel<Backward<C, w>, int, w, false>"],
    "softmax.cu": ["class_rows_kernel<Forward<C", "class_rows_kernel<Backward<C"],
    "cross_entropy.cu": ["class_rows_kernel<Backward<C"],
    "depthwise.cu": ["depthwise_kernel<C, w, 3, 1>", "depthwise_gather_kernel<C, w>"],
    "update.cu": ["update_kernel<float>"],
}
STORAGE = {"float": 4, "BFloat16": 8}


def chosen(architecture: str) -> dict[str, Kernel]:
    """A kernel for each of those and each dtype, by its name."""
    candidates = [kernel for kernel in machine_code.kernels() if kernel.architecture == architecture]
    names = machine_code.demangled(kernel.symbol for kernel in candidates)
    found = {}
    for (source, beginnings), (dtype, width) in itertools.product(PACKED.items(), STORAGE.items()):
        for beginning in beginnings:
            text = re.sub(r"\bC\b", dtype, re.sub(r"\bw\b", str(width), beginning))
            matching = [k for k, name in zip(candidates, names) if k.source == source and name.startswith(text)]
            assert matching, f"{source} has no {text}"
            found[f"{source} {text}"] = matching[0]
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_and_local_memory(architecture: str) -> None:
    kernels = [kernel for kernel in machine_code.kernels() if kernel.architecture == architecture]
    assert len(kernels) > 500
    spills = machine_code.demangled(kernel.symbol for kernel in kernels if kernel.stack)
    assert [name for name in spills if not LOCAL_MEMORY_IN_DOUBLE.match(name)] == []
    assert [kernel.symbol for kernel in kernels if not kernel.keeps_promise] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_main_paths_move_16_bytes_at_once(architecture: str) -> None:
    kernels = chosen(architecture)
    accesses = machine_code.accesses(list(kernels.values()))
    for name, kernel in kernels.items():
        instructions = accesses[kernel.symbol]
        wide = {text[:3] for text in instructions if text.startswith(("LDG", "STG")) and ".128" in text}
        assert wide == {"LDG", "STG"}, (name, instructions)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_convolutions_in_16_bits_and_tf32_run_on_tensor_cores(architecture: str) -> None:
    kernels = [k for k in machine_code.kernels() if k.architecture == architecture and k.source == "gemm.cu"]
    names = machine_code.demangled(kernel.symbol for kernel in kernels)
    multiplying = {
        name: kernel for kernel, name in zip(kernels, names) if re.match(r"gemm_kernel<\w+, \(Multiply\)1, ", name)
    }
    assert len(multiplying) == 29
    accesses = machine_code.accesses(list(multiplying.values()))
    for name, kernel in multiplying.items():
        kinds = {text.split(".")[0] for text in accesses[kernel.symbol]}
        assert kinds >= {"HMMA", "LDSM"}, name
        holds = "float" not in name and "(Packs)0, (Packs)0" in name  # no asynchronous copy moves two bytes
        assert ("LDGSTS" in kinds) != holds, name


PLANTED = """
__global__ void __launch_bounds__(256, 8) planted_kernel(const float* x, const int* places, float* y) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = x[i * 256 + threadIdx.x];
  for (int i = 0; i < 64; ++i) y[i * 256 + threadIdx.x] = values[places[i]];
}
"""


def test_planted_local_memory_is_seen(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        pytest.skip("no nvcc")
    source, built = tmp_path / "planted.cu", tmp_path / "planted.o"
    source.write_text(PLANTED)
    code = "arch=compute_90,code=[sm_90,compute_90]"
    subprocess.run([nvcc, "-gencode", code, "-c", str(source), "-o", str(built)], check=True)
    (kernel,) = machine_code.kernels(built)
    assert kernel.stack >= 256
    assert kernel.registers <= 32
    assert (kernel.threads, kernel.promised) == (256, 8)
    (instructions,) = machine_code.accesses([kernel], built).values()
    assert any(text.startswith("LDL") for text in instructions)
