"""What detectors read of a block of similarities: all of them, or the nearest only, and which way is faster.

Both ways give the same bits, so that the choice is in no key. The nearest are searched for where that may pay
(`searches.py`) and no detector needs all similarities anyway. The first block is computed in full, and timed; searching
goes on only while it takes less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import largest
from oodbench.benchmark.plugins.neighbours.screen import Search
from oodbench.benchmark.plugins.neighbours.searches import CPU, Searches, searches_of
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank, unit

PATIENCE = 1.1
"""Searching ends once it takes this many times as long as the float32 product of the first block would have taken."""

Find = Callable[[Search, Tensor], "Tensor | None"]
"""Finds neighbours of unit vectors, float32 (n, D); None if the whole product is faster."""


class Neighbours:
    """The images of the bank that are most similar to each image of a block.

    Args:
        similarities: Returns the block's similarities, float32 (N, B).
    """

    def __init__(self, similarities: Callable[[], Tensor]) -> None:
        self._similarities = similarities

    def column(self, k: int) -> Tensor:
        """The column of the k-th most similar image, int64 (N,); k from 1."""
        return largest(self._similarities(), k)[1][:, -1]

    def largest(self, k: int, weights: Tensor | None = None) -> Tensor:
        """The k largest similarities, in descending order, float32 (N, k).

        Args:
            k: From 1 to the number of images in the bank.
            weights: Factors of the images of the bank, float32 (B,), by which similarities are multiplied before.
        """
        similarities = self._similarities()
        return largest(similarities if weights is None else similarities * weights, k)[0]


class SharedProduct(SharedBlock):
    """A set's similarities to a bank, block by block; all of them, or by `neighbours` the nearest.

    Args:
        bank: The bank.
        features: Returns the features of some images of the set, float32 (n, D).
        images: Number of images in the set.
        device: The device of the job.
    """

    def __init__(
        self, bank: TrainingBank, features: Callable[[slice], Tensor], images: int, device: torch.device = CPU
    ) -> None:
        super().__init__(lambda rows: bank.similarities(features(rows)))
        self._bank, self._features, self._images = bank, features, images
        self._searches: Searches | None = searches_of(bank, images, device)
        self._found: dict[tuple[str, int, int], tuple[slice, Tensor | None]] = {}
        self._first, self._spent, self._blocks = 0.0, 0.0, set[int]()

    def __call__(self, rows: slice) -> Tensor:
        """All similarities of some images, for a detector that needs them: the rest of the set is computed in full."""
        self.release()
        return self.whole(rows)

    def whole(self, rows: slice) -> Tensor:
        """All similarities of some images, for one that could do without."""
        return super().__call__(rows)

    def neighbours(self, rows: slice) -> Neighbours:
        """The nearest images of the bank, of some images of the set."""
        return _SharedNeighbours(self, rows)

    def searched(self, rows: slice, what: str, k: int, weights: Tensor | None, find: Find) -> Tensor | None:
        """What `find` gets for some images from a search of the bank; None if the block is to be computed in full.

        `what` and `k` say what is found: it is kept for the next blocks, which are searched together.
        """
        block, searches = self._bank.block, self._searches
        if searches is None or rows.start < block or rows.start % block or rows.stop > self._last(searches):
            return None
        with torch.inference_mode(False), torch.no_grad():
            start = time.thread_time()
            number = searches.number_of(weights)
            self._spent -= time.thread_time() - start  # once for the set
            if number is None:
                self.release()
                return None
            together, found = self._found.get((what, k, number), (slice(0, 0), None))
            if not together.start <= rows.start < together.stop:
                together = slice(rows.start, min(rows.start + searches.at_once * block, self._last(searches)))
                found, enough_memory = None, True
                try:
                    found = find(searches[number], unit(self._features(together)).float())
                except torch.cuda.OutOfMemoryError:
                    enough_memory = False
                if not enough_memory:  # not above, where the error still holds what was allocated
                    self.release()
                self._found[what, k, number] = together, found
            own = slice(rows.start - together.start, rows.stop - together.start)
            return None if found is None else found[own].clone()

    def _last(self, searches: Searches) -> int:
        """Images before the first that is not searched: a small last block may have bits that entries do not have."""
        block = self._bank.block
        over = self._images % block
        is_whole = over == 0 or searches.shape_of(over) == searches.shape_of(block)
        return self._images if is_whole else self._images - over

    def took(self, rows: slice, seconds: float) -> None:
        """Note the processor time of one detector's neighbours, and end searching if it takes too long."""
        block, searches = self._bank.block, self._searches
        if rows.start == 0 and rows.stop == block:
            self._first += seconds
        elif searches is not None and rows.start >= block:
            self._blocks.add(rows.start)
            self._spent += seconds
            before = len(self._blocks) - 1  # blocks of which all detectors have read
            if (
                before % searches.at_once == 0
                and before > 0
                and self._spent > PATIENCE * self._first * (before + searches.at_once)
            ):
                self.release()

    def release(self) -> None:
        """Search no more, and give back the memory that searching takes."""
        if self._searches is not None:
            self._searches.release()
        self._searches = None


def neighbours_of(product: object, rows: slice, similarities: Callable[[], Tensor]) -> Neighbours:
    """The neighbours of some images of a set, from the product that its detectors share or from the similarities."""
    return product.neighbours(rows) if isinstance(product, SharedProduct) else Neighbours(similarities)


class _SharedNeighbours(Neighbours):
    """The nearest images of a block of a set."""

    def __init__(self, product: SharedProduct, rows: slice) -> None:
        super().__init__(lambda: product.whole(rows))
        self._product, self._rows = product, rows

    def column(self, k: int) -> Tensor:
        """As of `Neighbours`."""
        start = time.thread_time()
        found = self._product.searched(self._rows, "column", k, None, lambda search, units: search.column(units, k))
        found = super().column(k) if found is None else found
        self._product.took(self._rows, time.thread_time() - start)
        return found

    def largest(self, k: int, weights: Tensor | None = None) -> Tensor:
        """As of `Neighbours`."""
        start = time.thread_time()
        found = self._product.searched(self._rows, "values", k, weights, lambda search, units: search.values(units, k))
        found = super().largest(k, weights) if found is None else found
        self._product.took(self._rows, time.thread_time() - start)
        return found
