"""Which strategy computes a convolution: what explain() says and config() forces."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from devices import cpu_only, threads

import nnart_ops
import nnart_ops.functional as F
from nnart_ops import _extension

FACTS = nnart_ops.build_info()


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(
        nnart_ops.Conv2d(64, 64, 3), nnart_ops.Conv2d(64, 64, 3, groups=64, activation="relu"), torch.nn.Flatten()
    )
    rows = nnart_ops.explain(model, torch.randn(1, 64, 12, 12, dtype=torch.float32))
    assert [row.name for row in rows] == ["forward", "dgrad", "wgrad"] * 2
    assert [row.strategy for row in rows[3:]] == ["depthwise"] * 3
    assert all(row.strategy in ("native", "gemm") for row in rows[:3])
    assert rows[0].flops == 2 * 64 * 64 * 9 * 100
    assert rows[0].bytes == 4 * (64 * 144 + 64 * 64 * 9 + 64 * 100)
    assert all(row.seconds > 0 and row.roofline > 0 and row.reason for row in rows)
    assert capsys.readouterr().out.count("wgrad") == 2
    assert "native kernels took every one" in str(nnart_ops.explain(torch.nn.Linear(2, 2), torch.ones(2)))


@pytest.mark.parametrize("channels", [(1, 32), (3, 32), (32, 1), (64, 3)], ids=str)
def test_few_channels_are_ours(channels: tuple[int, int]) -> None:
    layer = nnart_ops.Conv2d(*channels, 3, padding=1)
    rows = nnart_ops.explain(layer, torch.randn(2, channels[0], 12, 12))
    assert [row.strategy for row in rows] == ["gemm"] * 3


@cpu_only
def test_what_a_rule_gains_must_be_worth_our_python() -> None:
    """A strided layer, whose gradient our GEMM computes a tenth faster, goes to native whole where it is small."""
    for width, is_native in ((16, True), (128, False)):
        x = torch.randn(8, 64, width, width, requires_grad=True)
        weight = torch.randn(64, 64, 3, 3, requires_grad=True)
        _extension.conv_plans.clear()
        with threads(1):
            F.conv2d(x, weight, stride=2)
        assert list(_extension.conv_plans.values()) == [is_native]
        assert nnart_ops.explain(F.conv2d, x, weight, stride=2)[1].strategy == "gemm"


@cpu_only
@pytest.mark.skipif(
    FACTS["cpu_isa"] != "avx512" or "halves_vectors" in FACTS["cpu_traits"],
    reason="torch's matrix product is as fast as the machine elsewhere",
)
def test_where_torch_avoids_onednn_our_gemm_multiplies() -> None:
    """On one thread, 1x1 filters of fewer than 16 images, and small filters of one image."""
    weight = torch.randn(192, 64, 1, 1)
    for images, count, strategy in ((15, 1, "gemm"), (16, 1, "native"), (15, 2, "native"), (1, 1, "native")):
        x = torch.randn(images, 64, 14, 14)
        with threads(count):
            y, plan = F.conv2d(x, weight), nnart_ops.explain(F.conv2d, x, weight)
        assert [row.strategy for row in plan] == [strategy] * 3
        torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight))
    x, weight = torch.randn(1, 64, 16, 16), torch.randn(64, 64, 3, 3)
    for shape, strategy in (((1, 64, 16, 16), "gemm"), ((1, 64, 20, 20), "native"), ((2, 64, 16, 16), "native")):
        with threads(1):
            assert nnart_ops.explain(F.conv2d, torch.randn(shape), weight)[0].strategy == strategy


@cpu_only
def test_1x1_on_planes_by_their_size() -> None:
    """oneDNN's reorders are worth avoiding where the planes are large, and our own where they are not."""
    for dtype in (torch.float32, torch.bfloat16):
        for channels, size, ours in (((24, 144), 56, True), ((512, 2048), 7, False), ((96, 576), 14, False)):
            x, weight = torch.randn(16, channels[0], size, size).to(dtype), torch.randn(*channels[::-1], 1, 1).to(dtype)
            plan = nnart_ops.explain(F.conv2d, x, weight)
            if dtype is torch.bfloat16 and all(row.strategy == "gemm" for row in plan):
                continue  # no vectorized native kernel here
            assert [row.strategy == "gemm" for row in plan] == [ours] * 3


