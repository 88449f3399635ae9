"""The textbook CNN, built from whichever library of layers it is given."""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType

from torch import nn

CLASSES = 10


def build(layers: ModuleType, channels: int, dropout: float) -> nn.Sequential:
    """Two convolutions with pooling, then three linear layers.

    An image (N, channels, 28, 28) becomes 26, pooled 13, then 11, pooled 5: 64 x 5 x 5 = 1600 numbers, and 10 scores.

    Args:
        layers: ``torch.nn`` or ``nnart_ops``: where Conv2d, ReLU and MaxPool2d come from. Both give the same
        state_dict. channels: 1 for grey images, 3 for colour.
        dropout: the share of the 1600 numbers that training leaves out at random.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=layers.Conv2d(channels, 32, 3),
            relu1=layers.ReLU(),
            pool1=layers.MaxPool2d(2),
            conv2=layers.Conv2d(32, 64, 3),
            relu2=layers.ReLU(),
            pool2=layers.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            fc1=nn.Linear(64 * 5 * 5, 120),
            relu3=layers.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=layers.ReLU(),
            fc3=nn.Linear(84, CLASSES),
        )
    )
