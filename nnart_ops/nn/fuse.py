"""Let layers take over what follows them, in place."""

from __future__ import annotations

import collections
import itertools
from typing import TypeVar

import torch

from nnart_ops.functional._epilogue import epilogue_of
from nnart_ops.nn._activated import Activated
from nnart_ops.nn.batch_norm import BatchNorm
from nnart_ops.nn.conv import Convolution
from nnart_ops.nn.sequential import LAYERS, Sequential, has_hooks

Model = TypeVar("Model", bound=torch.nn.Module)
_FORWARDS = (torch.nn.Sequential.forward, Sequential.forward)


def fuse(model: Model) -> Model:
    """Gives each convolution of ``model`` the batch normalization and the activation behind it, each batch
    normalization the activation, and returns ``model``.

    It looks at this library's layers (:func:`nnart_ops.convert` makes them) in every ``torch.nn.Sequential``. An
    element-wise activation without weights that directly follows one becomes that layer's ``activation``, and an
    ``Identity`` takes its place. A batch normalization that directly follows a convolution becomes its ``norm``: it
    stays where it is, with its parameters and statistics, and hands on what the convolution has normalized already
    (:func:`nnart_ops.functional.conv_batch_norm`: in evaluation at no cost). Where a convolution then follows one with
    an activation, their ``torch.nn.Sequential`` becomes an :class:`nnart_ops.Sequential`, in which the former does the
    backward of that activation. Names and the state_dict stay. A pair is left alone where either module has hooks, the
    convolution or batch normalization another place in ``model``, the first one an activation or a ``norm``, or the
    activation of a batch normalization a ``save=``.

    Shape: parameters and buffers keep theirs.

    Raises:
        TypeError: if ``model`` is no ``torch.nn.Module``.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> nnart_ops.fuse(nnart_ops.convert(model))[1].activation
    ReLU()
    >>> model[0].norm is model[1]
    True
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fuse: model must be a torch.nn.Module, but got {type(model).__name__}")
    places = collections.Counter(id(child) for module in model.modules() for child in module._modules.values())
    for module in model.modules():
        if isinstance(module, torch.nn.Sequential) and type(module).forward in _FORWARDS:
            names = list(module._modules)
            for first, second in itertools.pairwise(names):
                following = module._modules[second]
                changed = [module._modules[first], *([following] if isinstance(following, BatchNorm) else [])]
                if all(places[id(layer)] == 1 for layer in changed):  # no other place would see it changed
                    _fuse_pair(module, first, second)
            if type(module) is torch.nn.Sequential and _has_chain(module):
                module.__class__ = Sequential
    return model


def _has_chain(sequential: torch.nn.Sequential) -> bool:
    """Whether a convolution follows one with an activation whose output gives its derivative."""

    def is_known(layer: torch.nn.Module) -> bool:
        epilogue = epilogue_of(layer.activation)
        return epilogue.op != "identity" and epilogue.is_known_from_output

    layers = [module for module in sequential if type(module) is not torch.nn.Identity]
    pairs = itertools.pairwise(layers)
    return any(type(a) in LAYERS and type(b) in LAYERS and is_known(a) for a, b in pairs)


def _fuse_pair(sequential: torch.nn.Sequential, first: str, second: str) -> None:
    layer, next_layer = sequential._modules[first], sequential._modules[second]
    if not isinstance(layer, Activated) or layer.activation is not None or next_layer is None:
        return
    is_conv = isinstance(layer, Convolution)
    if has_hooks(layer) or has_hooks(next_layer) or (is_conv and layer.norm is not None):
        return
    if is_conv and isinstance(next_layer, BatchNorm):
        if len(layer.stride) == next_layer.dims and layer.out_channels == next_layer.num_features:
            layer.__dict__["norm"] = next_layer
            next_layer.__dict__["is_applied_by_conv"] = True
        return
    activation = next_layer
    if not is_conv and getattr(activation, "save", None) is not None:
        return
    try:
        epilogue_of(activation)
    except TypeError:  # something else
        return
    layer.__dict__["activation"] = activation
    sequential._modules[second] = torch.nn.Identity()
