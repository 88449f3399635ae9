"""Swap a model's torch.nn layers for ours, in place."""

from __future__ import annotations

from typing import TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


def _replacements() -> dict[type[torch.nn.Module], type[torch.nn.Module]]:
    import nnart_ops.nn as ours

    classes = (getattr(ours, name) for name in ours.__all__)
    replacements = {_torchs_own(cls): cls for cls in classes if isinstance(cls, type)}
    replacements.pop(torch.nn.Module, None)  # of layers that torch does not have
    replacements.pop(torch.nn.Sequential)  # only what fuse() makes of it has a use for ours
    return replacements


def _torchs_own(cls: type[torch.nn.Module]) -> type[torch.nn.Module]:
    return next(base for base in cls.__mro__ if base.__module__.startswith("torch.nn."))


def convert(model: Model) -> Model:
    """Makes every layer of ``model`` that this library has kernels for one of ours, and returns ``model``.

    Each module changes its class and nothing else: parameters, buffers, hooks, names and the state_dict stay the same
    objects, so that an optimizer made before still updates them. Subclasses of torch.nn's layers are left alone, since
    their forward is their own.

    Shape: parameters and buffers keep theirs.

    Raises:
        TypeError: if ``model`` is no ``torch.nn.Module``.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    >>> type(nnart_ops.convert(model)[1]).__module__
    'nnart_ops.nn.activation'
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, but got {type(model).__name__}")
    replacements = _replacements()
    for module in model.modules():
        replacement = replacements.get(type(module))
        if replacement is not None:
            module.__class__ = replacement
    return model
