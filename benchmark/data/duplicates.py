"""Images that two sets share: exact copies, and near-duplicates that differ by little in every pixel.

A near-duplicate is an image whose root mean square (RMS) difference from another is at most `NEAR` grey levels of 255:
the same picture recompressed, resampled or slightly noised. What is shifted, mirrored or recoloured is not found.

Comparing every pair of pixels of two sets of tens of thousands is out of the question. Each image is first described by
the means of at most 8 x 8 blocks a channel, weighted so that the distance of two descriptions is never more than the
RMS difference of the images (Cauchy-Schwarz a block); a few orthogonal directions of those keep that property. So a
search for neighbours there misses nothing that is near, and only what it finds is compared pixel by pixel. Where more
than `CANDIDATES` images lie that close, as with noise, only the nearest of them are compared: counts are lower bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.plugins.dataset import ImageSet

if TYPE_CHECKING:
    pass


NEAR = 12.0
"""RMS difference in grey levels, of 255, up to which two images are near-duplicates. Of 1,000 CIFAR-10 test images it
finds 965 again after JPEG at quality 75 and all after resampling to 64 x 64 and back; and none of its 10,000 in its
training split."""

LEAKAGE_VERSION = "1"
"""Part of what a pair's counts are remembered under; raise it when a definition above or below changes."""

GRID = 8
"""Blocks along each side of an image's description."""

DIRECTIONS = 8
"""Orthogonal directions in which neighbours are searched."""

CANDIDATES = 16
"""Nearest neighbours that are compared pixel by pixel."""

BLOCK = 1 << 22
"""Bytes of pixels handled at a time."""


def shared(seen: NDArray[np.uint8], tested: NDArray[np.uint8]) -> int:
    """How many tested images (M, C, H, W) are, pixel by pixel, among the seen ones (N, C, H, W); both uint8."""
    if seen.shape[1:] != tested.shape[1:]:
        return 0
    hashes = _hashes(seen)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    ours = _hashes(tested)
    first, last = (np.searchsorted(ordered, ours, side=side) for side in ("left", "right"))
    found = 0
    for row in np.flatnonzero(first < last):  # equal hashes are nearly always equal images: look
        found += any(np.array_equal(seen[k], tested[row]) for k in order[first[row] : last[row]])
    return found


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits an image (N,): a random linear form of its pixels modulo 2^64, the same in every process."""
    size = images[0].size
    words = -(-size // 8)
    factors = np.random.RandomState(0).randint(0, 2**63, words, dtype=np.int64).astype(np.uint64) * 2 + 1
    parts = []
    for block in _blocks(images):
        padded = np.zeros((len(block), words * 8), dtype=np.uint8)
        padded[:, :size] = block.reshape(len(block), -1)
        parts.append((padded.view(np.uint64) * factors).sum(axis=1, dtype=np.uint64))
    return np.concatenate(parts)


def near_duplicates(seen: NDArray[np.uint8], tested: NDArray[np.uint8], near: float = NEAR) -> int:
    """How many tested images (M, C, H, W) have at least one seen image within `near`, exact copies included."""
    if seen.shape[1:] != tested.shape[1:]:
        return 0
    return _near(seen, tested, descriptions(seen), descriptions(tested), near)


def _near(
    seen: NDArray[np.uint8],
    tested: NDArray[np.uint8],
    theirs: NDArray[np.float32],
    ours: NDArray[np.float32],
    near: float,
) -> int:
    from scipy.spatial import cKDTree

    _, directions = np.linalg.eigh(np.cov(theirs.T.astype(np.float64), bias=True).reshape(theirs.shape[1], -1))
    kept = directions[:, -DIRECTIONS:]  # orthonormal, so that a distance along them is no more than the whole
    slack = near * (1 + 1e-4) + 1e-3  # of float32, so that rounding loses nothing
    tree = cKDTree(theirs @ kept)
    neighbours = min(CANDIDATES, len(seen))
    distances, rows = tree.query(ours @ kept, k=[*range(1, neighbours + 1)], distance_upper_bound=slack)
    found = np.zeros(len(tested), dtype=bool)
    for rank in range(neighbours):
        left = np.flatnonzero(np.isfinite(distances[:, rank]) & ~found)
        other = rows[left, rank]
        close = np.linalg.norm(theirs[other] - ours[left], axis=1) <= slack
        found[left[close]] = _rms_at_most(seen, other[close], tested, left[close], near)
    return int(found.sum())


def _rms_at_most(
    seen: NDArray[np.uint8], rows: NDArray[np.intp], tested: NDArray[np.uint8], others: NDArray[np.intp], near: float
) -> NDArray[np.bool_]:
    """Whether seen[rows[k]] and tested[others[k]] are within `near`, exactly, (K,)."""
    within = np.zeros(len(rows), dtype=bool)
    step = max(1, BLOCK // (8 * seen[0].size))
    for start in range(0, len(rows), step):
        piece = slice(start, start + step)
        difference = seen[rows[piece]].astype(np.int64) - tested[others[piece]]
        squares = (difference**2).reshape(len(difference), -1).sum(axis=1)
        within[piece] = squares <= near**2 * seen[0].size
    return within


def descriptions(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Block sums over root of block size over root of image size, float32 (N, D).

    The Euclidean distance of two rows is at most the RMS difference of the two images, in grey levels.
    """
    _, channels, height, width = images.shape
    down, across = _averaging(height), _averaging(width)
    scale = np.float32(1 / np.sqrt(channels))
    parts = []
    for block in _blocks(images):
        rows = block.astype(np.float32) @ across  # (n, C, H, blocks across)
        parts.append(((down.T @ rows) * scale).reshape(len(block), -1))
    return np.concatenate(parts)


def _averaging(side: int) -> NDArray[np.float32]:
    """Sums over the blocks of one side, over root of block size and root of side, (side, blocks)."""
    blocks = min(GRID, side)
    block_of = np.arange(side) * blocks // side
    member = (block_of[:, None] == np.arange(blocks)).astype(np.float64)
    averaging: NDArray[np.float32] = (member / np.sqrt(member.sum(axis=0)) / np.sqrt(side)).astype(np.float32)
    return averaging


def _blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, BLOCK // max(1, images[0].nbytes))
    return (images[start : start + rows] for start in range(0, len(images), rows))


class CachedDuplicates:
    """Near-duplicates of pairs by the sets' contents: counted once for all runs of a store, a set described once."""

    def __init__(self, cache: DataCache) -> None:
        self._cache = cache
        self._described: dict[str, NDArray[np.float32]] = {}

    def near(self, seen: ImageSet, tested: ImageSet) -> int:
        """As `near_duplicates`."""
        if seen.image_shape != tested.image_shape:
            return 0
        name = f"{tested.checksum} near {seen.checksum} version {LEAKAGE_VERSION}"
        return int(self._cache.result(name, lambda: {"near": self._count(seen, tested)})["near"])

    def _count(self, seen: ImageSet, tested: ImageSet) -> int:
        return _near(seen.images, tested.images, self._of(seen), self._of(tested), NEAR)

    def _of(self, images: ImageSet) -> NDArray[np.float32]:
        if images.checksum not in self._described:
            self._described[images.checksum] = descriptions(images.images)
        return self._described[images.checksum]
