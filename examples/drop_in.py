"""Swap torch.nn for nnart_ops in a model that is already trained: the same checkpoint, the same numbers."""

import torch
from torch import nn

import nnart_ops


def build(layers):
    return nn.Sequential(
        layers.Conv2d(1, 8, 3, padding="same"),
        layers.SiLU(),
        layers.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 14 * 14, 10),
    )


theirs = build(nn)
ours = build(nnart_ops)
ours.load_state_dict(theirs.state_dict())

images = torch.randn(16, 1, 28, 28)
print("largest difference, built from nnart_ops:", (ours(images) - theirs(images)).abs().max().item())

expected = theirs(images)
converted = nnart_ops.convert(theirs)  # or swap the layers of an existing model in place
print("largest difference, converted:           ", (converted(images) - expected).abs().max().item())
