"""Convolution, pooling, activation and fused-optimizer kernels for PyTorch, with torch.nn's names.

Change ``torch.nn.Conv2d`` to ``nnart_ops.Conv2d`` (or call :func:`nnart_ops.convert` on a model), load the same
checkpoint, and get the same numbers. ``nnart_ops.functional`` mirrors ``torch.nn.functional``, ``nnart_ops.optim``
mirrors ``torch.optim``.
"""

from nnart_ops import _extension

_extension.load()  # first: the modules below look their ops up when they are imported

from nnart_ops import functional, nn, optim  # noqa: E402
from nnart_ops._config import config, read_environment  # noqa: E402
from nnart_ops._explain import explain  # noqa: E402
from nnart_ops._extension import build_info  # noqa: E402
from nnart_ops.autograd.recompute import recompute_activations  # noqa: E402
from nnart_ops.nn import *  # noqa: E402, F403
from nnart_ops.nn import __all__ as _layers  # noqa: E402

read_environment()

__all__ = ["build_info", "config", "explain", "functional", "nn", "optim", "recompute_activations", *_layers]
__version__ = build_info()["version"]
