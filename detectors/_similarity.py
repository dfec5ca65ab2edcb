"""Shared parts of detectors that compare images with a bank of training images: choice of the bank.

The bank is the training set, or with `fraction` below 1 the same share of every class, at least one image of each. The
images are chosen by a seeded hash of their features, so that neither their order nor the number of processes matters.
Detectors with equal settings share one matrix product (`Batch.similarities`); the nearest images alone are found faster
(`Batch.neighbours`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError, Detector, FitData
from oodbench.benchmark import largest as largest
from oodbench.benchmark import unit as unit
from oodbench.detectors._gaussian import BLOCK
from oodbench.detectors._spaced import blocks_with


class Banked(Detector):
    """Base class of detectors with a bank of training images."""

    fraction: float = 1.0
    bank_seed: int = 0

    def __post_init__(self) -> None:
        """Check the range of `fraction`."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie above 0 and at most at 1, got {self.fraction}")

    def share(self, train: Batch) -> float:
        """The share of every class that the bank has: `fraction`."""
        return self.fraction

    def bank_rows(self, train: Batch) -> Tensor | None:
        """The same share of every class, chosen by a hash of the features."""
        if (share := self.share(train)) == 1:
            return None
        hashes, rows, chosen = train.once(hashes_of, self.bank_seed), torch.arange(len(train)), []
        for label in train.labels.unique():
            own = rows[train.labels == label]
            chosen.append(own[hashes[own].argsort(stable=True)[: max(1, round(share * len(own)))]])
        return torch.cat(chosen).sort().values


def hashes_of(train: Batch, seed: int) -> Tensor:
    """A hash of each image's features, int64 (N,)."""
    salt, found, start = seed.to_bytes(8, "little", signed=True), np.empty(len(train), dtype=">u8"), 0
    for part in train.batches(BLOCK):
        features = part.features.contiguous().numpy()
        digests = (hashlib.blake2b(row.tobytes(), digest_size=8, salt=salt).digest() for row in features)
        found[start : start + len(part)] = np.frombuffer(b"".join(digests), dtype=">u8")
        start += len(part)
    return torch.from_numpy((found ^ np.uint64(2**63)).astype(np.int64))  # in the order of the bytes


def bank_of(data: FitData) -> Tensor:
    """The rows of the training images in the bank, (B,)."""
    return torch.arange(len(data.train)) if data.bank is None else data.bank


def bank_blocks(data: FitData, size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Blocks of `size` training images with some of the bank, and where these are in the block, int64 (n,)."""
    return blocks_with(data.train, bank_of(data), size)


def require_k(k: int | None) -> None:
    """Check that a number of neighbours is positive, or None for the default's rule."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, or none for the default's rule, got {k}")


def require_neighbours(data: FitData, k: int, who: str) -> None:
    """Raise `DataError` if the bank has fewer than k images. `who` is the detector's name, for the message."""
    if (size := len(bank_of(data))) < k:
        raise DataError(
            f"The bank of '{who}' holds {size} training images, fewer than the {k} neighbours it is asked for; lower k "
            "or raise fraction."
        )
