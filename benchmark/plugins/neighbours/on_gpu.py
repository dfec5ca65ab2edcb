"""`GPUScreen`: the first two steps of `Screen` on a GPU, for banks that main memory does not hold as well.

The GPU holds the features as they are stored, and their unit vectors in bfloat16. Pairs that the bfloat16 product
leaves are multiplied in float64, so that what is left for the CPU lies within 2g of the k-th.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import GROUP
from oodbench.benchmark.plugins.neighbours.rounded import ROWS, RoundedBank
from oodbench.benchmark.plugins.neighbours.screen import CROWDED, HALF, MOST_CROWDED, Bools, Ints, Pairs, Screen
from oodbench.benchmark.plugins.neighbours.tiles import Shape
from oodbench.benchmark.plugins.training_bank import TrainingBank, unit

ENTRIES = 2**30
"""Entries of a bfloat16 product: 2 GB, of which the search takes about twice as much again."""

NUMBERS = 2**25
"""Numbers in float64 of pairs that are multiplied at a time: 256 MB."""

OTHER_UNITS = 2.0**-22
"""Bound on the difference between a similarity and that of the unit vectors that this device computes. Each number of a
unit vector is off by at most one unit in the last place of float32, because another sum of squares may round its
norm otherwise: by at most 2^-23 of the vector's length."""


class GPUScreen(Screen):
    """Screens a bank on a GPU.

    The arguments are those of `Search`; `vectors`: the bank on the GPU (`bank_on`).
    """

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape, vectors: UnitVectors) -> None:
        super().__init__(bank, weights, shape)
        self._near += OTHER_UNITS * self._heaviest
        self._vectors, self._rounded = vectors, RoundedBank(vectors, weights)
        self._factors = None if weights is None else weights.double().to(vectors.device)

    @staticmethod
    def bytes_of(bank: TrainingBank, images: int) -> int:
        """The GPU memory that screening so many images of a set takes, about."""
        count, dims = bank.shape
        stored = stored_as(bank).itemsize
        return count * (stored * dims + 2 * RoundedBank.width(dims) + 8) + 6 * min(ENTRIES, images * count)

    def _undecided(self, directions: Tensor, k: int, border: bool) -> tuple[Pairs, Ints, Bools] | None:
        some = max(1, ENTRIES // len(self._vectors))
        parts, crowded = [], 0
        for start in range(0, len(directions), some):
            found = self._of_block(directions[start : start + some].to(self._vectors.device), k, border)
            if found is None:
                return None
            rows, columns, ranks, full = (part.cpu().numpy() for part in found)
            crowded += int(full.sum())
            if crowded > MOST_CROWDED * len(directions):
                return None
            parts.append((rows + start, columns, ranks, full))
        rows, columns, ranks, full = (np.concatenate(own) for own in zip(*parts, strict=True))
        return Pairs(rows, columns), ranks, full

    def _of_block(self, units: Tensor, k: int, border: bool) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Rows, columns, ranks and crowded rows of some images."""
        products, bound = self._rounded.products(units)
        count, width = products.shape
        span = min(GROUP, width // (2 * k))
        if span < 2:
            return None
        groups = width // span
        best = products[:, : span * groups].unflatten(1, (span, groups)).amax(dim=1)
        kth = best.topk(k, dim=1).values[:, -1].double()
        kept = products >= (kth - kth.abs() * HALF - 2 * bound - 2 * self._near).bfloat16()[:, None]
        counts = kept.sum(dim=1)
        full = counts > max(2 * k, CROWDED * width)
        counts = torch.where(full, 0, counts)
        if int(counts.sum()) > CROWDED / 2 * kept.numel():
            return None
        rows, columns = (kept & ~full[:, None]).nonzero(as_tuple=True)
        values = self._products(units, rows, columns)
        order = values.argsort(descending=True)
        order = order[rows[order].argsort(stable=True)]  # by row, the largest value first
        starts = counts.cumsum(0) - counts
        kth = torch.zeros_like(kth)
        kth[~full] = values[order[starts[~full] + k - 1]]
        least, window = kth[rows], 2 * self._near * (1 + 2.0**-10)
        ranks = torch.where(full, 0, k)
        if border:
            certain = values > least + window
            ranks -= torch.bincount(rows[certain], minlength=count)
            chosen = (values >= least - window) & ~certain
        else:
            chosen = values >= least - window
        return rows[chosen], columns[chosen], ranks, full

    def _products(self, units: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(Weighted) cosines of pairs, float64 (n,), within `_near` of entries of the float32 product."""
        some = max(1, NUMBERS // units.shape[1])
        found = [
            (units[own].double() * self._vectors[other]).sum(dim=1)
            for own, other in zip(rows.split(some), columns.split(some), strict=True)
        ]
        values = torch.cat(found)
        return values if self._factors is None else values * self._factors[columns]


class UnitVectors:
    """The unit vectors of features (B, D), computed when they are read."""

    def __init__(self, features: Tensor) -> None:
        self._features = features

    def __len__(self) -> int:
        return len(self._features)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, D)."""
        return self._features.shape

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._features.device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some vectors, float64 (n, D)."""
        return unit(self._features[rows])


def stored_as(bank: TrainingBank) -> torch.dtype:
    """The type in which a GPU holds a bank's features: that in which they are stored, or float32 for all others."""
    return torch.float16 if bank.dtype == np.float16 else torch.float32


def bank_on(bank: TrainingBank, device: torch.device) -> UnitVectors:
    """A bank on a GPU."""
    features = torch.empty(bank.shape, dtype=stored_as(bank), device=device)
    for columns in torch.arange(len(bank)).split(ROWS):
        features[int(columns[0]) : int(columns[-1]) + 1] = bank.features(columns).to(device)
    return UnitVectors(features)
