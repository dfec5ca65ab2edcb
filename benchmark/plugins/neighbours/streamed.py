"""`StreamedSearch`: the most similar images of a bank that memory does not hold, read once for many blocks of a set.

Every block is multiplied with every piece of the bank, as in the product of similarities, and of each product only the
largest entries are kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.screen import Search
from oodbench.benchmark.plugins.neighbours.tiles import Shape, Tiles, whole_product
from oodbench.benchmark.plugins.training_bank import TrainingBank


class StreamedSearch(Search):
    """Finds the most similar images of a bank piece by piece.

    Args:
        bank: The bank.
        weights: Factors of the similarities, float32 (B,); None for 1.
        shape: In which entries have the bits of the product (`tiles.agreeing`).
    """

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape) -> None:
        self._bank, self._weights = bank, weights
        self._tiles = Tiles(bank.vectors, len(bank), shape)

    def column(self, directions: Tensor, k: int) -> Tensor:
        """As of `Search`; images must be whole blocks of the bank, in order."""
        values, columns = self._best(directions, min(k + 1, len(self._bank)))
        border = values[:, k - 1 : k]
        unclear = (values == border).sum(dim=1) > 1  # which of equal ones comes first depends on the whole row
        found = columns[:, k - 1]
        if unclear.any():
            found[unclear] = largest(self._tiles.whole_rows(directions[unclear]), k)[1][:, -1]
        return found

    def values(self, directions: Tensor, k: int) -> Tensor:
        """As of `Search`; images must be whole blocks of the bank, in order."""
        return self._best(directions, k)[0]

    def _best(self, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest (weighted) similarities, in descending order, and their columns; both (N, k)."""
        values = torch.full((len(directions), k), -torch.inf)
        columns = torch.zeros(len(directions), k, dtype=torch.int64)
        for piece in torch.arange(len(self._bank)).split(training_bank.PIECE):
            vectors = self._bank.vectors(piece)
            weights = None if self._weights is None else self._weights[piece]
            for start in range(0, len(directions), self._bank.block):
                rows = slice(start, start + self._bank.block)
                products = torch.mm(directions[rows], vectors.T)
                if weights is not None:
                    products *= weights
                better = (products.amax(dim=1) > values[rows, -1]).nonzero()[:, 0]
                new, places = largest(products[better], min(k, len(piece)))
                merged = torch.cat([values[rows][better], new], dim=1)
                numbers = torch.cat([columns[rows][better], places + piece[0]], dim=1)
                kept, order = merged.topk(k, dim=1)
                values[start + better], columns[start + better] = kept, numbers.gather(1, order)
        return values, columns


@lru_cache(maxsize=64)
def pieces_agree(images: int, count: int, dims: int, threads: int) -> bool:
    """Whether the product of a block with a piece of the bank has the same bits in memory of its own.

    Compared are the first and the last piece, on random numbers. The arguments are those of `tiles.agreeing`.
    """
    random = np.random.default_rng(0)
    kept = count if count <= training_bank.PIECE else training_bank.PIECE + count % training_bank.PIECE
    directions, bank = (
        torch.from_numpy(random.standard_normal((size, dims), dtype=np.float32)) for size in (images, kept)
    )
    whole = torch.empty(images, count)[:, :kept]
    whole_product(directions, bank, whole)
    return all(
        torch.equal(torch.mm(directions, piece.T), some)
        for piece, some in zip(bank.split(training_bank.PIECE), whole.split(training_bank.PIECE, dim=1), strict=True)
    )
