from collections.abc import Sequence
from enum import Enum
from typing import Any

from torch import Tensor

class DType(Enum):
    float32 = 0
    float64 = 1
    bfloat16 = 2
    float16 = 3

class ConvPass(Enum):
    forward = 0
    dgrad = 1
    wgrad = 2

def build_facts() -> dict[str, str]: ...
def cpu_isa() -> str: ...
def cpu_traits() -> str: ...
def plan_is_native(
    dtype: DType,
    channels_last: bool,
    weight_channels_last: bool,
    x: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    has_bias: bool,
    wanted: Sequence[ConvPass],
) -> bool | None: ...

class OptimizerPlan:
    def __init__(
        self, options: dict[str, Any], param_groups: list[dict[str, Any]], state: dict[Tensor, Any]
    ) -> None: ...
    def add_group(
        self,
        group: dict[str, Any],
        rule: str,
        hyper: Sequence[tuple[str | None, int, float]],
        decay: str,
        watched: Sequence[str],
    ) -> int: ...
    def add_rows(
        self,
        group: int,
        params: list[Tensor],
        states: int,
        quantized: Sequence[int],
        positive: Sequence[int],
        master: bool,
        compensation: bool,
        ema: bool,
        step: bool,
        scalars: int,
        steps: float,
    ) -> None: ...
    def seal(self) -> None: ...
    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Tensor, Any],
        grad_factor: float,
        max_norm: float,
        skips_non_finite: bool,
        norm: float,
        seed: int,
        fresh: bool,
        device: tuple[int, int, int] = (0, 0, 0),
    ) -> tuple[float, bool] | None: ...
    @property
    def serves_one_step(self) -> bool: ...
