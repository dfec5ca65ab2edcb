"""The training images that others are compared with, and the one product of features that serves every detector.

A block holds the similarities of a few images to the whole bank. It is made once, and every detector that asks for it
reads it while it is in the processor's cache: neither the product nor its memory grows with the number of detectors.
Only the bank decides how many images a block has, so that a detector gets the same bits alone and among others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

PIECE = 4096
"""Images of the bank in one matrix product."""

ENTRIES, FEWEST, MOST = 2**22, 64, 1024
"""Similarities in a block, 16 MB of float32, and the fewest and most images of one: with fewer, reading the bank from
memory takes longer than multiplying."""

HELD = 2**29
"""Bytes of normalised features that are kept between blocks; a larger bank is read and normalised for each block."""


def unit(features: Tensor) -> Tensor:
    """Features divided by their Euclidean norm, float64; a feature that is all 0 stays 0 and is similar to nothing."""
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    return features / torch.where(norms > 0, norms, torch.ones_like(norms))


class TrainingBank:
    """B training images, by their features: an array (M, D), in memory or mapped from a file, and rows of it."""

    def __init__(self, features: np.ndarray, rows: Tensor | None = None) -> None:
        self._features = features
        self._rows = torch.arange(len(features)) if rows is None else rows
        keeps = 4 * len(self) * features.shape[1] <= HELD
        self._held = list(self._pieces(torch.float32)) if keeps else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def block(self) -> int:
        """How many images are compared with the bank at once."""
        return min(MOST, max(FEWEST, ENTRIES // len(self)))

    def features(self, columns: Tensor) -> Tensor:
        """The features of some of the bank's images, float32 (n, D)."""
        return torch.from_numpy(np.array(self._features[self._rows[columns].numpy()])).float()

    def similarities(self, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Cosines of features (N, D) with the bank's, (N, B), each to about the precision of `dtype`."""
        directions, cosines = unit(features).to(dtype), torch.empty(len(features), len(self), dtype=dtype)
        held = self._held if dtype == torch.float32 else None
        for columns, piece in held or self._pieces(dtype):
            torch.mm(directions, piece.T, out=cosines[:, columns])
        return cosines

    def _pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The bank's directions, PIECE at a time."""
        for start in range(0, len(self), PIECE):
            columns = slice(start, min(start + PIECE, len(self)))
            yield columns, unit(self.features(torch.arange(columns.start, columns.stop))).to(dtype)


class SharedBlock:
    """A part of batches that is made once where several detectors ask for the same rows in turn.

    One that changes it in place spoils it for itself alone: it is then made again.
    """

    def __init__(self, make: Callable[[slice], Tensor]) -> None:
        self._make = make
        self.seconds = 0.0
        """Spent on making."""
        self._latest: tuple[slice, Tensor, int] | None = None

    def __call__(self, rows: slice) -> Tensor:
        """The part's `rows`."""
        if self._latest is None or self._latest[0] != rows or self._latest[1]._version != self._latest[2]:
            start = time.perf_counter()
            made = self._make(rows)
            self._latest = rows, made, made._version
            self.seconds += time.perf_counter() - start
        return self._latest[1]
