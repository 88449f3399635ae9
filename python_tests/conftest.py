"""Set before anything imports nnart_ops: outputs are poisoned with NaN, so that an element no kernel wrote is seen."""

import os

os.environ["NNART_POISON_OUTPUTS"] = "1"

import pytest
import torch

# Two workers share two cores; the tests of threads set their own number.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
