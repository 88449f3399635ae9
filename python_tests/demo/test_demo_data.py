"""The demo's way from files to batches: readers, cleaning, splits, standardisation, augmentation."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from nnart_ops.demo import data, readers
from nnart_ops.demo.augmentation import Augmentation, transform
from nnart_ops.demo.cleaning import clean


def idx_images(count: int = 3, side: int = 28, magic: int = 0x803) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, count * side * side, dtype=np.uint8)
    return struct.pack(">IIII", magic, count, side, side) + pixels.tobytes()


def idx_labels(labels: list[int], magic: int = 0x801) -> bytes:
    return struct.pack(">II", magic, len(labels)) + bytes(labels)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_idx(tmp_path: Path, compress: object) -> None:
    images = readers.read_idx_images(written(tmp_path / "i", compress(idx_images())))  # type: ignore[operator]
    labels = readers.read_idx_labels(written(tmp_path / "l", compress(idx_labels([0, 9, 4]))))  # type: ignore[operator]
    assert images.shape == (3, 1, 28, 28)
    assert images.tobytes() == idx_images()[16:]
    assert labels.tolist() == [0, 9, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_images()[:10], r"truncated at byte 10: the IDX header has 16 bytes"),
        (idx_images()[:-5], r"truncated at byte 2363: the header promises \(3, 28, 28\), which is 2368 bytes"),
        (idx_images() + b"x", r"too long at byte 2368: .* but the file has 2369"),
        (idx_images(magic=0x802), r"byte 0: magic number 0x00000802, but an IDX file of images starts with 0x00000803"),
        (idx_labels([1]) + bytes(8), r"byte 0: magic number 0x00000801"),
        (gzip.compress(idx_images())[:-20], r"the gzip stream is truncated or damaged"),
    ],
)
def test_bad_idx_images(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path / "train-images", content)
    with pytest.raises(readers.DataFileError, match=message) as caught:
        readers.read_idx_images(path)
    assert str(path) in str(caught.value)


def test_bad_label_names_its_byte(tmp_path: Path) -> None:
    with pytest.raises(readers.DataFileError, match="byte 10: label 11, but labels go from 0 to 9"):
        readers.read_idx_labels(written(tmp_path / "l", idx_labels([1, 2, 11])))


def make_mnist(root: Path, train_labels: int = 40) -> None:
    for prefix, count, labels in (("train", 40, train_labels), ("t10k", 20, 20)):
        written(root / f"{prefix}-images-idx3-ubyte", idx_images(count))
        content = idx_labels([i % 10 for i in range(labels)])
        written(root / f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(content))


def test_mnist_end_to_end(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    mnist = data.load("mnist", tmp_path, seed=0)
    assert mnist.train.images.shape[1:] == (1, 28, 28)
    assert not mnist.flip
    # The generator repeats, so the test images are the first training images again: none may remain in the test split.
    assert len(mnist.test) == 0


def test_counts_must_agree(tmp_path: Path) -> None:
    make_mnist(tmp_path, train_labels=39)
    with pytest.raises(readers.DataFileError, match=r"counts 39 labels, but .* has 40 images"):
        data.load("mnist", tmp_path, seed=0)


def test_missing_file_names_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        readers.DataFileError, match=r"looked for .*train-images-idx3-ubyte, .*train-images-idx3-ubyte.gz"
    ):
        data.load("fashion-mnist", tmp_path, seed=0)


def test_cifar10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    generator = np.random.default_rng(1)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = generator.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        written(folder / name, records.tobytes())
    cifar = data.load("cifar10", tmp_path, seed=0)
    assert cifar.train.images.shape[1:] == (3, 28, 28)
    assert cifar.flip
    assert len(cifar.train) + len(cifar.validation) == 100
    assert len(cifar.test) == 20

    content = (folder / "data_batch_3.bin").read_bytes()
    written(folder / "data_batch_3.bin", content[:-1])
    with pytest.raises(
        readers.DataFileError, match=r"data_batch_3.bin: truncated: the record that starts at byte 58387"
    ):
        data.load("cifar10", tmp_path, seed=0)
    written(folder / "data_batch_3.bin", content[:3073] + b"\x0a" + content[3074:])
    with pytest.raises(readers.DataFileError, match="byte 3073: label 10"):
        data.load("cifar10", tmp_path, seed=0)


def test_cleaning() -> None:
    generator = np.random.default_rng(0)
    images = generator.random((10, 1, 4, 4)).astype(np.float32)
    labels = np.arange(10)
    images[1, 0, 0, 0] = np.nan
    images[2] = 0.5
    images[3, 0, 1, 1] = 1.5
    images[5], labels[5] = images[4], labels[4]  # a duplicate
    images[7] = images[6]  # the same image with another label
    kept, kept_labels, report = clean(images, labels)
    assert kept_labels.tolist() == [0, 4, 8, 9]
    assert len(kept) == 4
    assert report.corrupt == {"not finite": [1], "out of range": [3], "blank": [2]}
    assert (report.duplicates, report.conflicting, report.dropped) == ([5], [6, 7], 6)
    assert "1 not finite, 1 out of range, 1 blank" in str(report)
    assert len(clean(images, labels, drop_corrupt=False)[0]) == 7


def test_digits_are_split_without_a_leak() -> None:
    digits = data.load("digits", None, seed=0)
    sizes = [len(split) for split in (digits.train, digits.validation, digits.test)]
    assert sum(sizes) == 1797
    assert sizes[2] / 1797 == pytest.approx(0.2, abs=0.005)
    seen = [
        {image.numpy().tobytes() for image in split.images} for split in (digits.train, digits.validation, digits.test)
    ]
    assert len(seen[0] | seen[1] | seen[2]) == sum(map(len, seen))
    for split in (digits.validation, digits.test):
        shares = torch.bincount(split.labels, minlength=10) / len(split)
        assert (shares - 0.1).abs().max() < 0.01
    assert digits.train.images.mean().item() == pytest.approx(0, abs=1e-4)
    assert digits.train.images.std().item() == pytest.approx(1, abs=1e-4)


def test_identity_transform() -> None:
    images = torch.rand(3, 2, 8, 8)
    zero, one = torch.zeros(3), torch.ones(3)
    torch.testing.assert_close(transform(images, zero, one, torch.zeros(3, 2), one), images, rtol=0, atol=1e-5)


def test_rotation_reflection_and_shift() -> None:
    images = torch.rand(1, 1, 8, 8)
    zero, one = torch.zeros(1), torch.ones(1)
    turned = transform(images, torch.tensor([math.pi / 2]), one, torch.zeros(1, 2), one)
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-4)
    mirrored = transform(images, zero, one, torch.zeros(1, 2), -one)
    torch.testing.assert_close(mirrored, images.flip(3), rtol=0, atol=1e-5)
    moved = transform(images, zero, one, torch.tensor([[2 / 8, 0.0]]), one)  # one pixel to the right
    torch.testing.assert_close(moved[..., 1:], images[..., :-1], rtol=0, atol=1e-5)


def test_augmentation_follows_the_seed() -> None:
    images = torch.rand(4, 1, 28, 28)
    first, second, other = (Augmentation()(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
