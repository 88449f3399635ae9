"""Data cleaning: corrupt and duplicate samples, found and reported before anything is trained on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Report:
    """What cleaning found; the lists hold positions in the data given."""

    total: int
    corrupt: dict[str, list[int]] = field(default_factory=dict)
    duplicates: list[int] = field(default_factory=list)
    conflicting: list[int] = field(default_factory=list)
    dropped: int = 0

    def __str__(self) -> str:
        corrupt = ", ".join(f"{len(where)} {reason}" for reason, where in self.corrupt.items() if where) or "none"
        text = f"{self.total} samples; corrupt: {corrupt}; duplicates: {len(self.duplicates)}"
        if self.conflicting:
            text += f" (and {len(self.conflicting)} equal images with different labels)"
        return text + f"; dropped {self.dropped}"


def fingerprint(image: NDArray[np.float32]) -> bytes:
    """16 bytes that only equal images share; the images themselves would be gigabytes of dictionary keys."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def clean(
    images: NDArray[np.float32], labels: NDArray[np.int64], *, drop_corrupt: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.int64], Report]:
    """Removes what should not be learned from.

    Corrupt samples (a pixel that is NaN or infinite, one outside [0, 1], an image of one colour) are dropped, or only
    reported with ``drop_corrupt=False``. Of equal images with equal labels the first stays, so that none can stand on
    both sides of a split. Equal images with different labels are all dropped: nobody knows which label is right.

    Args:
        images: (N, channels, height, width), pixels in [0, 1].
        labels: (N,).

    Returns:
        The samples that stay, in their order, and the report.
    """
    flat = images.reshape(len(images), -1)
    with np.errstate(invalid="ignore"):
        not_finite = ~np.isfinite(flat).all(1)
        out_of_range = ~not_finite & ((flat < 0) | (flat > 1)).any(1)
        blank = ~not_finite & (flat == flat[:, :1]).all(1)
    reasons = {"not finite": not_finite, "out of range": out_of_range, "blank": blank & ~out_of_range}
    report = Report(len(images), {reason: np.flatnonzero(where).tolist() for reason, where in reasons.items()})
    keep = ~(not_finite | out_of_range | blank) if drop_corrupt else np.ones(len(images), bool)

    first: dict[bytes, int] = {}
    conflicting: set[int] = set()
    for i in np.flatnonzero(keep).tolist():
        twin = first.setdefault(fingerprint(images[i]), i)
        if twin == i:
            continue
        if labels[twin] == labels[i]:
            report.duplicates.append(i)
        else:
            conflicting |= {twin, i}
    report.conflicting = sorted(conflicting)
    keep[report.duplicates] = False
    keep[report.conflicting] = False
    report.dropped = int((~keep).sum())
    return images[keep], labels[keep], report
