"""The measured choice of a strategy: what it measures, what it keeps, and what it makes of what others kept."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from convcases import check
from devices import cpu_only, threads

import nnart_ops
import nnart_ops.functional as F
from nnart_ops import _extension, _tuning

pytestmark = cpu_only  # the choice is made in csrc/ops, which both devices share


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, with tuning on. What a test measures stays in the process: each has sizes of its own."""
    monkeypatch.setenv("NNART_CACHE_DIR", str(tmp_path))
    with nnart_ops.config(autotune=True):
        yield tmp_path


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.json"))


def operands(size: int, **like: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 16, size, size, **like), torch.randn(16, 16, 3, 3, **like)


def reasons(x: torch.Tensor, weight: torch.Tensor) -> list[str]:
    return [row.reason for row in nnart_ops.explain(F.conv2d, x, weight)]


def test_each_pass_is_measured_once_and_kept(cache: Path) -> None:
    x, weight = operands(21)
    first = reasons(x, weight)
    assert all(reason.startswith("measured: ") and "gemm" in reason and "native" in reason for reason in first)
    assert reasons(x, weight) == first
    kept = [json.loads(path.read_text()) for path in files(cache)]
    assert sorted(entry["problem"].split()[0] for entry in kept) == ["dgrad", "forward", "wgrad"]
    assert {entry["reason"] for entry in kept} == set(first)
    assert all(entry["environment"]["torch"] == torch.__version__ for entry in kept)


def test_the_fastest_is_taken_and_native_unless_beaten_clearly(cache: Path) -> None:
    for rows in (nnart_ops.explain(F.conv2d, *operands(size)) for size in (22, 31, 40)):
        for row in rows:
            parts = (part.split() for part in row.reason.removeprefix("measured: ").split(", "))
            times = {name: float(time) for name, time, _ in parts}
            assert times[row.strategy] == min(times.values()) or row.strategy == "native"
            if row.strategy != "native":  # the times are rounded to a microsecond
                assert times[row.strategy] - 1e-3 <= 0.97 * times["native"]
            else:
                assert 0.97 * times["native"] - 1e-3 <= min(times.values())


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_results_of_every_pass(cache: Path, kind: str) -> None:
    x, weight = operands(13 if kind == "conv" else 7, dtype=torch.float32)
    for _ in range(2):  # measured, then remembered
        check([x, weight, torch.randn(16)], {"stride": 2}, kind=kind)
    problems = [json.loads(path.read_text())["problem"] for path in files(cache)]
    for part in ("forward", "dgrad", "wgrad", "bias"):
        assert any(part in problem for problem in problems)


def test_what_follows_is_part_of_the_problem(cache: Path) -> None:
    x, weight = operands(34, dtype=torch.float32)
    bias, residual = torch.randn(16), torch.randn(1, 16, 32, 32)
    for _ in range(2):
        fused = F.conv2d(x, weight, bias, activation="relu", residual=residual)
        torch.testing.assert_close(fused, torch.relu(torch.nn.functional.conv2d(x, weight, bias) + residual))
    (path,) = files(cache)
    assert "bias, residual, relu" in json.loads(path.read_text())["problem"]


def test_nothing_is_known_before_it_is_measured(cache: Path) -> None:
    x, weight = operands(24)
    y = F.conv2d(x, weight)
    assert not _extension.conv_plans
    torch.testing.assert_close(F.conv2d(x, weight), y)
    assert len(_extension.conv_plans) == 1


def test_native_is_called_directly_where_it_won(cache: Path) -> None:
    x, weight = operands(38, dtype=torch.float32)
    kept_by_another(x, weight, "native", gain=0)
    F.conv2d(x, weight)
    assert list(_extension.conv_plans.values()) == [True]


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(16, 1, 3), (16, 1, 1), (16, 16, 3)])
def test_channels_last_layers_are_known_once_measured(cache: Path, channels: int, groups: int, kernel: int) -> None:
    """Also where a weight's strides do not say in which order it lies."""
    layer = nnart_ops.Conv2d(channels, channels, kernel, groups=groups, dtype=torch.float32)
    layer.to(memory_format=torch.channels_last)
    x = torch.randn(1, channels, 37, 37).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).sum().backward()
    layer(x)
    assert len(_extension.conv_plans) == 1


def test_a_strategy_that_errs_takes_no_part(cache: Path) -> None:
    """Where a tap meets padding alone, oneDNN leaves its part of a bfloat16 gradient unwritten."""
    x, grad_y = torch.randn(1, 16, 1, 9, dtype=torch.bfloat16), torch.randn(1, 16, 1, 9, dtype=torch.bfloat16)
    for _ in range(2):
        weight = torch.ops.nnart_ops.conv_wgrad(grad_y, x, [3, 3], [1, 1], [1] * 4, [1, 1], 1)
        assert torch.equal(weight[:, :, [0, 2]], torch.zeros(16, 16, 2, 3, dtype=torch.bfloat16))
    assert not any("native" in path.read_text() for path in files(cache))


