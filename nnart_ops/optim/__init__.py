"""``torch.optim``, class by class: the same constructors, defaults, hooks and state dicts, one kernel call a step.

What the kernels do not take (sparse or complex gradients, ``differentiable``, ``capturable``, other devices, tensor
subclasses) makes the whole step torch's own.
"""

from nnart_ops.optim.adamw import AdamW
from nnart_ops.optim.sgd import SGD

__all__ = ["SGD", "AdamW"]
