"""`Screen`: the k most similar of a bank's images, from a bfloat16 product and few entries of the float32 product.

The float32 product, as `TrainingBank.similarities` computes it, defines the neighbours: results have its bits. Three
steps, each with a bound, exclude what cannot be among them.

1. The bfloat16 product (`rounded.py`). With an error of at most e per row, and at most g between the float32 product
   and the exact one, k images have a similarity of at least t - e - g, if k entries of the row are at least t; whoever
   is below t - 2e - 2g is not among the k most similar.
2. The remaining pairs are multiplied in float32, in any order. Whoever lies more than 4g from the k-th is above or
   below it in the float32 product as well, because both are within g of the exact one.
3. For those within 4g, entries of the float32 product are computed (`tiles.Tiles`).

The first two are done on the CPU (`on_cpu.py`) or on a GPU (`on_gpu.py`), the third always on the CPU, so that the bits
do not depend on it. Rows in which many images remain, as for features of zeros, are multiplied with the whole bank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.tiles import Shape, Tiles
from oodbench.benchmark.plugins.training_bank import TrainingBank

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

HALF = 2.0**-8
"""Largest relative distance of a number from the nearest bfloat16 number."""

CROWDED, MOST_CROWDED = 1 / 8, 1 / 16
"""Share of the bank that remains in a row from which on the row is computed in full; share of such rows from which on
the block is."""


class Pairs(NamedTuple):
    """Pairs of an image and an image of the bank, ordered by image: rows and columns, int64 (n,)."""

    rows: np.ndarray
    columns: np.ndarray

    def only(self, chosen: np.ndarray) -> Pairs:
        """Those at which `chosen`, (n,), is true."""
        return Pairs(self.rows[chosen], self.columns[chosen])


class Search(ABC):
    """Finds the most similar images of a bank without the whole product, with its bits.

    Args:
        bank: The bank.
        weights: Factors of the similarities, float32 (B,); None for 1.
        shape: In which entries have the bits of the product (`tiles.agreeing`).
    """

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape) -> None:
        self._bank, self._weights = bank, weights
        self._tiles = Tiles(bank.vectors, len(bank), shape)

    @abstractmethod
    def column(self, directions: Tensor, k: int) -> Tensor | None:
        """The column of the k-th most similar image, int64 (N,); None if too many images remain for it to pay.

        It is that of `largest(similarities, k)[1][:, -1]`, among equal similarities as well. Without weights only.

        Args:
            directions: Unit vectors, float32 (N, D).
            k: The number of the neighbour, from 1.
        """

    @abstractmethod
    def values(self, directions: Tensor, k: int) -> Tensor | None:
        """The k largest (weighted) similarities, descending, float32 (N, k); None if too many images remain.

        They are those of `largest(similarities * weights, k)[0]`. The arguments are those of `column`.
        """

    def _of_whole_rows(self, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest (weighted) similarities of some unit vectors (n, D) and their columns, from all of them."""
        whole = self._tiles.whole_rows(directions)
        return largest(whole if self._weights is None else whole * self._weights, k)


class Screen(Search):
    """Finds them by the three steps above. The arguments are those of `Search`."""

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape) -> None:
        super().__init__(bank, weights, shape)
        terms = bank.shape[1] * 2.0**-24
        self._near = terms / (1 - terms) * (1 + 2.0**-10) + 1e-30
        self._heaviest = 1.0 if weights is None else float(weights.abs().max())
        if weights is not None:
            self._near = (self._near + 2.0**-23) * self._heaviest + 1e-30

    def column(self, directions: Tensor, k: int) -> Tensor | None:
        """As of `Search`."""
        found = self._undecided(directions, k, border=True)
        if found is None:
            return None
        near, ranks, full = found
        columns, unclear = np.zeros(len(directions), dtype=np.int64), full
        counts = np.bincount(near.rows, minlength=len(ranks))
        single = counts[near.rows] == 1
        columns[near.rows[single]] = near.columns[single]
        near = near.only(~single)
        values = self._tiles.entries(directions, near.rows, near.columns)
        border = nth(near.rows, values, np.where(counts > 1, ranks, 0))
        equal = values == border[near.rows]
        columns[near.rows[equal]] = near.columns[equal]
        unclear |= np.bincount(near.rows[equal], minlength=len(ranks)) > 1
        if unclear.any():
            columns[unclear] = self._of_whole_rows(directions[torch.from_numpy(unclear)], k)[1][:, -1].numpy()
        return torch.from_numpy(columns)

    def values(self, directions: Tensor, k: int) -> Tensor | None:
        """As of `Search`."""
        found = self._undecided(directions, k, border=False)
        if found is None:
            return None
        pairs, ranks, full = found
        values = self._tiles.entries(directions, pairs.rows, pairs.columns)
        if self._weights is not None:
            values = values * self._weights.numpy()[pairs.columns]
        table = torch.from_numpy(_table(pairs.rows, values, len(ranks), k))
        best = torch.topk(table, k, dim=1).values
        if full.any():
            rows = torch.from_numpy(full)
            best[rows] = self._of_whole_rows(directions[rows], k)[0]
        return best

    @abstractmethod
    def _undecided(self, directions: Tensor, k: int, border: bool) -> tuple[Pairs, Ints, Bools] | None:
        """The pairs of which entries of the float32 product are needed, without those of crowded rows.

        Returns:
            Pairs; the rank of the k-th most similar image among the pairs of its row, (N,), 0 in crowded rows; which
            rows are crowded, (N,). Pairs are those that may be among the k most similar; with `border`, those that may
            be the k-th. None if too many rows are crowded.
        """


def _table(rows: np.ndarray, values: np.ndarray, count: int, width: int) -> np.ndarray:
    """The values of each row side by side, filled with -inf to at least `width`, (count, W)."""
    starts = np.searchsorted(rows, np.arange(count + 1))
    table = np.full((count, max(width, int(np.diff(starts).max(initial=1)))), -np.inf, dtype=values.dtype)
    table[rows, np.arange(len(rows)) - starts[rows]] = values
    return table


def nth(rows: np.ndarray, values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """In every row, the value of a rank (1: the largest), (N,); 0 where the rank is 0."""
    table = -np.sort(-_table(rows, values, len(ranks), 1), axis=1)
    found: np.ndarray = np.where(ranks > 0, table[np.arange(len(ranks)), np.maximum(ranks, 1) - 1], 0.0)
    return found
