"""Outputs of activations that are computed again instead of kept for the operations that read them."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Recipe:
    """How an output came about."""

    def __init__(self, y: Tensor, inputs: tuple[Tensor, ...], compute: Callable[..., Tensor]) -> None:
        self.y, self.version = weakref.ref(y), y._version
        self.inputs = [(x.detach(), x._version) for x in inputs]
        self.compute = compute

    def made(self, t: Tensor) -> bool:
        """Whether ``t`` is the output, or a view of it, as it was."""
        y = self.y()
        return y is not None and y.data_ptr() == t.untyped_storage().data_ptr() and t._version == self.version

    def repeat(self) -> Tensor:
        if any(x._version != version for x, version in self.inputs):
            raise RuntimeError(
                "recompute_activations: the input of an activation with save='recompute' was modified by an inplace "
                "operation before its output was computed again"
            )
        with torch.no_grad():
            return self.compute(*(x for x, _ in self.inputs))


class _Recomputed:
    """What autograd keeps in the place of an output or a view of it."""

    def __init__(self, recipe: _Recipe, t: Tensor) -> None:
        self.recipe, self.view = recipe, (t.shape, t.stride(), t.storage_offset())


class recompute_activations(contextlib.ContextDecorator):
    """While it is active, what autograd keeps of the outputs of activations with ``save='recompute'`` is their inputs.

    A linear layer or a convolution after a GELU keeps the GELU's output for its weight's gradient, and the GELU keeps
    its own input: two tensors, of which the first follows from the second in one pass over memory. Inside this context
    that first one is not kept, and is computed again when the backward asks for it (selective recomputation,
    Korthikanti et al. 2022, arXiv:2205.05198, of one operation). It takes effect in eager mode, for the tensors that
    operations save while it is active; the backward may run outside.

    Shape: of no consequence; views of an output, such as a flattened one, are recognized.

    >>> layer = torch.nn.Sequential(nnart_ops.GELU(save="recompute"), torch.nn.Linear(3, 3))
    >>> with nnart_ops.recompute_activations():
    ...     y = layer(torch.zeros(2, 3, requires_grad=True))
    >>> y.sum().backward()
    """

    def __enter__(self) -> recompute_activations:
        self._recipes: dict[int, _Recipe] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        _active().append(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        _active().pop()
        self._hooks.__exit__(*exception)
        self._recipes = {}

    def _pack(self, t: Tensor) -> Any:
        recipe = self._recipes.get(t.untyped_storage().data_ptr()) if self._recipes else None
        return _Recomputed(recipe, t) if recipe is not None and recipe.made(t) else t

    @staticmethod
    def _unpack(kept: Any) -> Tensor:
        if not isinstance(kept, _Recomputed):
            tensor: Tensor = kept
            return tensor
        return kept.recipe.repeat().as_strided(*kept.view)

    def _remember(self, y: Tensor, recipe: _Recipe) -> None:
        address, recipes = y.data_ptr(), self._recipes
        recipes[address] = recipe

        def forget() -> None:
            if recipes.get(address) is recipe:
                del recipes[address]

        weakref.finalize(y, forget).atexit = False


def recomputed(y: Tensor, inputs: tuple[Tensor, ...], compute: Callable[..., Tensor]) -> Tensor:
    """``y``, of which the innermost active context is told that it is ``compute(*inputs)``."""
    for context in _active()[-1:]:
        context._remember(y, _Recipe(y, inputs, compute))
    return y


_local = threading.local()


def _active() -> list[recompute_activations]:
    contexts: list[recompute_activations] | None = getattr(_local, "contexts", None)
    if contexts is None:
        contexts = _local.contexts = []
    return contexts
