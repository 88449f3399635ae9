"""What the demo leaves behind: a table on the screen, two pictures and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import nnart_ops
from nnart_ops.demo.train import History

CAPTION = (
    "Step time: median of whole training steps (forward, backward, update), the two libraries in turn after training. "
    "Peak memory: the most bytes of tensors one training step holds, as torch's profiler counts them. "
    "Ratio: torch.nn / nnart_ops."
)


def print_table(histories: dict[str, History], step_seconds: dict[str, float], peak_bytes: dict[str, int]) -> None:
    """One row a figure, one column a library and one for the ratio."""
    from rich.console import Console
    from rich.table import Table

    theirs, ours = histories
    table = Table(title="The same network, data and seed", caption=CAPTION, caption_justify="left")
    for heading in ("", theirs, ours, "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    accuracies = [f"{histories[name].test_accuracy:.2%}" for name in (theirs, ours)]
    table.add_row("test accuracy", *accuracies, "")
    times = [step_seconds[name] * 1e3 for name in (theirs, ours)]
    table.add_row("training step", *(f"{t:.2f} ms" for t in times), f"{times[0] / times[1]:.2f}x")
    sizes = [peak_bytes[name] / 2**20 for name in (theirs, ours)]
    table.add_row("peak memory of a step", *(f"{s:.1f} MiB" for s in sizes), f"{sizes[0] / sizes[1]:.2f}x")
    totals = [histories[name].seconds for name in (theirs, ours)]
    table.add_row("whole training", *(f"{t:.1f} s" for t in totals), f"{totals[0] / totals[1]:.2f}x")
    Console(width=100).print(table)


def save(
    out: Path,
    arguments: dict[str, Any],
    histories: dict[str, History],
    step_seconds: dict[str, float],
    peak_bytes: dict[str, int],
) -> list[Path]:
    """Writes curves.png, confusion.png and figures.json to ``out`` and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "arguments": arguments,
        "environment": environment(),
        "step_seconds": step_seconds,
        "peak_bytes_of_a_step": peak_bytes,
        "runs": {name: history.as_dict() for name, history in histories.items()},
    }
    paths = [out / "curves.png", out / "confusion.png", out / "figures.json"]
    _draw_curves(paths[0], histories)
    _draw_confusion(paths[1], histories)
    paths[2].write_text(json.dumps(figures, indent=1, default=str) + "\n")
    return paths


def environment() -> dict[str, Any]:
    """Machine, versions, commit and date."""
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
        commit = run.stdout.strip() or None
    except OSError:  # no git
        commit = None
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nnart_ops": nnart_ops.build_info(),
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _draw_curves(path: Path, histories: dict[str, History]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for (name, history), style in zip(histories.items(), ("-", "--")):
        epochs = range(1, len(history.train_loss) + 1)
        loss_axes.plot(epochs, history.train_loss, style, color="tab:blue", label=f"{name}, training")
        loss_axes.plot(epochs, history.validation_loss, style, color="tab:orange", label=f"{name}, validation")
        accuracy_axes.plot(epochs, history.validation_accuracy, style, color="tab:green", label=f"{name}, validation")
    loss_axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _draw_confusion(path: Path, histories: dict[str, History]) -> None:
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (name, history) in zip(figure.subplots(1, len(histories), squeeze=False)[0], histories.items()):
        display = ConfusionMatrixDisplay(torch.tensor(history.confusion).numpy())
        display.plot(ax=axes, colorbar=False, cmap="Blues")
        axes.set_title(f"{name}: {history.test_accuracy:.2%} of the test split")
    figure.savefig(path, dpi=120)
