"""`StreamedScreen`: the first two steps of `Screen`, of a bank that memory does not hold, read once for many blocks.

A piece of the bank is multiplied in bfloat16, and what can still be among the k most similar, given those of the pieces
before, in float32. The largest of these are kept, k and some more; later pieces only raise the k-th, so that nothing
comes back that was left out. Where much of a piece remains, as of the first, it is multiplied in float32 as a whole.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.on_cpu import reaching
from oodbench.benchmark.plugins.neighbours.rounded import RoundedBank
from oodbench.benchmark.plugins.neighbours.screen import MOST_CROWDED, Bools, Ints, Pairs, Screen, table_of
from oodbench.benchmark.plugins.neighbours.streamed import StreamedSearch
from oodbench.benchmark.plugins.neighbours.tiles import Shape, pair_products
from oodbench.benchmark.plugins.training_bank import TrainingBank

NUMBERS = 2**26
"""Numbers in a piece of the bank: 256 MB in float32."""

IMAGES = 1024
"""Images that are multiplied with a piece at once."""

FEWEST_MORE, MORE = 64, 2
"""How many more than k are kept of an image: so many, or half of k if that is more. With 2,048 features, float32 rounds
so much that 20 to 200 may be the k-th."""

DENSE = 1 / 32
"""Share of a product that remains from which on the whole is computed in float32."""

TRIED = 4
"""Pieces after which screening ends if it left too much of more than half of the products."""


class StreamedScreen(Screen):
    """Screens a bank piece by piece; as `StreamedSearch` from where that does not pay. The arguments are its."""

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape) -> None:
        super().__init__(bank, weights, shape)
        self._without = StreamedSearch(bank, weights, shape)
        self._pays = True

    def column(self, directions: Tensor, k: int) -> Tensor:
        """As of `StreamedSearch`."""
        found = super().column(directions, k) if self._pays else None
        return self._without.column(directions, k) if found is None else found

    def values(self, directions: Tensor, k: int) -> Tensor:
        """As of `StreamedSearch`."""
        found = super().values(directions, k) if self._pays else None
        return self._without.values(directions, k) if found is None else found

    def _undecided(self, directions: Tensor, k: int, border: bool) -> tuple[Pairs, Ints, Bools] | None:
        best = self._best(directions, k)
        if best is None:
            self._pays = False
            return None
        full = best.crowded.numpy()
        values = best.values.double().numpy()
        apart, ranks = values - values[:, k - 1 : k], np.where(full, 0, k)
        chosen = (apart >= -4 * self._near) & ~full[:, None]
        if border:
            certain = chosen & (apart > 4 * self._near)
            ranks -= certain.sum(axis=1)
            chosen &= ~certain
        rows, places = np.nonzero(chosen)
        return Pairs(rows, best.columns.numpy()[rows, places]), ranks, full

    def _best(self, directions: Tensor, k: int) -> _Best | None:
        """The most similar images of every image, by float32 products in any order; None if this does not pay."""
        count, dims = self._bank.shape
        size, wide = min(max(1, NUMBERS // dims), count), k + max(FEWEST_MORE, k // MORE)
        if 2 * wide > size:
            return None
        best, tried, dense = _Best(len(directions), wide), 0, 0
        for number, columns in enumerate(torch.arange(count).split(size)):
            piece = _Piece(self._bank.vectors(columns), None if self._weights is None else self._weights[columns])
            for start in range(0, len(directions), IMAGES):
                rows = slice(start, start + IMAGES)
                least = best.values[rows, k - 1].double() - 5 * self._near
                found = piece.reaching(directions[rows], least) if number else None
                tried, dense = tried + 1, dense + (found is None)
                values, places = piece.largest(directions[rows], wide) if found is None else found
                best.add(rows, values, places + columns[0])
            best.crowded |= best.values[:, -1] >= best.values[:, k - 1] - 4 * self._near
            if best.crowded.sum() > MOST_CROWDED * len(directions) or (number == TRIED and dense > tried / 2):
                return None
        return best


class _Best:
    """The largest similarities of so many images, in descending order, and their columns."""

    def __init__(self, images: int, wide: int) -> None:
        self.values = torch.full((images, wide), -torch.inf)
        self.columns = torch.zeros(images, wide, dtype=torch.int64)
        self.crowded = torch.zeros(images, dtype=torch.bool)
        """Images of which one that was left out may be among the most similar."""

    def add(self, rows: slice, values: Tensor, columns: Tensor) -> None:
        """Add similarities of some images, (n, any number), and their columns."""
        merged, order = torch.cat([self.values[rows], values], dim=1).topk(self.values.shape[1], dim=1)
        numbers = torch.cat([self.columns[rows], columns], dim=1)
        self.values[rows], self.columns[rows] = merged, numbers.gather(1, order)


class _Piece:
    """Unit vectors of a bank, (B, D), and their weights, (B,)."""

    def __init__(self, vectors: Tensor, weights: Tensor | None) -> None:
        self._vectors, self._weights = vectors, weights

    @cached_property
    def _rounded(self) -> RoundedBank:
        return RoundedBank(self._vectors, self._weights)

    def largest(self, directions: Tensor, wide: int) -> tuple[Tensor, Tensor]:
        """The largest similarities of unit vectors (n, D), and their places, (n, wide) or fewer."""
        products = directions @ self._vectors.T
        if self._weights is not None:
            products *= self._weights
        return largest(products, min(wide, len(self._vectors)))

    def reaching(self, directions: Tensor, least: Tensor) -> tuple[Tensor, Tensor] | None:
        """The similarities of unit vectors (n, D) that may be `least`, float64 (n,), or more, and their places.

        Both (n, any number), filled with -inf. None if they are too many.
        """
        products, bound = self._rounded.products(directions)
        # Entries and limit are rounded alike, which keeps their order.
        kept = reaching(products, (least - bound - self._rounded.constant(directions)).bfloat16())
        places = np.flatnonzero(kept)
        if len(places) > DENSE * kept.size:
            return None
        rows, columns = np.divmod(places, kept.shape[1])
        values = pair_products(directions, self._vectors, rows, columns)
        if self._weights is not None:
            values = values * self._weights.numpy()[columns]
        tables = (table_of(rows, of, len(directions), 1) for of in (values, columns))
        found, numbers = (torch.from_numpy(table) for table in tables)
        return found, numbers
