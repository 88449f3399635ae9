"""The CUDA kernels on a machine without a GPU: their own sources, run by csrc/emulation, held to the tables that the
CPU's kernels are held to."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import emulation
import pytest
import torch
from emulation import BUILD, ROOT, SCHEDULES, Emulation

pytestmark = pytest.mark.skipif(not (BUILD / "build.ninja").exists(), reason="of a checkout with its build folder")

TESTS = ROOT / "python_tests"
OPTIMIZERS = [f"optim{part}" for part in ("", "_directions", "_low_precision", "_options")]
# What the kernels compute, family by family, in two halves of about the same length.
FILES = (
    [
        *("batch_norm", "bias_activation", "channel_sum", "cross_entropy", "cuda_conv", "dropout"),
        *("pooling", "pooling_torch", "softmax"),
    ],
    ["activation", "cuda_kernels", "cuda_optim", "gated", "prelu", "rrelu", "save", *OPTIMIZERS],
)
# Tests of Python, and tests so long that one run of them, of the CPU's kernels, is enough.
ELSEWHERE = ["compile", "inductor", "opcheck", "gradcheck", "every_order", "transforms", "gradient_of_the_bias"]
ELSEWHERE += ["autocast", "200_steps", "checkpoints", "hooks", "error_inputs"]
# In one schedule: PyTorch's own samples, and the dtypes whose kernels are those of another one but for conversions.
IN_ONE_SCHEDULE = ["samples", "optimizer_info", "torch.float64", "torch.float16"]


def run_tests(variant: str, *options: str) -> str:
    """Runs tests of the emulated library in a process of their own; they must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
    run = subprocess.run(command, capture_output=True, text=True, env=emulation.environment(variant), cwd=ROOT)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("families", FILES, ids=lambda families: families[0])
def test_parity(families: list[str], schedule: str) -> None:
    words = ELSEWHERE if schedule == "warps" else ELSEWHERE + IN_ONE_SCHEDULE
    files = [str(TESTS / f"test_{family}.py") for family in families]
    run_tests("emulation", *files, "--schedule", schedule, "-k", " and ".join(f"not {word}" for word in words))


def test_sanitized() -> None:
    """Every kernel once more under AddressSanitizer and UBSan: no access outside of a tensor or of shared memory, none
    that its type is not aligned for, no overflow."""
    files = [str(TESTS / f"test_cuda_{name}.py") for name in ("conv", "kernels", "optim")]
    run_tests("emulation_sanitized", *files, "-k", "not torch.float16")