@cpu_only
@pytest.mark.skipif(FACTS["cpu_isa"] == "baseline", reason="the rule is for vectors of 8 lanes and more")
def test_channels_that_fill_no_vectors_are_ours_on_large_planes() -> None:
    for channels, layout, strategy in (
        ((18, 18), torch.contiguous_format, "gemm"),
        ((18, 18), torch.channels_last, "native"),
        ((16, 48), torch.contiguous_format, "native"),
    ):
        x = torch.randn(16, channels[0], 28, 28).to(memory_format=layout)
        weight = torch.randn(*channels[::-1], 3, 3).to(memory_format=layout)
        plan = nnart_ops.explain(F.conv2d, x, weight, padding=1)
        assert [row.strategy for row in plan] == [strategy] * 3


@cpu_only
@pytest.mark.skipif("multiplies_pairs" not in FACTS["cpu_traits"], reason="this CPU does not multiply pairs")
@pytest.mark.parametrize(
    ("channels", "groups", "size", "strategy"),
    [((18, 18), 1, 28, "gemm"), ((16, 48), 1, 28, "native"), ((32, 32), 8, 28, "gemm"), ((32, 32), 8, 14, "grouped")],
)
def test_pairs_make_our_gemm_as_fast_in_bfloat16(
    channels: tuple[int, int], groups: int, size: int, strategy: str
) -> None:
    x = torch.randn(16, channels[0], size, size).bfloat16()
    weight = torch.randn(channels[1], channels[0] // groups, 3, 3).bfloat16()
    plan = nnart_ops.explain(F.conv2d, x, weight, padding=1, groups=groups)
    assert [row.strategy for row in plan] == [strategy] * 3


@cpu_only
def test_a_small_gain_of_one_pass_is_not_the_rule_of_another() -> None:
    """The gradient of a first layer with a stride: few channels are written, which is worth any overhead."""
    x, weight = torch.randn(4, 3, 112, 112, requires_grad=True), torch.randn(64, 3, 7, 7, requires_grad=True)
    with threads(1):
        assert nnart_ops.explain(F.conv2d, x, weight, stride=2, padding=3)[1].strategy == "gemm"
        _extension.conv_plans.clear()
        F.conv2d(x, weight, stride=2, padding=3)
    assert list(_extension.conv_plans.values()) == [False]


def test_config_nests_and_refuses() -> None:
    x, w = torch.randn(1, 32, 6, 6), torch.randn(32, 32, 3, 3)
    with nnart_ops.config(conv_strategy="gemm"):
        with nnart_ops.config(conv_strategy="native"):
            assert nnart_ops.explain(F.conv2d, x, w)[0].strategy == "native"
        assert nnart_ops.explain(F.conv2d, x, w)[0].strategy == "gemm"
    with pytest.raises(ValueError, match=r"conv_strategy must be one of .* but got 'fast'"):
        nnart_ops.config(conv_strategy="fast")
    command = [sys.executable, "-c", "import nnart_ops"]
    run = subprocess.run(command, env={**os.environ, "NNART_CONV_STRATEGY": "fast"}, capture_output=True, text=True)
    assert "NNART_CONV_STRATEGY is 'fast'; allowed are" in run.stderr


# What convolutions of many shapes add to the process: first some, then others of the same size.
MANY_SHAPES = """
import resource

import torch

import nnart_ops
import nnart_ops.functional as F

torch.set_num_threads(1)

def run(sizes):
    for size in sizes:
        for strategy, groups, channels in (("gemm", 1, 120), ("depthwise", 400, 400), ("grouped", 100, 400)):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(1, channels, size, size).contiguous(memory_format=layout).requires_grad_()
                weight = torch.randn(channels, channels // groups, 3, 3 + size % 7, requires_grad=True)
                with nnart_ops.config(conv_strategy=strategy):
                    F.conv2d(x, weight, padding="same", groups=groups).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

run([20])
some = run(range(21, 24))
print(run(range(8, 20)) - some)
"""


@cpu_only
def test_nothing_is_kept_for_a_shape() -> None:
    ran = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 10_000, f"{ran.stdout.strip()} KiB more after 72 convolutions of new shapes"