def kept_by_another(
    x: torch.Tensor, weight: torch.Tensor, strategy: str, gain: float = 1e-3, text: str | None = None
) -> Path:
    """A file for the forward of ``x`` and ``weight``, as if another process had written it."""
    sizes = f"1x{x.shape[2]}x{x.shape[3]} to 1x{x.shape[2] - 2}x{x.shape[3] - 2}"
    problem = (
        f"forward float32 planes, weight planes, batch 1, channels 16 to 16, groups 1, {sizes}, kernel 1x3x3, "
        f"stride 1x1x1, padding 0x0x0, dilation 1x1x1, threads {torch.get_num_threads()}"
    )
    path = _tuning._path("cpu", problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.dumps({"problem": problem, "strategy": strategy, "reason": "kept by another", "gain": gain})
    path.write_bytes(kept.encode() if text is None else text.encode("latin-1"))
    return path


@pytest.mark.parametrize("strategy", ["gemm", "native"])
def test_what_another_process_kept_is_taken(cache: Path, strategy: str) -> None:
    x, weight = operands(25 if strategy == "gemm" else 26, dtype=torch.float32)
    kept_by_another(x, weight, strategy)
    row = nnart_ops.explain(F.conv2d, x, weight)[0]
    assert (row.strategy, row.reason) == (strategy, "kept by another")


@pytest.mark.parametrize("gain", [1e-9, 1.0])
def test_what_gains_less_than_our_python_costs_is_called_directly(cache: Path, gain: float) -> None:
    x, weight = operands(35 if gain < 1 else 36, dtype=torch.float32)
    kept_by_another(x, weight, "gemm", gain)
    F.conv2d(x, weight)
    assert list(_extension.conv_plans.values()) == [gain < 1]


UNREADABLE = [
    "",
    "{",
    "[]",
    "null",
    '{"problem": 1}',
    '{"problem": "", "strategy": "gemm", "reason": "", "gain": 1}',
    "\0\xff",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_file_that_cannot_be_read_is_written_again(cache: Path, text: str) -> None:
    x, weight = operands(50 + UNREADABLE.index(text), dtype=torch.float32)
    path = kept_by_another(x, weight, "gemm", text=text)
    assert nnart_ops.explain(F.conv2d, x, weight)[0].reason.startswith("measured: ")
    assert json.loads(path.read_text())["reason"].startswith("measured: ")


@pytest.mark.parametrize("strategy", ["fast", "depthwise"])
def test_a_strategy_that_does_not_take_the_problem_is_measured_again(cache: Path, strategy: str) -> None:
    x, weight = operands(27 if strategy == "fast" else 28, dtype=torch.float32)
    kept_by_another(x, weight, strategy)
    assert nnart_ops.explain(F.conv2d, x, weight)[0].strategy in ("gemm", "native")
    torch.testing.assert_close(F.conv2d(x, weight), torch.nn.functional.conv2d(x, weight))


PROCESS = """
import torch, nnart_ops
torch.manual_seed(0)
torch.set_num_threads(1)
for size in (10, 11, 12):
    x, weight = torch.randn(1, 16, size, size), torch.randn(16, 16, 3, 3)
    print([row.reason for row in nnart_ops.explain(nnart_ops.functional.conv2d, x, weight)])
"""


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    settings = {**os.environ, "NNART_CACHE_DIR": str(tmp_path), "NNART_CONV_AUTOTUNE": "1"}

    def process(_: int) -> str:
        run = subprocess.run([sys.executable, "-c", PROCESS], env=settings, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")
        return run.stdout

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(process, range(4)))
    kept = [json.loads(path.read_text()) for path in files(tmp_path)]
    assert len(kept) == 9
    assert all(path.is_file() for path in files(tmp_path)[0].parent.iterdir())  # none is half done
    later = process(0)
    assert all(entry["reason"] in later for entry in kept)  # nothing was measured again


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("NNART_CACHE_DIR", str(occupied))
    x, weight = operands(29, dtype=torch.float32)
    with nnart_ops.config(autotune=True):
        with pytest.warns(UserWarning, match="cannot be kept in .* set NNART_CACHE_DIR"):
            y = F.conv2d(x, weight)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(F.conv2d(x, weight), y)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight))


def test_threads_have_choices_of_their_own(cache: Path) -> None:
    x, weight = operands(30)
    for n in (1, 2):
        with threads(n):
            F.conv2d(x, weight)
    problems = [json.loads(path.read_text())["problem"] for path in files(cache)]
    assert sorted(problem.rsplit(", ", 1)[1] for problem in problems) == ["threads 1", "threads 2"]


def test_config(cache: Path) -> None:
    x, weight = operands(32)
    with nnart_ops.config(conv_strategy="native"):  # what is not given stays
        assert _extension.tunes_convs
        assert nnart_ops.explain(F.conv2d, x, weight)[0].reason.startswith("forced")
    with nnart_ops.config(autotune=False):
        assert not nnart_ops.explain(F.conv2d, x, weight)[0].reason.startswith("measured")
    assert not files(cache)
    assert nnart_ops.explain(F.conv2d, x, weight)[0].reason.startswith("measured")
    with pytest.raises(ValueError, match="autotune must be True or False, but got 'yes'"):
        nnart_ops.config(autotune="yes")  # type: ignore[arg-type]
    settings = {**os.environ, "NNART_CONV_AUTOTUNE": "yes"}
    run = subprocess.run([sys.executable, "-c", "import nnart_ops"], env=settings, capture_output=True, text=True)
    assert "NNART_CONV_AUTOTUNE is 'yes'; allowed are ('0', '1')" in run.stderr
