"""pytest-benchmark entries for the same cases: ``pytest benchmarks --benchmark-only --benchmark-group-by=group``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from benchmarks.cases import FAMILIES, Case
from benchmarks.run import check


def _cases() -> list[Any]:
    torch.manual_seed(0)
    cases = itertools.chain.from_iterable(FAMILIES[family]("float32") for family in ("overhead", "pooling", "conv"))
    return [pytest.param(case, id=f"{case.family}-{case.name}") for case in cases]


@pytest.mark.parametrize("side", ["ours", "peer"])
@pytest.mark.parametrize("case", _cases())
def test_case(benchmark: Any, case: Case, side: str) -> None:
    benchmark.group = f"{case.family}: {case.name}"
    check(case)
    benchmark(getattr(case, side), 0)
