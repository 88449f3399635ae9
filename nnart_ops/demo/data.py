"""From files to tensors: collecting, cleaning, splitting and standardising."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nnart_ops.demo import readers
from nnart_ops.demo.cleaning import clean

SIDE = 28  # height and width that the network takes


@dataclass(frozen=True)
class Split:
    """Images (N, channels, 28, 28) float32 and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training, validation and held-out test split, standardised alike; ``flip`` says if a mirror image is one too."""

    name: str
    train: Split
    validation: Split
    test: Split
    flip: bool
    summary: str


Pixels = NDArray[np.float32]
Classes = NDArray[np.int64]


def load_digits(root: Path | None) -> tuple[Pixels, Classes, None]:
    """The 1,797 handwritten digits that ship inside scikit-learn, 8 x 8."""
    from sklearn.datasets import load_digits as load  # only this source needs scikit-learn

    digits = load()
    return (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64), None


def load_idx(root: Path | None) -> tuple[Pixels, Classes, int]:
    """MNIST or Fashion-MNIST from the four IDX files in ``root``; training samples first."""
    assert root is not None
    parts = []
    for prefix in ("train", "t10k"):
        images_path = readers.find(root, f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte")
        labels_path = readers.find(root, f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels.idx1-ubyte")
        images, labels = readers.read_idx_images(images_path), readers.read_idx_labels(labels_path)
        readers.check_counts(images_path, images, labels_path, labels)
        parts.append((images, labels))
    return *_joined(parts), len(parts[0][1])


def load_cifar10(root: Path | None) -> tuple[Pixels, Classes, int]:
    """CIFAR-10 from the binary batches in ``root`` or in its cifar-10-batches-bin; training samples first."""
    assert root is not None
    folder = root / "cifar-10-batches-bin" if (root / "cifar-10-batches-bin").is_dir() else root
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    parts = [readers.read_cifar_batch(readers.find(folder, name)) for name in names]
    return *_joined(parts), sum(len(labels) for _, labels in parts[:-1])


def _joined(parts: list[tuple[readers.Images, readers.Labels]]) -> tuple[Pixels, Classes]:
    images = np.concatenate([images for images, _ in parts]).astype(np.float32)
    images /= 255
    return images, np.concatenate([labels for _, labels in parts]).astype(np.int64)


SOURCES: dict[str, Callable[[Path | None], tuple[Pixels, Classes, int | None]]] = {
    "digits": load_digits,
    "mnist": load_idx,
    "fashion-mnist": load_idx,
    "cifar10": load_cifar10,
}
FLIPPABLE = {"fashion-mnist", "cifar10"}


def load(name: str, root: Path | None, *, seed: int, drop_corrupt: bool = True) -> Dataset:
    """Reads, cleans, splits and standardises the data set ``name``.

    A source that comes with a test set keeps it; of the others 20 % are held out. 10 % of the rest become the
    validation split. Every class has its share of each. The mean and standard deviation of each channel come from the
    training split alone: nothing of the others may leak into what the network sees.

    Raises:
        readers.DataFileError: if a file is missing or not what it should be.
    """
    images, labels, train_count = SOURCES[name](root)
    parts = [(images, labels)] if train_count is None else _apart(images, labels, train_count)
    cleaned = [clean(*part, drop_corrupt=drop_corrupt) for part in parts]
    summary = "; test: ".join(str(report) for *_, report in cleaned)

    generator = np.random.default_rng(seed)
    images, labels = cleaned[0][:2]
    if train_count is None:
        test_where = stratified(labels, 0.2, generator)
        test = images[test_where], labels[test_where]
        images, labels = images[~test_where], labels[~test_where]
    else:
        seen = {image.tobytes() for image in images}
        fresh = np.array([image.tobytes() not in seen for image in cleaned[1][0]], dtype=bool)
        test = cleaned[1][0][fresh], cleaned[1][1][fresh]
    validation_where = stratified(labels, 0.1, generator)

    train = resize(torch.from_numpy(images[~validation_where]))
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True).clamp(min=1e-6)

    def split(pixels: Tensor, classes: Classes) -> Split:
        return Split((pixels - mean) / std, torch.from_numpy(classes))

    return Dataset(
        name,
        split(train, labels[~validation_where]),
        split(resize(torch.from_numpy(images[validation_where])), labels[validation_where]),
        split(resize(torch.from_numpy(test[0])), test[1]),
        flip=name in FLIPPABLE,
        summary=summary,
    )


def _apart(images: Pixels, labels: Classes, count: int) -> list[tuple[Pixels, Classes]]:
    return [(images[:count], labels[:count]), (images[count:], labels[count:])]


def resize(images: Tensor) -> Tensor:
    """Images (N, C, H, W) to (N, C, 28, 28), bilinear."""
    if images.shape[-2:] == (SIDE, SIDE):
        return images
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def stratified(labels: Classes, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """A random choice of ``share`` of each class as a mask of shape (N,); at least one sample of two or more."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: max(round(share * len(members)), int(len(members) > 1))]] = True
    return chosen
