"""Augmentation: each image of a batch turned, scaled, moved and perhaps mirrored by a random amount of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far an image may change.

    Attributes:
        rotation: at most so many degrees either way.
        scale: at most this factor larger or smaller, less one: 0.1 is 10 %.
        shift: at most this share of the image's side.
        flip: whether to mirror half of the images left to right; wrong for digits, right for most photographs.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shift: float = 0.1
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) to the same; the border is repeated where the image has moved away."""

        def uniform(limit: float) -> Tensor:
            return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

        angle = uniform(math.radians(self.rotation))
        factor = 1 + uniform(self.scale)
        shift = torch.stack([uniform(2 * self.shift), uniform(2 * self.shift)], 1)  # the side is 2 in grid units
        mirror = torch.where(torch.rand(len(images), generator=generator) < 0.5 * self.flip, -1.0, 1.0)
        return transform(images, angle, factor, shift, mirror)


def transform(images: Tensor, angle: Tensor, factor: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Rotation, scaling, shift and reflection as one resampling.

    Args:
        images: (N, C, H, W).
        angle: (N,) radians, counter-clockwise.
        factor: (N,), larger than 1 enlarges.
        shift: (N, 2) to the right and down, in units of half a side.
        mirror: (N,) -1 mirrors left to right, 1 does not.
    """
    cos, sin = torch.cos(angle) / factor, torch.sin(angle) / factor
    # Row by row: where in the input the pixel of the output comes from.
    matrix = torch.stack(
        [torch.stack([cos * mirror, -sin, -shift[:, 0]], 1), torch.stack([sin * mirror, cos, -shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
