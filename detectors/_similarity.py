"""Cosine similarity of images to a bank of training images, in blocks; shared by the detectors that keep one.

The bank is the training set, or with `fraction` below 1 the same share of every class, at least one image of each.
Which images that are is decided by a seeded hash of their features: neither their order nor the number of processes
matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError, Detector

ENTRIES = 2**24
"""Similarities held at once, 128 MB: a matter of memory only."""


def unit(features: Tensor) -> Tensor:
    """Features divided by their Euclidean norm, float64; a feature that is all 0 stays 0 and is similar to nothing."""
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    return features / torch.where(norms > 0, norms, torch.ones_like(norms))


def similarities(queries: Tensor, bank: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Inner products of unit queries (N, D) with a bank (B, D), as blocks of rows: which rows, and (rows, B)."""
    rows = max(1, ENTRIES // len(bank))
    for start in range(0, len(queries), rows):
        block = slice(start, min(start + rows, len(queries)))
        yield block, queries[block] @ bank.T


class Banked(Detector):
    """A detector with a bank of training images."""

    fraction: float = 1.0
    bank_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie above 0 and at most at 1, got {self.fraction}")

    def bank_rows(self, train: Batch, neighbours: int = 1) -> Tensor:
        """Which training images make the bank, (B,); an error if there are fewer than the neighbours asked for."""
        labels = train.labels
        rows = torch.arange(len(train))
        if self.fraction < 1:
            features = train.features.contiguous().numpy()
            salt = self.bank_seed.to_bytes(8, "little", signed=True)
            keys = [hashlib.blake2b(row.tobytes(), digest_size=8, salt=salt).digest() for row in features]
            chosen: list[int] = []
            for label in labels.unique():
                own = sorted(rows[labels == label].tolist(), key=keys.__getitem__)
                chosen += own[: max(1, round(self.fraction * len(own)))]
            rows = torch.tensor(sorted(chosen))
        if len(rows) < neighbours:
            raise DataError(
                f"The bank of '{self.name}' holds {len(rows)} training images, fewer than the {neighbours} neighbours "
                "it is asked for; lower k or raise fraction."
            )
        return rows
