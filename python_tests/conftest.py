"""Set before anything imports nnart_ops: outputs are poisoned with NaN, so that an element no kernel wrote is seen; and
with ``--device cuda`` all kernels are tested."""

import os

os.environ["NNART_POISON_OUTPUTS"] = "1"
os.environ["NNART_CUDA_ON_TRIAL"] = "1"
os.environ["NNART_PAST_CACHES_BYTES"] = str(1 << 20)  # for tests of both kinds of stores that need not be large

import importlib.util
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch

# torch.testing._internal, which has PyTorch's own samples, imports a helper that only PyTorch's own tests call.
if importlib.util.find_spec("expecttest") is None:
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase  # type: ignore[attr-defined]

# Two workers share two cores; the tests of threads set their own number.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the tests' tensors are: cpu or cuda")
    parser.addoption(
        "--failures", type=Path, help="a file that takes each failure at once, for a run that is cut short"
    )
    parser.addoption("--schedule", default="forward", help="of threads in an emulated build: forward, reverse or warps")


def pytest_configure(config: pytest.Config) -> None:
    """Before a test module is imported, since some of them make tensors for their parameters."""
    device = config.getoption("--device")
    if device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: this torch finds no CUDA device")
    torch.set_default_device(device)
    if config.getoption("--failures") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failures(config.getoption("--failures")))
    import emulation

    emulated = emulation.loaded()
    if emulated:
        emulated.schedule(config.getoption("--schedule"))


class _Failures:
    """Writes each failure down as it happens."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.file.open("a") as file:
                file.write(f"{report.nodeid} ({report.when})\n{report.longreprtext}\n\n")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_input_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalization leaves small inputs to native: not those of the tests, which are all small."""
    module = sys.modules.get("nnart_ops.functional.batch_norm")
    if module is not None:
        monkeypatch.setattr(module, "LEFT_TO_NATIVE", 0)