def test_traffic() -> None:
    """No call moves more than 1.05 times the bytes that it must."""
    command = [sys.executable, str(TESTS / "traffic.py")]
    run = subprocess.run(command, capture_output=True, text=True, env=emulation.environment("emulation"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("\n| ") > 80


def test_a_filter_of_one_tap_comes_in_packs() -> None:
    """Axes with one element may have any stride: they decide nothing about how a convolution's operands are read."""
    code = """
import emulation, torch, nnart_ops
x, weight = torch.randn(2, 16, 5, 6).bfloat16(), torch.randn(24, 16, 1, 1).bfloat16()
with nnart_ops.config(conv_strategy="gemm"):
    nnart_ops.functional.conv2d(x.contiguous(memory_format=torch.channels_last), weight)
(kernel,) = emulation.loaded().kernels()
assert kernel.count("Packs)1") == 2, kernel
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=emulation.environment("emulation")
    )
    assert run.returncode == 0, run.stderr


# ---- the emulation itself

BUGS = ("none", "no_barrier", "wrong_barrier", "no_second_barrier", "past_the_end", "past_the_array", "lonely_barrier")
BUGS += ("lonely_shuffle", "shared_output", "wrong_wait")
THREADS, BLOCKS = 96, 3


def build_planted(folder: Path, source: Path, sanitizer: str, *options: str) -> Path:
    """A source with planted bugs and the emulation as a library. What lies in the folder goes before csrc."""
    instrumented = f"-fsanitize={sanitizer}"
    # ThreadSanitizer's calls go to the emulation and not to its library.
    linked = [] if sanitizer == "thread" else [instrumented]
    compiler = os.environ.get("CXX", "c++").split()
    folders = [folder, ROOT / "csrc" / "emulation" / "include", ROOT / "csrc"]
    common = ["-std=c++20", "-O1", "-g1", "-fPIC", "-w", *(f"-I{path}" for path in folders), *options]
    as_cuda = ["-x", "c++", "-include", "cuda_runtime.h"]
    parts = {"planted": [*as_cuda, instrumented, str(source)]}
    for name in ("emulation", "accesses"):
        parts[name] = [*linked, str(ROOT / "csrc" / "emulation" / f"{name}.cpp")]
    for name, words in parts.items():
        subprocess.run([*compiler, *common, "-c", *words, "-o", str(folder / f"{name}.o")], check=True)
    library = folder / "planted.so"
    objects = [str(folder / f"{name}.o") for name in parts]
    subprocess.run([*compiler, "-shared", *objects, *linked, "-o", str(library), "-pthread"], check=True)
    return library


@pytest.fixture(scope="module", params=[[], ["-DNNART_PORTABLE_FIBERS"]], ids=["fibers", "portable"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With this machine's switch from fiber to fiber, and with that of other processors."""
    return build_planted(tmp_path_factory.mktemp("planted"), TESTS / "planted_bugs.cu", "thread", *request.param)


def run_planted(library: Path, bug: str, x: torch.Tensor) -> tuple[torch.Tensor, str | None]:
    """The blocks of x reversed, by the kernel with that bug, and what the emulation says of it."""
    function = ctypes.CDLL(str(library)).run
    function.restype = ctypes.c_char_p
    y = torch.full_like(x, torch.nan)
    error = function(BUGS.index(bug), ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), BLOCKS)
    return y, error.decode() if error else None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_planted_bugs_are_caught(planted: Path, schedule: str) -> None:
    emulated = Emulation(str(planted))
    emulated.schedule(schedule)
    x = torch.rand(BLOCKS, THREADS)
    y, error = run_planted(planted, "none", x)
    assert error is None
    assert torch.equal(y, x.flip(1))
    for bug, where in {"lonely_barrier": "__syncthreads at", "lonely_shuffle": "__shfl_xor_sync at"}.items():
        _, error = run_planted(planted, bug, x)
        assert where in str(error), bug
    for bug in ("no_barrier", "wrong_barrier", "no_second_barrier", "shared_output"):
        y, _ = run_planted(planted, bug, x)
        assert not torch.equal(y, x.flip(1)), bug
        with emulated.watched():
            _, error = run_planted(planted, bug, x)
        assert "race in" in str(error), bug
    y, _ = run_planted(planted, "wrong_wait", x)
    assert y.isnan().all()
    with emulated.watched() as launches:
        assert run_planted(planted, "none", x)[1] is None
    bytes_each = x.numel() * x.element_size()
    for launch in launches:
        assert (launch.read, launch.written) == (bytes_each, bytes_each)
        assert (launch.read_by_blocks, launch.sectors_written) == (bytes_each, bytes_each)
    assert launches[0].kernel.startswith("void nnart::cuda::(anonymous namespace)::reverse_kernel")


def test_planted_accesses_out_of_bounds_are_caught(tmp_path: Path) -> None:
    library = build_planted(tmp_path, TESTS / "planted_bugs.cu", "address")
    code = """
import ctypes, sys
library, bug = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
x, y = (ctypes.c_void_p(malloc(96 * 3 * 4)) for _ in "xy")
ctypes.memset(x, 0, 96 * 3 * 4)
library.run(bug, x, y, 3)
print("done")
"""
    preloaded = {"LD_PRELOAD": emulation.library_of_compiler("libasan.so")}
    environment = {**os.environ, **emulation.SANITIZER, **preloaded}
    for bug in ("none", "past_the_end", "past_the_array"):
        command = [sys.executable, "-c", code, str(library), str(BUGS.index(bug))]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if bug == "none":
            assert run.stdout == "done\n", run.stderr
        else:
            assert "heap-buffer-overflow" in run.stderr, (bug, run.stdout, run.stderr)
            assert "planted_bugs.cu" in run.stderr


# What is changed in csrc/cuda/conv, and how the emulation tells: by wrong numbers, by NaN or by what it says.
GEMM_BUGS = {
    "none": ("gemm.cu", "", "", "right"),
    "off_by_one_in_the_map": ("gemm.cuh", "place(int32_t(-a.pad)),", "place(int32_t(1 - a.pad)),", "wrong"),
    "off_by_one_at_the_border": ("gemm.cuh", "< uint32_t(axis[a].size)", "<= uint32_t(axis[a].size)", "wrong"),
    "swizzle_of_one_side": (
        "gemm_product.cuh",
        "2 * half + upper_terms))",
        "2 * half + (upper_terms ^ upper_lines)))",
        "wrong",
    ),
    "swizzle_with_conflicts": (
        "gemm_load.cuh",
        "(line >> 1 & (kLinePacks - 1))",
        "(line & (kLinePacks - 1))",
        "same banks",
    ),
    "no_barrier_in_the_loop": ("gemm.cu", "__syncthreads();  // the step's", "// the step's", "race in"),
    "no_barrier_before_the_sums": ("gemm.cu", "    __syncthreads();\n    if (pass !=", "    if (pass !=", "race in"),
    "no_barrier_before_the_moments": ("gemm.cu", "__syncthreads();  // all of it", "// all of it", "race in"),
    "no_barrier_within_the_moments": ("gemm.cu", "__syncthreads();  // the lower", "// the lower", "race in"),
    "no_barrier_after_the_moments": ("gemm.cu", "__syncthreads();  // everybody", "// everybody", "race in"),
    "moments_of_one_half": ("gemm.cu", "if (rows > half) {", "if (false) {", "wrong"),
    "too_early": ("gemm.cu", "wait_for_copies<kStages - 2>", "wait_for_copies<kStages - 1>", "race in"),
}


@pytest.mark.parametrize("bug", GEMM_BUGS)
def test_planted_bugs_of_the_gemm_are_caught(bug: str, tmp_path: Path) -> None:
    """In its map from pixels and taps to elements, its barriers and its swizzled shared memory."""
    name, right, wrong, told = GEMM_BUGS[bug]
    folder = tmp_path / "cuda" / "conv"
    folder.mkdir(parents=True)
    for file in ("gemm.cu", "gemm.cuh", "gemm_load.cuh", "gemm_product.cuh"):
        text = (ROOT / "csrc" / "cuda" / "conv" / file).read_text()
        if file == name and right:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        if file == "gemm.cu":  # without its entry, which would have every kernel compiled
            text = text[: text.index("\nconst char* gemm(")] + "\n}  // namespace nnart::cuda\n"
        (folder / file).write_text(text)
    library = build_planted(tmp_path, TESTS / "planted_gemm.cu", "thread")
    run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_char_p
    sizes = (2, 16, 24, 9)
    batch, channels, out, size = sizes
    last = {"memory_format": torch.channels_last}
    x, weight = (torch.randn(n, channels, s, s).bfloat16().contiguous(**last) for n, s in ((batch, size), (out, 3)))
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
    around = torch.randn(3, x.numel()).bfloat16()  # what is outside of x is nothing that a kernel writes
    around[1] = x.permute(0, 2, 3, 1).flatten()
    x = around[1]
    sums = torch.empty(2 * -(-batch * size * size // 128) * out, dtype=torch.float32)
    exact = torch.cat([t.double() for t in torch.var_mean(expected.bfloat16().double(), (0, 2, 3), correction=0)[::-1]])
    emulated, found = Emulation(str(library)), set[str]()
    for schedule in SCHEDULES:
        emulated.schedule(schedule)
        y = torch.full((batch, out, size, size), torch.nan, dtype=torch.bfloat16).contiguous(**last)
        moments = torch.full((2 * out,), torch.nan)
        with emulated.watched():
            tensors = (x, weight, y, sums, moments)
            said = run(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), *map(ctypes.c_int64, sizes))
        if said:
            found.add(said.decode())
        else:
            results = ((y, expected), (moments, exact))
            close = all((a.double() - b).abs().max() <= 0.01 * b.abs().max() for a, b in results)
            found.add("right" if close else "wrong")
    assert all(told in one for one in found), found


def kernels_of_the_project() -> set[str]:
    """The names of the functions of csrc/cuda that are declared __global__."""
    names: set[str] = set()
    for path in (ROOT / "csrc" / "cuda").rglob("*.cu*"):
        names.update(re.findall(r"__global__.*?\b(\w+_kernel)\(", path.read_text(), re.DOTALL))
    return names


def test_every_kernel_is_in_the_tables() -> None:
    """Whichever a test of FILES does not run would go unproved."""
    assert len(kernels_of_the_project()) > 15
    files = [str(TESTS / f"test_cuda_{name}.py") for name in ("kernels", "optim")]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "every_kernel and float32 or same_bits", *files]
    code = f"""
import sys, pytest, emulation
code = pytest.main({options})
print("KERNELS", *emulation.loaded().kernels(), sep="\\n")
sys.exit(code)
"""
    chosen = emulation.environment("emulation")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=chosen, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    ran = set(re.findall(r"(\w+_kernel)[<(]", run.stdout.split("KERNELS\n")[1]))
    assert kernels_of_the_project() - ran == set()
