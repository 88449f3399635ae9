"""The README's tables of what the CPU's kernels gain, made from benchmarks/results.

python -m benchmarks.tables            prints them
python -m benchmarks.tables --write    puts them into README.md

A cell is native's time over ours: the range over the cases of its row and column, and their median where there are
many of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import pages

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"


@functools.cache
def results(name: str) -> list[dict[str, Any]]:
    """The rows of one file of results."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"cpu-epyc-{name}.json").read_text())["rows"]
    return rows


def number(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def span(ratios: Sequence[float]) -> str:
    low, high = number(min(ratios)), number(max(ratios))
    return low if low == high else f"{low} to {high}"


def span_and_median(ratios: Sequence[float]) -> str:
    return f"{span(ratios)}, {number(statistics.median(ratios))}"


def each(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


@dataclass(frozen=True)
class Column:
    """``ending`` is a pattern of how the names of its cases end."""

    heading: str
    dtype: str
    ending: str


@dataclass(frozen=True)
class Row:
    """``beginning`` is a pattern of what comes before a column's ending, or what tells whether that is the row's;
    ``endings`` are columns' for which it has others."""

    label: str
    beginning: str | Callable[[str], bool]
    endings: dict[str, str] = field(default_factory=dict)

    def has(self, case: str, column: Column) -> bool:
        """Whether a case is of the cell in that column."""
        ending = self.endings.get(column.ending, column.ending)
        found = re.fullmatch(rf"(.*?){ending}", case)
        if found is None:
            return False
        if isinstance(self.beginning, str):
            return re.fullmatch(self.beginning, found[1]) is not None
        return self.beginning(found[1])


@dataclass(frozen=True)
class Table:
    """``source`` names the machine and its file of results; ``cell`` makes its text of the ratios."""

    source: str
    columns: list[Column]
    rows: list[Row]
    cell: Callable[[Sequence[float]], str] = span_and_median

    def __str__(self) -> str:
        lines = [
            f"| | {' | '.join(column.heading for column in self.columns)} |",
            "|" + "---|" * (len(self.columns) + 1),
        ]
        for row in self.rows:
            cells = [
                [r["ratio"] for r in results(self.source) if r["dtype"] == column.dtype and row.has(r["case"], column)]
                for column in self.columns
            ]
            lines.append(f"| {row.label} | {' | '.join(self.cell(cell) if cell else '' for cell in cells)} |")
        return "\n".join(lines) + "\n"


def passes(*endings: tuple[str, str], dtypes: Sequence[str] = ("float32", "bfloat16")) -> list[Column]:
    """The same columns for each dtype, which the first of them names."""
    columns = []
    for dtype in dtypes:
        for heading, ending in endings:
            first = heading == endings[0][0]
            columns.append(Column(f"{dtype} {heading}" if first else heading, dtype, ending))
    return columns


def kind_of_convolution(layer: str) -> str:
    """The row of a layer, given as ``'64->128 3x3 s2 @28 NCHW'``; empty for those that the table leaves out."""
    if layer.startswith("transposed"):
        return "" if layer.startswith("transposed dw") else "transposed"
    if layer.startswith("dw"):
        taps = re.search(r" (31|3x3|5x5|7x7)\b", layer)
        return {"31": "31", "3x3": "3x3"}.get(taps[1], "5x5") if taps else ""
    channels = [int(count) for count in re.findall(r"\d+", layer)[:2]]
    groups = re.search(r" g(\d+)", layer)
    if groups:
        return "4 a group" if channels[0] // int(groups[1]) == 4 else ""
    if min(channels) <= 8:
        return "few"
    if " of 8 images" in layer:
        return ""
    if " 1x1 " in layer:
        return "1x1"
    return "ragged" if any(count % 16 for count in channels) else "dense"


def is_of_kind(kind: str, layer: str) -> bool:
    return kind_of_convolution(layer) == kind


CONVOLUTIONS = {
    "depthwise 3x3": "3x3",
    "depthwise 5x5, 7x7": "5x5",
    "depthwise, 31 taps in 1-d": "31",
    "4 channels a group": "4 a group",
    "few channels (1 to 8) on a side": "few",
    "transposed": "transposed",
    "1x1, 16 images": "1x1",
    "channels no multiple of 16": "ragged",
    "other dense: mostly native itself": "dense",
}
LAYOUTS = {"NCHW": "NCHW", "NHWC": "channels_last"}
FORWARD, BACKWARD, BOTH = (
    ("forward", " forward"),
    ("backward", " backward"),
    ("forward and backward", r" forward\+backward"),
)


def convolutions(dtype: str, machine: str) -> Table:
    endings = (FORWARD, ("with ReLU", " forward, ReLU"), ("input gradient", " dgrad"), ("weight gradient", " wgrad"))
    rows = [Row(label, functools.partial(is_of_kind, kind)) for label, kind in CONVOLUTIONS.items()]
    return Table(machine, passes(*endings, dtypes=[dtype]), rows)


def networks(what: str, machine: str) -> Table:
    """Of ``"training step"`` or ``"inference"``."""
    columns = [
        Column(heading, dtype, rf" (NCHW|NHWC) {what}{ending}")
        for ending, suffix in (("", ""), (", fused", ", fused"))
        for heading, dtype in ((f"float32{suffix}", "float32"), (f"bfloat16{suffix or ' autocast'}", "bfloat16"))
    ]
    names = {"resnet": "ResNet", "mobilenet": "MobileNetV2", "convnext": "ConvNeXt", "unet": "U-Net"}
    return Table(f"{machine}-model", columns, [Row(f"{label}-shaped", name) for name, label in names.items()], each)


def batch_norms() -> Table:
    endings = {"alone": "", "ReLU": ", ReLU", "SiLU": ", SiLU", "residual and ReLU": ", residual, ReLU"}
    endings["ReLU in evaluation"] = ", ReLU, evaluation"
    rows = [
        Row(f"{label}, {name}", rf"batch_norm \S+ {layout}{ending}")
        for label, ending in endings.items()
        for layout, name in LAYOUTS.items()
    ]
    return Table("zen5-batch-norm", passes(FORWARD, BOTH), rows)


def pools() -> Table:
    windows = {
        "MaxPool2d 2x2": "max_pool2d 2",
        "MaxPool2d 3x3 stride 2": "max_pool2d 3,2,1",
        "MaxPool2d 3x3 stride 1": "max_pool2d 3,1,1",
        "AvgPool2d 2x2": "avg_pool2d 2",
    }
    rows = [
        Row(f"{label}, {name}", rf"{window} \S+ {layout}")
        for label, window in windows.items()
        for layout, name in LAYOUTS.items()
    ]
    rows += [
        Row(f"{label} (backward: with forward)", rf"{name} p=\S+ \w+", {BACKWARD[1]: BOTH[1]})
        for label, name in (("Dropout", "dropout"), ("Dropout2d", "dropout2d"))
    ]
    return Table("zen5-pooling-dropout", passes(FORWARD, BACKWARD), rows)


def optimizers() -> Table:
    adaptive = "RMSprop, Adadelta, Adamax, NAdam, RAdam, Rprop"
    everything = "unscale, clip, AdamW, EMA, zero_grad"
    rows = [
        Row("SGD with momentum", "SGD momentum"),
        Row("Adam, AdamW", "AdamW?"),
        Row("Adagrad", "Adagrad"),
        Row(adaptive, f"({adaptive.replace(', ', '|')})"),
        Row("ASGD", "ASGD"),
        Row("Adafactor", "Adafactor"),
        Row("unscale, clip, AdamW, average, zero the gradients", everything),
    ]
    columns = passes(*((name, f"[,;] {name}") for name in ("LeNet", "MobileNetV2", "ResNet-50")))
    return Table("zen5-optimizers", columns, rows, span)


TABLES: dict[str, Table] = {
    "activations": Table(
        "zen5-activation-softmax",
        passes(FORWARD, BACKWARD),
        [
            Row("PReLU, one weight or one a channel", r"prelu, .*"),
            Row("Mish", "mish"),
            Row("GELU, tanh", "gelu-tanh"),
            Row("GELU", "gelu"),
            Row("ELU, SELU, CELU", "(elu|selu|celu)"),
            Row("Softplus, LogSigmoid", "(softplus|logsigmoid)"),
            Row("Tanh, Tanhshrink, Softsign", "(tanh|tanhshrink|softsign)"),
            Row("SiLU, Sigmoid", "(silu|sigmoid)"),
            Row("ReLU, LeakyReLU, Hard*, Threshold, shrinks", r"(relu6?|leaky_relu|hard\w+|softshrink|threshold)"),
        ],
        span,
    ),
    "rows": Table(
        "zen5-activation-softmax",
        passes(FORWARD, BOTH),
        [
            Row("SwiGLU, GEGLU, ReGLU", r"(swi|ge|re)glu .*"),
            Row("GLU (native has a kernel), BilinearGLU", r"(bilinear_)?glu .*"),
            Row("Softmax, LogSoftmax", r"(log_)?softmax (?!64x10 ).*"),
            Row("cross-entropy", r"cross_entropy (?!64x10 )[^,]*"),
            Row("the same, smoothed and weighted or with probabilities", r"cross_entropy (?!64x10 ).*,.*"),
        ],
    ),
    "convolutions in float32": convolutions("float32", "zen5"),
    "convolutions in bfloat16": convolutions("bfloat16", "zen5"),
    "networks": networks("training step", "zen5"),
    "inference": networks("inference", "zen5"),
    "convolutions in bfloat16 on Zen 4": convolutions("bfloat16", "zen4"),
    "networks on Zen 4": networks("training step", "zen4"),
    "batch normalization": batch_norms(),
    "pooling and dropout": pools(),
    "optimizers": optimizers(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    for name, table in TABLES.items():
        if arguments.write:
            pages.put(str(table), README, name)
        else:
            print(f"{name}\n\n{table}")


if __name__ == "__main__":
    main()
