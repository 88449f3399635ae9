"""``torch.optim``, class by class, and five optimizers from their papers: one pass over the memory for a whole step.

Constructors, defaults, hooks and state dicts are torch's. What else a step often does (unscaling, clipping, averaging,
zeroing the gradients, keeping low-precision weights exact) is done in the same pass: :class:`FusedOptimizer`.
"""

from nnart_ops.optim._optimizer import FusedOptimizer
from nnart_ops.optim.adadelta import Adadelta
from nnart_ops.optim.adafactor import Adafactor
from nnart_ops.optim.adagrad import Adagrad
from nnart_ops.optim.adam import Adam, AdamW
from nnart_ops.optim.adamax import Adamax
from nnart_ops.optim.asgd import ASGD
from nnart_ops.optim.grad_scaler import GradScaler
from nnart_ops.optim.lamb import LAMB
from nnart_ops.optim.lars import LARS
from nnart_ops.optim.lion import Lion
from nnart_ops.optim.muon import Muon
from nnart_ops.optim.nadam import NAdam
from nnart_ops.optim.radam import RAdam
from nnart_ops.optim.rmsprop import RMSprop
from nnart_ops.optim.rprop import Rprop
from nnart_ops.optim.sgd import SGD

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "FusedOptimizer",
    "GradScaler",
    "Lion",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]
