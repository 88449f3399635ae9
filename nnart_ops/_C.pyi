from collections.abc import Sequence
from enum import Enum

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
def force_conv_strategy(name: str) -> bool: ...
def forced_conv_strategy() -> str: ...
def last_conv_plan() -> tuple[str, str]: ...
def plan_is_native(
    dtype: DType,
    channels_last: bool,
    x: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    has_bias: bool,
    wanted: Sequence[ConvPass],
) -> bool: ...
