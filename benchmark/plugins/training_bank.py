"""`TrainingBank`: training images that detectors compare with, and their similarities, computed once for all detectors.

A block is the similarities of some images to the whole bank. It is computed once, and every detector that needs it
reads it while it is in the processor's cache: neither time nor memory of the product grows with the number of
detectors. Only the bank determines the number of images in a block, so that a detector gets the same bits whether it
runs alone or with others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

PIECE = 4096
"""Number of bank images in one matrix product."""

CACHED = 256
"""Number of bank images that are normalised at once: 4 MB in float64 with 2,048 features."""

ENTRIES, LARGEST = 2**22, 2**27
"""Usual and largest number of similarities in a block: 16 MB in float32, which stays near the processor, and 512 MB."""

FEWEST, MOST = 256, 1024
"""Images in a block from which on, and up to which, reading the bank takes little time beside multiplying."""

HELD = 2**31
"""Maximum size in bytes of the normalised features kept in memory; a tenth of ImageNet with 2,048 features takes 1 GB.
A larger bank is read and normalised again for every block, which then has as many images as `LARGEST` allows."""


def unit(features: Tensor) -> Tensor:
    """Divide feature vectors by their Euclidean norm.

    Args:
        features: (N, D).

    Returns:
        Unit vectors, float64 (N, D). A vector of zeros stays zero, so that its cosine with every vector is 0.
    """
    features = features.double()
    norms = features.norm(dim=1, keepdim=True)
    return features / torch.where(norms > 0, norms, torch.ones_like(norms))


class TrainingBank:
    """The features of B training images.

    Args:
        features: Features of the training split, (M, D), in memory or memory-mapped.
        rows: Row numbers of the bank's images, int64 (B,); None means all M.
    """

    def __init__(self, features: np.ndarray, rows: Tensor | None = None) -> None:
        self._features = features
        self._rows = torch.arange(len(features)) if rows is None else rows
        self.held = self._hold() if self._is_held else None
        """The bank's unit vectors, float32 (B, D), if they fit in memory."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, D)."""
        return len(self), int(self._features.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """In which the features are stored."""
        return self._features.dtype

    @property
    def block(self) -> int:
        """Number of images that are compared with the bank at once."""
        wanted = FEWEST if self._is_held else MOST
        return max(1, min(MOST, max(ENTRIES // len(self), min(wanted, LARGEST // len(self)))))

    @property
    def _is_held(self) -> bool:
        return 4 * len(self) * self.shape[1] <= HELD

    def features(self, columns: Tensor) -> Tensor:
        """Return the features of the bank's images at `columns`, int64 (n,), as float32 (n, D)."""
        return torch.from_numpy(np.asarray(self._features[self._rows[columns].numpy()])).float()

    def vectors(self, columns: Tensor) -> Tensor:
        """Return the unit vectors of the bank's images at `columns`, int64 (n,), as float32 (n, D)."""
        return self._units(columns, torch.float32) if self.held is None else self.held[columns]

    def similarities(self, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the cosines of features (N, D) with the bank's: `dtype` (N, B), each to about that precision."""
        directions, cosines = unit(features).to(dtype), torch.empty(len(features), len(self), dtype=dtype)
        held = self.held if dtype == torch.float32 else None
        for columns, piece in self._pieces(dtype) if held is None else ((c, held[c]) for c in self._columns()):
            torch.mm(directions, piece.T, out=cosines[:, columns])
        return cosines

    def _hold(self) -> Tensor:
        held = torch.empty(self.shape)
        for columns, piece in self._pieces(torch.float32):
            held[columns] = piece
        return held

    def _columns(self) -> list[slice]:
        """The columns of each piece."""
        return [slice(start, min(start + PIECE, len(self))) for start in range(0, len(self), PIECE)]

    def _pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The bank's unit vectors, PIECE at a time, with their columns."""
        for columns in self._columns():
            yield columns, self._units(torch.arange(columns.start, columns.stop), dtype)

    def _units(self, columns: Tensor, dtype: torch.dtype) -> Tensor:
        """The unit vectors at some columns, (n, D), in pieces that stay in the processor's cache."""
        found = torch.empty(len(columns), self.shape[1], dtype=dtype)
        for start in range(0, len(columns), CACHED):
            rows = slice(start, start + CACHED)
            found[rows] = unit(self.features(columns[rows]))
        return found


class SharedBlock:
    """Caches the latest block of an input, so that several detectors that read the same rows share it.

    A detector that changes the block in place affects only itself: the block is then computed again.
    """

    def __init__(self, compute: Callable[[slice], Tensor]) -> None:
        self._compute = compute
        self.seconds = 0.0
        """Time spent on computing blocks."""
        self._latest: tuple[slice, Tensor, int] | None = None

    def __call__(self, rows: slice) -> Tensor:
        """The given rows of the input; some of those of the latest block are taken from it."""
        with torch.inference_mode(False):  # other detectors, too, read a block that one asks for in inference mode
            if self._latest is not None and self._latest[1]._version == self._latest[2]:
                held, block, _ = self._latest
                if held == rows:
                    return block
                if held.start <= rows.start and rows.stop <= held.stop:
                    return block[rows.start - held.start : rows.stop - held.start]
            start = time.perf_counter()
            block = self._compute(rows)
            self._latest = rows, block, block._version
            self.seconds += time.perf_counter() - start
            return block
