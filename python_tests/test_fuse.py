"""``nnart_ops.fuse``: the same numbers and state, fewer passes."""

from __future__ import annotations

import copy
import pickle

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


def test_norms_go_to_the_convolutions() -> None:
    """Only to one of the same dimensions and channels, without an activation between; copies and pickles have their
    own."""
    ours = nnart_ops.fuse(nnart_ops.convert(network()))
    assert ours[0][0].norm is ours[0][1]
    assert ours[0][1].is_applied_by_conv
    assert "norm=BatchNorm2d(8" in repr(ours[0][0])
    assert ours[1][0].norm is None  # ReLU6 comes first
    assert not ours[1][2].is_applied_by_conv
    assert not ours[4].is_applied_by_conv  # behind a PReLU
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other[0][0].norm is other[0][1]
        assert other[0][1] is not ours[0][1]
    unequal = nn.Sequential(nnart_ops.Conv2d(3, 4, 1), nnart_ops.BatchNorm2d(5), nnart_ops.BatchNorm3d(4))
    hooked = nn.Sequential(nnart_ops.Conv2d(3, 4, 1), nnart_ops.BatchNorm2d(4))
    hooked[1].register_forward_hook(lambda *_: None)
    for model in (unequal, hooked):
        assert nnart_ops.fuse(model)[0].norm is None


def test_what_has_another_place_keeps_its_own_result() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.first = nn.Sequential(nn.Conv2d(3, 3, 1), self.norm)
            self.second = nn.Sequential(self.conv, nn.BatchNorm2d(3))
            self.third = nn.Sequential(self.conv, nn.ReLU())
            self.fourth = nn.Sequential(nn.Conv2d(3, 3, 1), self.third[1])

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.fourth(self.third(self.second(self.norm(self.first(x))))) + self.conv(x)
            return result

    native = Shared().double()
    ours = nnart_ops.fuse(nnart_ops.convert(copy.deepcopy(native)))
    assert ours.fourth[0].activation is ours.third[1]  # an activation has no state: where else it is does not matter
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for a, b in zip(step(ours, x), step(native, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_norm_in_evaluation_alone() -> None:
    """Each module's own mode counts, and a momentum of None or no statistics."""
    for options in ({}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}):
        native = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **options), nn.ReLU()).double()
        ours = nnart_ops.fuse(nnart_ops.convert(copy.deepcopy(native)))
        assert ours[0].norm is ours[1]
        for frozen in (False, True, False):
            for model in (native, ours):
                model[1].train(not frozen)
                model[1].requires_grad_(not frozen)
            x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
            for a, b in zip(step(ours, x), step(native, x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


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
