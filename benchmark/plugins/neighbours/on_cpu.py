"""`CPUScreen`: the first two steps of `Screen` on a processor that multiplies bfloat16."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.largest import GROUP
from oodbench.benchmark.plugins.neighbours.rounded import RoundedBank
from oodbench.benchmark.plugins.neighbours.screen import CROWDED, HALF, MOST_CROWDED, Bools, Ints, Pairs, Screen, nth
from oodbench.benchmark.plugins.neighbours.tiles import Shape, pair_products
from oodbench.benchmark.plugins.training_bank import TrainingBank


class CPUScreen(Screen):
    """Screens a bank that is held in memory."""

    def __init__(self, bank: TrainingBank, weights: Tensor | None, shape: Shape) -> None:
        super().__init__(bank, weights, shape)
        if bank.held is None:
            raise AssertionError("the bank is not held in memory")
        self._vectors = bank.held
        self._rounded = RoundedBank(self._vectors, weights)

    @staticmethod
    def bytes_of(count: int, dims: int) -> int:
        """The memory of the screen of a bank of `count` vectors of `dims` numbers, about."""
        return 2 * count * (dims + GROUP)

    def _undecided(self, directions: Tensor, k: int, border: bool) -> tuple[Pairs, Ints, Bools] | None:
        found = self._candidates(directions, k, border)
        if found is None:
            return None
        pairs, ranks, full = found
        values = self._products(directions, pairs)
        least = nth(pairs.rows, values, ranks)[pairs.rows]
        if not border:
            return pairs.only(values >= least - 4 * self._near), ranks, full
        ranks -= np.bincount(pairs.rows, values > least + 4 * self._near, len(ranks)).astype(np.int64)
        return pairs.only(np.abs(values - least) <= 4 * self._near), ranks, full

    def _candidates(self, directions: Tensor, k: int, border: bool) -> tuple[Pairs, Ints, Bools] | None:
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
        pairs = Pairs(*np.divmod(places, width))
        full = np.bincount(pairs.rows, minlength=count) > max(2 * k, CROWDED * width)
        if full.sum() > MOST_CROWDED * count:
            return None
        ranks = np.where(full, 0, k)
        if full.any():
            left = ~full[pairs.rows]
            pairs, places = pairs.only(left), places[left]
        if border:
            values = (integers.reshape(-1)[places].astype(np.int32) << 16).view(np.float32).astype(np.float64)
            kth = nth(pairs.rows, values, ranks)
            certain = values - np.abs(values) * HALF > (kth + np.abs(kth) * HALF + apart)[pairs.rows]
            ranks -= np.bincount(pairs.rows, certain, count).astype(np.int64)
            below = values < _cut(kth, apart).double().numpy()[pairs.rows]
            pairs = pairs.only(~certain & ~below)
        return pairs, ranks, full

    def _products(self, directions: Tensor, pairs: Pairs) -> np.ndarray:
        """(Weighted) cosines of pairs, float64, each within `_near` of the exact one."""
        found = pair_products(directions, self._vectors, *pairs).astype(np.float64)
        return found if self._weights is None else found * self._weights.numpy()[pairs.columns]


def _cut(kth: np.ndarray, apart: np.ndarray) -> Tensor:
    """What a bfloat16 entry must reach to be `apart` below `kth` at most, before either was rounded, bfloat16 (N,)."""
    return torch.from_numpy(kth.astype(np.float64) - np.abs(kth) * HALF - apart).bfloat16()


def _kth(values: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest entry of every row."""
    count = values.shape[1]
    found: np.ndarray = np.partition(values, count - k, axis=1)[:, count - k]
    return found
