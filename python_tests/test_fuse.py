"""``nnart_ops.fuse``: the same numbers and state, fewer passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import nnart_ops


def network() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.1)),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.BatchNorm2d(8), nn.GELU()),
        nn.ConvTranspose2d(8, 4, 2),
        nn.PReLU(),
        nn.BatchNorm2d(4),
        nn.Softmax(1),
        nn.ReLU(),
    )


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


def test_same_numbers_and_state() -> None:
    native = network().double()
    ours = nnart_ops.fuse(nnart_ops.convert(copy.deepcopy(native)))
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    for a, b in zip(step(ours, x), step(native, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert list(ours.state_dict()) == list(native.state_dict())
    native.load_state_dict(ours.state_dict())
    for model in (ours, native):
        model.eval()
    torch.testing.assert_close(ours(x), native(x), rtol=1e-10, atol=1e-10)


def test_which_pairs() -> None:
    ours = nnart_ops.fuse(nnart_ops.convert(network()))
    assert repr(ours[0][1].activation) == "LeakyReLU(negative_slope=0.1)"
    assert [type(m) for m in ours[1]][1::2] == [nn.Identity, nn.Identity]
    assert ours[2].activation is ours[4].activation is None  # a weight of its own; not element-wise
    assert type(ours[6]) is nnart_ops.ReLU
    assert repr(nnart_ops.fuse(ours)) == repr(ours)


def test_what_is_left_alone() -> None:
    def pair(activation: nn.Module | None = None) -> nn.Sequential:
        return nn.Sequential(nnart_ops.BatchNorm2d(3), activation or nnart_ops.ReLU())

    class Reversed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](self[1](x))

    hooked, prehooked = pair(), pair()
    hooked[1].register_forward_hook(lambda *_: None)
    prehooked[0].register_forward_pre_hook(lambda *_: None)
    taken = nn.Sequential(nnart_ops.BatchNorm2d(3, activation="relu"), nn.ReLU())
    models = (hooked, prehooked, taken, pair(nnart_ops.ReLU(save="mask")), Reversed(*pair()), pair(nn.Tanh())[:1])
    for model in (*models, nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.ReLU()):
        before = repr(model)
        assert repr(nnart_ops.fuse(model)) == before


def test_error() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, but got list"):
        nnart_ops.fuse([])
