"""Loss curves of every optimizer on the digits CNN, ours and torch's from one start on the same batches.

python examples/optimizer_curves.py docs/optimizer_curves.png     about two minutes on one core
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

import nnart_ops
from nnart_ops.demo import data, model

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, BATCH = 500, 64
RUNS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3},
    "Adagrad": {"lr": 1e-2},
    "RMSprop": {"lr": 1e-3},
    "Adadelta": {"lr": 1.0},
    "Adamax": {"lr": 2e-3},
    "NAdam": {"lr": 1e-3},
    "RAdam": {"lr": 1e-3},
    "ASGD": {"lr": 0.1},
    "Rprop": {"lr": 1e-4},
    "Adafactor": {"lr": 1e-2},
    "Lion": {"lr": 3e-4},
    "LAMB": {"lr": 1e-2},
    "LARS": {"lr": 1.0, "momentum": 0.9, "trust_coefficient": 1e-2},
}


def losses(library: Any, name: str, images: Tensor, labels: Tensor) -> list[float]:
    """The loss of each step."""
    torch.manual_seed(0)
    network = model.build(nn, 1, 0.0)
    optimizer = getattr(library, name)(network.parameters(), **RUNS[name])
    found = []
    for step in range(STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(images)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "optimizer_curves.png")
    torch.set_flush_denormal(True)
    split = data.load("digits", None, seed=0).train
    figure, axes = plt.subplots(3, 5, figsize=(14, 7), sharex=True, sharey=True, layout="constrained")
    for name, axis in zip(RUNS, axes.flat, strict=True):
        ours = losses(nnart_ops.optim, name, split.images, split.labels)
        axis.semilogy(ours, linewidth=2.2, label="nnart_ops")
        worst = ""
        if hasattr(torch.optim, name):
            theirs = losses(torch.optim, name, split.images, split.labels)
            axis.semilogy(theirs, "--", linewidth=1, label="torch")
            worst = f"largest difference {max(abs(a - b) for a, b in zip(ours, theirs, strict=True)):.1e}"
        print(f"{name:10s} last 50 steps {sum(ours[-50:]) / 50:.4f}  {worst}", flush=True)
        axis.set_title(name)
        axis.set_ylim(1e-3, 5)
    axes.flat[0].legend()
    figure.supxlabel("step")
    figure.supylabel("cross-entropy of the batch")
    figure.savefig(out, dpi=70)


if __name__ == "__main__":
    main()
