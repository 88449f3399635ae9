"""How a convolution hands on not the gradient of its input x = f(z), but that of z.

The kernel that computes the gradient of x can multiply it by f'(z) before it is written, which leaves the layer that
computed x no pass of its own to do. To autograd there is only the gradient of x, so the other one goes past it: the
convolution's node returns none and leaves it at the node of x, which adds it to what comes to it in the ordinary way.
Other readers of x are as free to do this as not to.

What must not be is that somebody looks at the gradient of x itself, by a hook, ``retain_grad`` or
:func:`torch.autograd.grad`. So it is done where a caller that shows x to nobody allows it, for that call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnart_ops.autograd.function import transforms_active


def accept(ctx: Any) -> None:
    """In the forward of what may be handed gradients: its ``activation`` and ``numbers`` say what f is."""
    ctx.handed = None


def allow(x: Tensor) -> None:
    """Says that nobody will see the gradient of ``x``; does nothing if what computed it is handed none."""
    node: Any = x.grad_fn if type(x) is Tensor else None
    if node is not None and hasattr(node, "handed") and node.activation != "identity":
        node.handed = []
        node.materialize_grads = False  # no zeros for the gradient that does not come


def hand(ctx: Any, function: Any, grad_y: Tensor, weight: Tensor, x: Tensor, *where: Any) -> bool:
    """In a backward: leaves what the op of ``function`` computes at the node of x, the first input, if that may be
    handed a gradient and it is sooner done so: on the CPU, 16-bit elements pass so fast that a pass of their own costs
    no more than it does in pieces. Whether it did."""
    if torch.is_grad_enabled() or transforms_active():  # then the ordinary gradient has derivatives
        return False
    if not x.is_cuda and x.element_size() < 4:
        return False
    node = ctx.next_functions[0][0]
    if getattr(node, "handed", None) is None:
        return False
    grad = function.kernel(grad_y, weight, x, *where, node.activation, node.numbers)
    node.handed.append((torch._C._current_graph_task_id(), grad))  # for the backward that runs and no other
    return True


def handed(ctx: Any) -> Tensor | None:
    """In the backward of what accepts: the sum of what was left there."""
    if not ctx.handed:
        return None
    now = torch._C._current_graph_task_id()
    grads = [grad for task, grad in ctx.handed if task == now]  # one that failed may have left some
    ctx.handed.clear()
    return sum(grads[1:], grads[0]) if grads else None
