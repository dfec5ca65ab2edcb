"""Some entries of the product of float32 similarities, with the bits that the whole product gives them.

A BLAS library may add the terms of an entry in another order in a product of another shape, and divides them among
threads where there are few entries. Entries are therefore computed in products of one shape, and `agreeing` compares
such shapes with the whole product, on random numbers, in every entry: the order depends on shapes and on the number of
threads, not on values. Where none gives the same bits, there is no screening.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours.hardware import torch_threads


class Shape(NamedTuple):
    """How chosen entries are computed: the numbers of images and bank images in one product; those of images that are
    compared with the whole bank at once; CPU threads."""

    rows: int
    columns: int
    few: int
    threads: int


SMALL = Shape(32, 192, 16, 1)
"""The shape that takes the least time for few entries."""

COMPARED = 32
"""Images whose entries are compared in `agreeing`."""


Vectors = Callable[[Tensor], Tensor]
"""Returns a bank's unit vectors at some columns, int64 (n,), as float32 (n, D)."""


class Tiles:
    """Computes entries of the product of a block of images with a bank of `count` images."""

    def __init__(self, vectors: Vectors, count: int, shape: Shape) -> None:
        self._vectors, self._count, self._shape = vectors, count, shape

    def entries(self, directions: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Cosines of unit vectors (N, D) and the bank's at `rows` (ascending) and `columns`, (n,): float32 (n,)."""
        found = np.empty(len(rows), dtype=np.float32)
        together = self._shape.rows
        ends = np.searchsorted(rows, np.arange(0, len(directions) + together, together))
        for number, (start, end) in enumerate(pairwise(ends)):
            if start == end:
                continue
            first = number * together
            own = _padded(directions[first : first + together], together)
            distinct, places = np.unique(columns[start:end], return_inverse=True)
            product = self._columns(own, torch.from_numpy(distinct)).numpy()
            found[start:end] = product[rows[start:end] - first, places]
        return found

    def _columns(self, own: Tensor, columns: Tensor) -> Tensor:
        """Cosines of as many unit vectors as the shape has rows with some of the bank's, (R, at least n)."""
        width = self._shape.columns
        with torch_threads(self._shape.threads):
            parts = [torch.mm(own, _padded(self._vectors(some), width).T) for some in columns.split(width)]
        return torch.cat(parts, dim=1)

    def whole_rows(self, directions: Tensor, width: int = 0) -> Tensor:
        """The cosines of unit vectors (n, D) with all of the bank's, float32 (n, B), in rows of at least `width`."""
        few = self._shape.few
        cosines = torch.empty(-(-len(directions) // few) * few, max(self._count, width))[:, : self._count]
        padded = _padded(directions, len(cosines))
        for columns in torch.arange(self._count).split(training_bank.PIECE):
            piece, where = self._vectors(columns), slice(int(columns[0]), int(columns[-1]) + 1)
            with torch_threads(self._shape.threads):
                for start in range(0, len(cosines), few):
                    torch.mm(padded[start : start + few], piece.T, out=cosines[start : start + few, where])
        return cosines[: len(directions)]


def whole_product(directions: Tensor, bank: Tensor, out: Tensor) -> None:
    """Write the cosines of unit vectors (N, D) with the bank's, (B, D), to `out`, (N, B), as `TrainingBank` does."""
    for start in range(0, len(bank), training_bank.PIECE):
        columns = slice(start, start + training_bank.PIECE)
        torch.mm(directions, bank[columns].T, out=out[:, columns])


def _padded(vectors: Tensor, count: int) -> Tensor:
    """`count` vectors: the given ones, then the first again."""
    missing = count - len(vectors)
    return vectors if missing == 0 else torch.cat([vectors, vectors[:1].expand(missing, -1)])


@lru_cache(maxsize=64)
def agreeing(images: int, count: int, dims: int, threads: int) -> Shape | None:
    """A shape in which entries have the bits of the product of `images` with `count` vectors of `dims` numbers.

    In the last rows and in rows from everywhere, entries of every column of the first and of the last piece of the bank
    are compared; the pieces between have the first's shape.

    Args:
        images: Of a block.
        count: Of vectors in the bank.
        dims: Numbers of a vector.
        threads: Of the process.

    Returns:
        The small shape, on these threads or on one, or that of the product itself, in which entries may still depend on
        their places; None if entries have other bits in all of them.
    """
    directions, bank, whole = _random_product(images, count, dims)
    random, kept = np.random.default_rng(1), len(bank)
    columns, everywhere = torch.from_numpy(random.permutation(kept)), torch.linspace(0, images - 1, COMPARED).long()
    few = torch.from_numpy(random.permutation(images)[:COMPARED])

    def agree(shape: Shape) -> bool:
        tiles = Tiles(bank.__getitem__, kept, shape)
        for rows in (torch.arange(images)[-shape.rows :], everywhere[: shape.rows]):
            apart = tiles._columns(_padded(directions[rows], shape.rows), columns)
            if not torch.equal(apart[: len(rows), :kept], whole[rows[:, None], columns]):
                return False
        return torch.equal(tiles.whole_rows(directions[few], count)[:, :kept], whole[few, :kept])

    own = Shape(images, min(training_bank.PIECE, count), images, threads)
    tried = dict.fromkeys((SMALL._replace(threads=threads), SMALL, own))
    return next((shape for shape in tried if agree(shape)), None)


@lru_cache(maxsize=64)
def pieces_agree(images: int, count: int, dims: int, threads: int) -> bool:
    """Whether the product of a block with a piece of the bank has the same bits in memory of its own.

    Compared are the first and the last piece. The arguments are those of `agreeing`.
    """
    directions, bank, whole = _random_product(images, count, dims)
    return all(
        torch.equal(torch.mm(directions, piece.T), some)
        for piece, some in zip(bank.split(training_bank.PIECE), whole.split(training_bank.PIECE, dim=1), strict=True)
    )


def _random_product(images: int, count: int, dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random vectors (images, dims) and (B, dims), as of a bank's first and last piece, and their product (images, B).

    Its rows are as far apart in memory as those of the product with `count` vectors: that may matter, too.
    """
    random = np.random.default_rng(0)
    kept = count if count <= training_bank.PIECE else training_bank.PIECE + count % training_bank.PIECE
    directions, bank = (
        torch.from_numpy(random.standard_normal((size, dims), dtype=np.float32)) for size in (images, kept)
    )
    whole = torch.empty(images, count)[:, :kept]
    whole_product(directions, bank, whole)
    return directions, bank, whole


@lru_cache(maxsize=1)
def multiplies_pairs() -> bool:
    """Whether this build of torch has the product of chosen pairs; says once, unseen, that sparse tensors are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(pair_products(torch.ones(1, 2), torch.ones(1, 2), np.array([0]), np.array([0]))[0] == 2)
        except (RuntimeError, AttributeError, TypeError):
            return False


def pair_products(directions: Tensor, bank: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Inner products of pairs of vectors, without copies of the vectors: float32 (n,), rounded in any order.

    The bank is read once, in order; the vectors of a block of images stay in the processor's cache.

    Args:
        directions: (N, D).
        bank: (B, D).
        rows: The pairs' places in `directions`, int64 (n,).
        columns: The pairs' places in `bank`, int64 (n,).
    """
    small = columns.astype(np.uint16) if len(bank) <= 2**16 else columns.astype(np.uint32)
    order = np.argsort(small, kind="stable")
    starts = np.zeros(len(bank) + 1, dtype=np.int64)
    np.cumsum(np.bincount(columns, minlength=len(bank)), out=starts[1:])
    size = (len(bank), len(directions))
    zeros = torch.zeros(len(columns))
    pattern = torch.sparse_csr_tensor(
        torch.from_numpy(starts), torch.from_numpy(rows[order]), zeros, size=size, check_invariants=False
    )
    products = np.empty(len(columns), dtype=np.float32)
    products[order] = torch.sparse.sampled_addmm(pattern, bank, directions.T, beta=0.0).values().numpy()
    return products
