"""``torch.nn.Sequential`` that lets its convolutions do the backward of the activation before them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.module import _has_any_global_hook

from nnart_ops.autograd.handover import allow
from nnart_ops.nn.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

# Those that hand gradients to each other: no subclasses, which might show to others what they compute.
LAYERS = (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)


class Sequential(torch.nn.Sequential):
    """:class:`torch.nn.Sequential` in which what goes from one convolution to the next is seen by nobody else.

    Where a convolution or its transpose with an ``activation`` whose output gives its derivative (ReLU, ReLU6,
    Hardtanh, LeakyReLU, sigmoid, tanh) comes before another one, that one multiplies the gradient of its input by the
    derivative while it computes it, and the backward of the activation is no pass of its own. Results and gradients are
    the same. Where a module hook sees what lies between the two, and in a backward that is differentiated itself, the
    passes are separate. :func:`nnart_ops.fuse` puts it in the place of ``torch.nn.Sequential``.

    Shape: as :class:`torch.nn.Sequential`.

    >>> first, second = nnart_ops.Conv2d(3, 8, 3, activation="relu"), nnart_ops.Conv2d(8, 4, 3)
    >>> nnart_ops.Sequential(first, second)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 4, 12, 12])
    """

    def forward(self, input: Any) -> Any:
        if torch.compiler.is_compiling() or _has_any_global_hook():
            return super().forward(input)
        is_hidden = False  # whether no caller and no hook has seen input
        for module in self:
            is_watched = has_hooks(module)
            if is_hidden and not is_watched and type(module) in LAYERS:
                allow(input)
            input = module(input)
            passes_on = type(module) is torch.nn.Identity
            is_hidden = not is_watched and (is_hidden if passes_on else type(module) in LAYERS)
        return input


def has_hooks(module: object) -> bool:
    """Whether a hook of ``module`` sees its inputs, outputs or gradients."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
