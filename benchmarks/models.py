"""Stacks in the shape of well-known networks, of torch.nn layers alone: what ``nnart_ops.convert`` is given.

Each is a function of ``width``, by which its channels are multiplied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Residual(nn.Module):
    """``branch(x) + shortcut(x)``, then ``after``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(self.branch(x) + self.shortcut(x))
        return result


class Permute(nn.Module):
    """``x.permute(dims)``."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def resnet(width: int = 64) -> nn.Module:
    """Basic blocks (He et al. 2016, arXiv:1512.03385), two a stage, three stages."""

    def block(n: int, m: int, stride: int) -> nn.Module:
        branch = nn.Sequential(
            nn.Conv2d(n, m, 3, stride, 1, bias=False),
            nn.BatchNorm2d(m),
            nn.ReLU(),
            nn.Conv2d(m, m, 3, 1, 1, bias=False),
            nn.BatchNorm2d(m),
        )
        shortcut = None
        if stride != 1 or n != m:
            shortcut = nn.Sequential(nn.Conv2d(n, m, 1, stride, bias=False), nn.BatchNorm2d(m))
        return Residual(branch, shortcut, nn.ReLU())

    w = width
    stem = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages = [block(w, w, 1), block(w, w, 1), block(w, 2 * w, 2), block(2 * w, 2 * w, 1), block(2 * w, 4 * w, 2)]
    return nn.Sequential(*stem, *stages, *_head(4 * w))


def mobilenet(width: int = 16) -> nn.Module:
    """Inverted residuals (Sandler et al. 2018, arXiv:1801.04381)."""

    def block(n: int, m: int, stride: int) -> nn.Module:
        inner = 6 * n
        branch = nn.Sequential(
            nn.Conv2d(n, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, m, 1, bias=False),
            nn.BatchNorm2d(m),
        )
        return Residual(branch) if stride == 1 and n == m else branch

    w = width
    stem = [nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU6()]
    stages = [block(w, 2 * w, 2), block(2 * w, 2 * w, 1), block(2 * w, 4 * w, 2), block(4 * w, 4 * w, 1)]
    return nn.Sequential(*stem, *stages, *_head(4 * w))


def convnext(width: int = 96) -> nn.Module:
    """Depthwise 7x7, LayerNorm and an inverted bottleneck (Liu et al. 2022, arXiv:2201.03545)."""

    def block(n: int) -> nn.Module:
        branch = nn.Sequential(
            nn.Conv2d(n, n, 7, 1, 3, groups=n),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(n),
            nn.Linear(n, 4 * n),
            nn.GELU(),
            nn.Linear(4 * n, n),
            Permute(0, 3, 1, 2),
        )
        return Residual(branch)

    w = width
    return nn.Sequential(
        nn.Conv2d(3, w, 4, 4), block(w), block(w), nn.Conv2d(w, 2 * w, 2, 2), block(2 * w), block(2 * w), *_head(2 * w)
    )


class UNet(nn.Module):
    """Down, up and across (Ronneberger et al. 2015, arXiv:1505.04597)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.down1, self.down2, self.bottom = self._block(3, w), self._block(w, 2 * w), self._block(2 * w, 4 * w)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.across2, self.across1 = self._block(4 * w, 2 * w), self._block(2 * w, w)
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(w, 2, 1)

    @staticmethod
    def _block(n: int, m: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(n, m, 3, 1, 1), nn.SiLU(), nn.Conv2d(m, m, 3, 1, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.bottom(self.pool(b))
        b = self.across2(torch.cat([self.up2(c), b], 1))
        result: Tensor = self.last(self.across1(torch.cat([self.up1(b), a], 1)))
        return result


def with_folded_norms(model: nn.Module) -> nn.Module:
    """A copy for inference with torch's own folding of each batch normalization behind a convolution."""
    model = copy.deepcopy(model).eval()
    for sequential in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(sequential) - 1):
            if isinstance(sequential[i], nn.Conv2d) and isinstance(sequential[i + 1], nn.BatchNorm2d):
                sequential[i] = fuse_conv_bn_eval(sequential[i], sequential[i + 1])
                sequential[i + 1] = nn.Identity()
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "convnext": convnext,
    "unet": UNet,
}
