"""`StreamedSearch`: the most similar images of a bank that memory does not hold, read once for many blocks of a set.

Every block is multiplied with every piece of the bank, as in the product of similarities, and of each product only the
largest entries are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.screen import Search


class StreamedSearch(Search):
    """Finds the most similar images of a bank piece by piece. The arguments are those of `Search`."""

    def column(self, directions: Tensor, k: int) -> Tensor:
        """As of `Search`; images must be whole blocks of the bank, in order."""
        values, columns = self._best(directions, min(k + 1, len(self._bank)))
        border = values[:, k - 1 : k]
        unclear = (values == border).sum(dim=1) > 1  # which of equal ones comes first depends on the whole row
        found = columns[:, k - 1]
        if unclear.any():
            found[unclear] = self._of_whole_rows(directions[unclear], k)[1][:, -1]
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
