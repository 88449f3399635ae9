"""Finds, checks and loads the two binaries: ``_C`` (CPU kernels, every schema) and ``_cuda`` (CUDA kernels).

A mismatch is one sentence that says what to do, not an undefined symbol.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

MINIMUM_TORCH = (2, 11)
_CUDA_OBJECT = Path(__file__).parent / "_cuda.so"

# Whether CUDA tensors also reach the families whose tests have not all passed on a GPU.
CUDA_ON_TRIAL = os.environ.get("NNART_CUDA_ON_TRIAL", "0") == "1"

_cuda_status = "not loaded yet"


def load() -> ModuleType:
    """Loads the binaries and returns ``_C``; raises ImportError with the reason in one sentence."""
    _check_torch(torch.__version__)
    try:
        module = importlib.import_module("nnart_ops._C")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"nnart_ops: the compiled module _C is not in {Path(__file__).parent}. In a checkout run `make build` (or "
            "`pip install --no-build-isolation -e .`); elsewhere reinstall nnart_ops for this Python."
        ) from error
    except ImportError as error:
        raise ImportError(
            f"nnart_ops: the compiled module does not fit torch {torch.__version__} in this environment ({error}). "
            "Rebuild it here with `pip install --no-build-isolation --force-reinstall --no-deps nnart_ops` or install "
            "a torch from 2.11 on."
        ) from error
    global _cuda_status
    _cuda_status = _load_cuda(module.build_facts()["cuda_compiler"])
    return module


def _check_torch(version: str) -> None:
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if numbers < MINIMUM_TORCH:
        raise ImportError(
            f"nnart_ops needs torch 2.11 or newer, but torch {version} is installed; upgrade it with "
            "`pip install 'torch>=2.11'`."
        )


def _load_cuda(built_with: str) -> str:
    """Loads ``_cuda`` where it can serve; returns ``'loaded'`` or the reason why not."""
    if torch.version.cuda is None:
        return "this torch is a CPU-only build"
    if not _CUDA_OBJECT.exists():
        return "nnart_ops was built without CUDA kernels (no nvcc, or NNART_CUDA=0)"
    if built_with.split(".")[0] != torch.version.cuda.split(".")[0]:
        reason = f"its CUDA kernels were built with CUDA {built_with}, this torch with CUDA {torch.version.cuda}"
        warnings.warn(
            f"nnart_ops: {reason}; the major versions must agree. CUDA tensors run on torch's own kernels; rebuild "
            "nnart_ops with a matching nvcc to change that.",
            stacklevel=3,
        )
        return reason
    try:
        torch.ops.load_library(str(_CUDA_OBJECT))
    except OSError as error:
        warnings.warn(f"nnart_ops: the CUDA kernels could not be loaded ({error}); CPU works.", stacklevel=3)
        return str(error)
    ctypes.CDLL(str(_CUDA_OBJECT)).nnart_set_tf32_switch(tf32_switch)
    return "loaded"


@ctypes.CFUNCTYPE(ctypes.c_bool)
def tf32_switch() -> bool:
    """Whether torch lets float32 convolutions multiply in TF32, by its older switch or its newer one.

    The CUDA object asks before each of its own, from whichever thread runs it.
    """
    return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"


def cuda_loaded() -> bool:
    """Whether CUDA tensors reach our kernels."""
    return _cuda_status == "loaded"


def plan_is_native(
    operand: torch.Tensor,
    x_size: Sequence[int],
    weight: torch.Tensor,
    geometry: Sequence[Any],
    transposed: bool,
    has_bias: bool,
    wanted: dict[str, bool],
) -> bool | None:
    """Whether the plan leaves the wanted passes of a convolution to torch's own kernels; None if it is yet to measure.

    ``operand`` is its input, of size ``x_size``, or, ``transposed``, the gradient of its output; ``wanted`` says for
    ``forward``, ``dgrad`` and ``wgrad`` whether they are.
    """
    module = importlib.import_module("nnart_ops._C")
    dtype = getattr(module.DType, str(operand.dtype)[6:])
    passes = [getattr(module.ConvPass, name) for name, is_wanted in wanted.items() if is_wanted]
    layouts = (_is_channels_last(operand), _is_channels_last(weight))
    answer: bool | None = module.plan_is_native(
        dtype, *layouts, x_size, weight.shape, *geometry, transposed, has_bias, passes
    )
    return answer


def _is_channels_last(tensor: torch.Tensor) -> bool:
    format = _CHANNELS_LAST.get(tensor.dim())
    return format is not None and tensor.is_contiguous(memory_format=format) and not tensor.is_contiguous()


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


# Which calls of the convolution functions the plan leaves to native, as they remember it; False while explain() wants
# to see every one.
conv_plans: dict[Any, bool] = {}
calls_native_directly = True

# Whether strategies are measured (_tuning.py).
tunes_convs = False


@functools.cache
def planners() -> dict[str, ctypes.CDLL]:
    """The objects with a planner of convolutions, by the type of device they serve, for what they offer besides ops."""
    paths = {"cpu": importlib.import_module("nnart_ops._C").__file__}
    if cuda_loaded():
        paths["cuda"] = str(_CUDA_OBJECT)
    libraries = {device: ctypes.CDLL(str(path)) for device, path in paths.items()}
    for library in libraries.values():
        for name in ("forced_conv_strategy", "last_conv_strategy", "last_conv_reason"):
            getattr(library, f"nnart_{name}").restype = ctypes.c_char_p
    return libraries


def force_conv_strategy(name: str) -> None:
    """Forces a strategy for the whole process, ``"auto"`` none."""
    for planner in planners().values():
        planner.nnart_force_conv_strategy(name.encode())
    conv_plans.clear()


def forced_conv_strategy() -> str:
    """The strategy that is forced, or ``"auto"``."""
    return str(planners()["cpu"].nnart_forced_conv_strategy().decode())


def last_conv_plan(device: torch.device) -> tuple[str, str]:
    """Strategy and reason of the last convolution that this thread planned for such a device."""
    planner = planners()[device.type]
    return planner.nnart_last_conv_strategy().decode(), planner.nnart_last_conv_reason().decode()


def build_info() -> dict[str, str]:
    """How the binaries were built and what of them is in use.

    Returns:
        A dict of str to str: ``version``, ``compiler``, ``build_type``, ``torch_built``, ``torch_minimum``,
        ``cuda_compiler``, ``cuda_architectures``, ``cpu_isa_variants`` (what was compiled), and ``torch_running``,
        ``cpu_isa`` (what this process uses), ``cpu_traits`` (``'halves_vectors'``: 64-byte vectors take two steps,
        as on Zen 4; ``'multiplies_pairs'``: bfloat16 convolutions run at twice float32's rate, as on AMD's processors
        from Zen 4 on; both or ``'none'``), ``cuda`` (``'loaded'`` or why not).

    Shape: no tensors.

    >>> nnart_ops.build_info()["cpu_isa"] in ("baseline", "avx2", "avx512")
    True
    """
    module = importlib.import_module("nnart_ops._C")
    facts = dict(module.build_facts())
    running = {"torch_running": torch.__version__, "cpu_isa": module.cpu_isa(), "cpu_traits": module.cpu_traits()}
    return {**facts, **running, "cuda": _cuda_status}
