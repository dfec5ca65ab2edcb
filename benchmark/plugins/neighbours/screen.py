"""`Screen`: the k most similar of a bank's images, from a bfloat16 product and few entries of the float32 product.

The float32 product, as `TrainingBank.similarities` computes it, defines the neighbours: results have its bits. Three
steps, each with a bound, exclude what cannot be among them.

1. The bfloat16 product (`rounded.py`). With an error of at most e per row, and at most g between the float32 product
   and the exact one, k images have a similarity of at least t - e - g, if k entries of the row are at least t; whoever
   is below t - 2e - 2g is not among the k most similar.
2. The remaining pairs are multiplied in float32, in any order (`tiles.pair_products`). Whoever lies more than 4g from
   the k-th is above or below it in the float32 product as well, because both are within g of the exact one.
3. For those within 4g, entries of the float32 product are computed (`tiles.Tiles`).

Rows in which many images remain, as for features of zeros, are multiplied with the whole bank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import GROUP, largest
from oodbench.benchmark.plugins.neighbours.rounded import RoundedBank
from oodbench.benchmark.plugins.neighbours.tiles import Tiles, pair_products

HALF = 2.0**-8
"""Largest relative distance of a number from the nearest bfloat16 number."""

CROWDED, MOST_CROWDED = 1 / 8, 1 / 16
"""Share of the bank that remains in a row from which on the row is computed in full; share of such rows from which on
the block is."""


class _Pairs(NamedTuple):
    """Pairs of an image and an image of the bank, ordered by image: rows and columns, int64 (n,)."""

    rows: np.ndarray
    columns: np.ndarray

    def only(self, chosen: np.ndarray) -> _Pairs:
        return _Pairs(self.rows[chosen], self.columns[chosen])


class Screen:
    """Finds the most similar images of a bank without the whole product.

    Args:
        bank: Unit vectors, float32 (B, D).
        weights: Factors of the similarities, float32 (B,); None for 1.
    """

    def __init__(self, bank: Tensor, weights: Tensor | None = None) -> None:
        self._bank, self._tiles, self._weights = bank, Tiles(bank), weights
        self._rounded = RoundedBank(bank, weights)
        terms = bank.shape[1] * 2.0**-24
        self._near = terms / (1 - terms) * (1 + 2.0**-10) + 1e-30
        if weights is not None:
            self._near = (self._near + 2.0**-23) * float(weights.abs().max()) + 1e-30

    @staticmethod
    def bytes_of(count: int, dims: int) -> int:
        """The memory of the screen of a bank of `count` vectors of `dims` numbers, about."""
        return 2 * count * (dims + GROUP)

    def column(self, directions: Tensor, k: int) -> Tensor | None:
        """The column of the k-th most similar image, int64 (N,); None if too many images remain for it to pay.

        It is that of `largest(similarities, k)[1][:, -1]`, among equal similarities as well. Without weights only.

        Args:
            directions: Unit vectors, float32 (N, D).
            k: The number of the neighbour, from 1.
        """
        found = self._candidates(directions, k, border=True)
        if found is None:
            return None
        pairs, ranks, full = found
        values = self._products(directions, pairs)
        border = _nth(pairs.rows, values, ranks)
        ranks -= np.bincount(pairs.rows, values > border[pairs.rows] + 4 * self._near, len(ranks)).astype(np.int64)
        near = pairs.only(np.abs(values - border[pairs.rows]) <= 4 * self._near)
        columns, unclear = np.zeros(len(directions), dtype=np.int64), full
        counts = np.bincount(near.rows, minlength=len(ranks))
        single = counts[near.rows] == 1
        columns[near.rows[single]] = near.columns[single]
        near = near.only(~single)
        values = self._tiles.entries(directions, near.rows, near.columns)
        border = _nth(near.rows, values, np.where(counts > 1, ranks, 0))
        equal = values == border[near.rows]
        columns[near.rows[equal]] = near.columns[equal]
        unclear |= np.bincount(near.rows[equal], minlength=len(ranks)) > 1
        if unclear.any():
            rows = torch.from_numpy(np.flatnonzero(unclear))
            columns[unclear] = largest(self._tiles.whole_rows(directions[rows]), k)[1][:, -1].numpy()
        return torch.from_numpy(columns)

    def values(self, directions: Tensor, k: int) -> Tensor | None:
        """The k largest (weighted) similarities, descending, float32 (N, k); None if too many images remain.

        They are those of `largest(similarities * weights, k)[0]`. The arguments are those of `column`.
        """
        found = self._candidates(directions, k, border=False)
        if found is None:
            return None
        pairs, ranks, full = found
        values = self._products(directions, pairs)
        pairs = pairs.only(values >= _nth(pairs.rows, values, ranks)[pairs.rows] - 4 * self._near)
        values = self._tiles.entries(directions, pairs.rows, pairs.columns)
        if self._weights is not None:
            values = values * self._weights.numpy()[pairs.columns]
        table = torch.from_numpy(_table(pairs.rows, values, len(ranks), k))
        best = torch.topk(table, k, dim=1).values
        if full.any():
            rows = torch.from_numpy(np.flatnonzero(full))
            whole = self._tiles.whole_rows(directions[rows])
            best[rows] = largest(whole if self._weights is None else whole * self._weights, k)[0]
        return best

    def _candidates(self, directions: Tensor, k: int, border: bool) -> tuple[_Pairs, np.ndarray, np.ndarray] | None:
        """What the bfloat16 product leaves: pairs, rank of the k-th most similar among those of its row, crowded rows.

        With `border`, images that are certainly more similar than the k-th are left out, too. Crowded rows have no
        pairs and rank 0.
        """
        products, bound = self._rounded.products(directions)
        span = min(GROUP, products.shape[1] // (2 * k))
        if span < 2:
            return None
        groups = products.shape[1] // span
        as_integers = products.view(torch.int16)  # in the order of positive numbers; any maximum is one of the numbers
        best = as_integers[:, : span * groups].unflatten(1, (span, groups)).amax(dim=1).view(torch.bfloat16)
        apart = 2 * bound.numpy() + 2 * self._near
        cut = _cut(_kth(best.float().numpy(), k), apart)
        integers = as_integers.numpy()
        if float(cut.min()) > 0:
            kept = np.greater_equal(integers, cut.view(torch.int16).numpy()[:, None])
        else:
            kept = (products >= cut[:, None]).numpy()
        width, count = products.shape[1], len(directions)
        places = np.flatnonzero(kept)
        if len(places) > CROWDED / 2 * kept.size:
            return None
        pairs = _Pairs(*np.divmod(places, width))
        full = np.bincount(pairs.rows, minlength=count) > max(2 * k, CROWDED * width)
        if full.sum() > MOST_CROWDED * count:
            return None
        ranks = np.where(full, 0, k)
        if full.any():
            left = ~full[pairs.rows]
            pairs, places = pairs.only(left), places[left]
        if border:
            values = (integers.reshape(-1)[places].astype(np.int32) << 16).view(np.float32).astype(np.float64)
            kth = _nth(pairs.rows, values, ranks)
            certain = values - np.abs(values) * HALF > (kth + np.abs(kth) * HALF + apart)[pairs.rows]
            ranks -= np.bincount(pairs.rows, certain, count).astype(np.int64)
            below = values < _cut(kth, apart).double().numpy()[pairs.rows]
            pairs = pairs.only(~certain & ~below)
        return pairs, ranks, full

    def _products(self, directions: Tensor, pairs: _Pairs) -> np.ndarray:
        """(Weighted) cosines of pairs, float64, each within `_near` of the exact one."""
        found = pair_products(directions, self._bank, *pairs).astype(np.float64)
        return found if self._weights is None else found * self._weights.numpy()[pairs.columns]


def _cut(kth: np.ndarray, apart: np.ndarray) -> Tensor:
    """What a bfloat16 entry must reach to be `apart` below `kth` at most, before either was rounded, bfloat16 (N,)."""
    return torch.from_numpy(kth.astype(np.float64) - np.abs(kth) * HALF - apart).bfloat16()


def _kth(values: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest entry of every row."""
    count = values.shape[1]
    found: np.ndarray = np.partition(values, count - k, axis=1)[:, count - k]
    return found


def _table(rows: np.ndarray, values: np.ndarray, count: int, width: int) -> np.ndarray:
    """The values of each row side by side, filled with -inf to at least `width`, (count, W)."""
    starts = np.searchsorted(rows, np.arange(count + 1))
    table = np.full((count, max(width, int(np.diff(starts).max(initial=1)))), -np.inf, dtype=values.dtype)
    table[rows, np.arange(len(rows)) - starts[rows]] = values
    return table


def _nth(rows: np.ndarray, values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """In every row, the value of a rank (1: the largest), (N,); 0 where the rank is 0."""
    table = -np.sort(-_table(rows, values, len(ranks), 1), axis=1)
    found: np.ndarray = np.where(ranks > 0, table[np.arange(len(ranks)), np.maximum(ranks, 1) - 1], 0.0)
    return found
