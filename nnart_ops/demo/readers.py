"""Standard image files: MNIST's IDX and CIFAR-10's binary batches, plain or gzipped.

A file that is not what it should be raises :class:`DataFileError`, which names the file and the byte.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]

CLASSES = 10
_IDX_MAGIC = {3: 0x00000803, 1: 0x00000801}  # unsigned bytes in three and in one dimension
_CIFAR_RECORD = 1 + 3 * 32 * 32


class DataFileError(Exception):
    """A data file is missing, truncated or not of its format."""


def read_idx_images(path: Path) -> Images:
    """Images of an IDX file: uint8 of shape (N, 1, height, width)."""
    data, (count, height, width) = _read_idx(path, dimensions=3)
    return data.reshape(count, 1, height, width)


def read_idx_labels(path: Path) -> Labels:
    """Labels of an IDX file: uint8 of shape (N,), each from 0 to 9."""
    data, _ = _read_idx(path, dimensions=1)
    _check_labels(path, data, first_byte=8, step=1)
    return data


def read_cifar_batch(path: Path) -> tuple[Images, Labels]:
    """Images (N, 3, 32, 32) and labels (N,) of a CIFAR-10 binary batch, both uint8."""
    content = _read_bytes(path)
    if not content or len(content) % _CIFAR_RECORD:
        start = len(content) // _CIFAR_RECORD * _CIFAR_RECORD
        raise DataFileError(
            f"{path}: truncated: the record that starts at byte {start} has {len(content) - start} bytes, but a "
            f"record of CIFAR-10's binary version has {_CIFAR_RECORD} (one label, 3 x 32 x 32 pixels)"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0].copy()
    _check_labels(path, labels, first_byte=0, step=_CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels


def find(root: Path, *names: str) -> Path:
    """The first of ``names`` in ``root``, as it is or with ``.gz`` after it."""
    candidates = [root / (name + suffix) for name in names for suffix in ("", ".gz")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataFileError(f"no data file was found; looked for {', '.join(map(str, candidates))}")


def check_counts(images_path: Path, images: Images, labels_path: Path, labels: Labels) -> None:
    """Raises unless there is a label for every image."""
    if len(images) != len(labels):
        raise DataFileError(
            f"{labels_path}: byte 4: it counts {len(labels)} labels, but {images_path} has {len(images)} images"
        )


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read: {error.strerror}") from error
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataFileError(
            f"{path}: byte {len(content)}: the gzip stream is truncated or damaged ({error})"
        ) from error


def _read_idx(path: Path, dimensions: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    content = _read_bytes(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataFileError(f"{path}: truncated at byte {len(content)}: the IDX header has {header} bytes")
    magic = int.from_bytes(content[:4], "big")
    if magic != _IDX_MAGIC[dimensions]:
        kind = "images" if dimensions == 3 else "labels"
        raise DataFileError(
            f"{path}: byte 0: magic number 0x{magic:08x}, but an IDX file of {kind} starts with "
            f"0x{_IDX_MAGIC[dimensions]:08x}"
        )
    sizes = tuple(int.from_bytes(content[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions))
    expected = header + int(np.prod(sizes))
    if len(content) != expected:
        what = "truncated" if len(content) < expected else "too long"
        raise DataFileError(
            f"{path}: {what} at byte {min(len(content), expected)}: the header promises {sizes}, which is {expected} "
            f"bytes in all, but the file has {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).copy(), sizes


def _check_labels(path: Path, labels: Labels, first_byte: int, step: int) -> None:
    wrong = np.flatnonzero(labels >= CLASSES)
    if wrong.size:
        first = int(wrong[0])
        raise DataFileError(
            f"{path}: byte {first_byte + step * first}: label {labels[first]}, but labels go from 0 to {CLASSES - 1}"
        )
