"""From one ``torch.autograd.Function`` to everything that calls an op.

An operator's formulas stand once, in a subclass of :class:`OpFunction`. :func:`differentiable` makes from it

- the entry that ``nnart_ops.functional`` calls, which picks the cheapest way that is right for the call: the bare op
  when no gradient is needed, a Function with ``forward(ctx, ...)`` in eager mode (5 instead of 15 microseconds a
  call), the op itself under ``torch.compile``, and the full Function under ``torch.func`` transforms and in forward
  mode;
- ``register_autograd``, ``register_fake`` and ``register_vmap`` on the op, so that ``torch.ops.nnart_ops.x`` is
  differentiable, traceable and batchable too, the last sample by sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_library = torch.library.Library("nnart_ops", "IMPL")


def register_fake(op: Any, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the fake kernel of both overloads of ``op`` and returns the ``kernel`` overload as a fast callable.

    That overload is the same kernel without autograd and autocast; dispatch modes such as fake tensors still see it.
    """
    kernel = op._overloadpacket.kernel
    _library.impl(kernel, torch.library.fallthrough_kernel, "Autograd")
    for overload in (op, kernel):
        torch.library.register_fake(overload, fake)
    return kernel._op


def transforms_active() -> bool:
    """Whether a ``torch.func`` transform or a forward-mode level is active, which need the full Function."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


class OpFunction(torch.autograd.Function):
    """An op with its formulas. Subclasses define ``op``, ``fake``, ``prepare``, ``backward``, ``vmap`` and ``jvp``."""

    op: ClassVar[Any]
    kernel: ClassVar[Callable[..., Any]]  # set by differentiable(), as is entry
    entry: ClassVar[Callable[..., Any]]

    @staticmethod
    def fake(*args: Any) -> Any:
        """The output's sizes, strides and dtype, without its values."""
        raise NotImplementedError

    @staticmethod
    def prepare(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Tensor | None, ...]:
        """Notes on ``ctx`` what is no tensor and returns the tensors that ``backward`` and ``jvp`` read."""
        raise NotImplementedError


def differentiable(
    function: type[OpFunction], make_eager: Callable[[type[OpFunction]], type[torch.autograd.Function]] | None = None
) -> Callable[..., Any]:
    """Registers ``function``'s formulas on its op and returns the entry to call it by.

    The entry takes the op's arguments, positionally, and returns what the op returns. ``make_eager`` may
    make the Function for eager mode, which is otherwise derived from ``function``.
    """
    op, prepare = function.op, function.prepare
    kernel = function.kernel = register_fake(op, function.fake)

    def forward(*args: Any) -> Any:
        return kernel(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        saved = prepare(ctx, inputs, output)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    function.setup_context = staticmethod(setup_context)  # type: ignore[method-assign]

    def eager_forward(ctx: Any, *args: Any) -> Any:
        output = kernel(*args)
        ctx.save_for_backward(*prepare(ctx, args, output))
        return output

    if make_eager is not None:
        eager = make_eager(function)
    else:
        members = {"forward": staticmethod(eager_forward), "backward": staticmethod(function.backward)}
        eager = type(function.__name__, (torch.autograd.Function,), members)

    def op_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*prepare(ctx, inputs, output))

    torch.library.register_autograd(op, function.backward, setup_context=op_setup_context)
    # register_vmap calls a rule where nothing but ops may be called, not the Functions and vmaps of function.vmap.
    torch.library.register_vmap(op, functools.partial(by_sample, op))

    is_compiling = torch.compiler.is_compiling
    is_grad_enabled = torch.is_grad_enabled
    apply_eager, apply_full = direct(eager), function.apply
    current_level = torch._C._functorch.maybe_current_level

    def entry(*args: Any) -> Any:
        if is_compiling():
            return op(*args)
        if transforms_active():
            return apply_full(*args)
        if is_grad_enabled():
            for arg in args:
                if isinstance(arg, Tensor) and arg.requires_grad:
                    return apply_eager(*args)
        return kernel(*args)

    def unary_entry(x: Tensor) -> Any:  # the same for an op of one tensor, where every test is felt
        if is_compiling():
            return op(x)
        if current_level() is not None or forward_ad._current_level >= 0:
            return apply_full(x)
        if x.requires_grad and is_grad_enabled():
            return apply_eager(x)
        return kernel(x)

    function.entry = staticmethod(unary_entry if len(op._schema.arguments) == 1 else entry)
    return function.entry


def by_sample(function: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """A vmap rule that calls ``function`` for each sample."""
    results = []
    for i in range(info.batch_size):
        results.append(function(*(arg.select(d, i) if isinstance(d, int) else arg for arg, d in zip(args, in_dims))))
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results)), (0,) * len(results[0])
    return torch.stack(results), 0


def direct(eager: Any) -> Callable[..., Any]:
    """``eager.apply`` without what torch wraps around it in Python, which is 3 microseconds a forward and backward.

    ``Function.apply`` looks for transforms, which the entry has done, before it calls what is returned here; the
    backward node's ``apply`` looks for the backward to call, of which there is one.
    """
    eager._backward_cls.apply = eager.backward
    return super(torch.autograd.Function, eager).apply


def is_asked_for(ctx: Any, i: int) -> bool:
    """Whether the backward that runs asks for the gradient of argument ``i``, before which all are tensors.

    What ``ctx`` calls needed is what requires a gradient; :func:`torch.autograd.grad` may ask for some of it.
    """
    needed = ctx.needs_input_grad
    if not needed[i] or needed.count(True) == 1:
        return bool(needed[i])
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[i][0])
    except RuntimeError:  # a leaf that is asked for, or no engine that could be
        return True


def refuse_leaf(x: Tensor) -> None:
    """torch's error for an operation in place on a leaf that requires a gradient."""
    if x.is_leaf:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")


def batch_first(batch_size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """``tensor`` with its batch dimension in front, expanded to ``batch_size`` if it has none."""
    return tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
