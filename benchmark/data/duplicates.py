"""Counts the images that two sets share: exact copies, and near-duplicates that differ slightly in every pixel.

A near-duplicate is an image whose root mean square (RMS) difference from another is at most `NEAR` grey levels of 255:
the same picture recompressed, resampled or with slight noise. Shifted, mirrored or recoloured copies are not found.

Comparing all pixels of all pairs of two sets of tens of thousands of images is too expensive. Each image is first
reduced to a descriptor, the means of at most 8 x 8 blocks per channel, weighted so that the distance between two
descriptors is never larger than the RMS difference between the images (Cauchy-Schwarz per block). Projecting onto a few
orthogonal directions keeps that property, so a neighbour search in the projection misses no near-duplicate, and only
the neighbours that it finds are compared pixel by pixel. Where more than `CANDIDATES` images are that close, as with
noise, only the nearest are compared, and the counts are lower bounds.

A grey image and its copy in three equal channels are the same image: where one set is grey and the other in colour,
both are compared in three channels.

Near-duplicates among pictures at their own size are searched among their thumbnails of 32 x 32. Their copies are equal
files, and pictures with equal thumbnails whose pixels, as networks get them, are equal too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.channels import are_convertible, in_channels
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages

NEAR = 12.0
"""Largest RMS difference, in grey levels of 255, between near-duplicates. Of 1,000 CIFAR-10 test images, 965 are found
again after JPEG compression at quality 75, and all after resampling to 64 x 64 and back; none of the 10,000 is found in
the training split."""

LEAKAGE_VERSION = "1"
"""Part of the cache key of a pair's counts. Raise it when a definition in this file changes."""

GRID = 8
"""Blocks along each side of a descriptor."""

DIRECTIONS = 8
"""Orthogonal directions in which neighbours are searched."""

CANDIDATES = 16
"""Nearest neighbours that are compared pixel by pixel."""

BLOCK = 1 << 22
"""Bytes of pixels processed at a time."""


def exact_duplicates(seen: NDArray[np.uint8], tested: NDArray[np.uint8], block_bytes: int = BLOCK) -> int:
    """Count the tested images (M, C, H, W) that equal a seen image (N, C, H, W) in every pixel; both uint8.

    Grey images are compared with colour images in three channels; images of another size are never equal.
    """
    channels = _common_channels(seen.shape[1:], tested.shape[1:])
    if channels is None:
        return 0
    seen, tested = in_channels(seen, channels), in_channels(tested, channels)
    return _count_equal(seen, tested, _hashes(seen, block_bytes), _hashes(tested, block_bytes))


def _common_channels(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """The channels in which images of two shapes (C, H, W) are compared; None if they cannot be equal."""
    if one[1:] != other[1:] or not are_convertible(one[0], other[0]):
        return None
    return max(one[0], other[0])


def _count_equal(
    seen: NDArray[np.uint8],
    tested: NDArray[np.uint8],
    seen_hashes: NDArray[np.uint64],
    tested_hashes: NDArray[np.uint64],
) -> int:
    order = np.argsort(seen_hashes, kind="stable")
    ordered = seen_hashes[order]
    first, last = (np.searchsorted(ordered, tested_hashes, side=side) for side in ("left", "right"))
    count = 0
    for row in np.flatnonzero(first < last):  # unequal images may have equal hashes, so compare the pixels
        count += any(np.array_equal(seen[k], tested[row]) for k in order[first[row] : last[row]])
    return count


def _count_equal_pictures(
    seen: LazyImages,
    tested: LazyImages,
    thumbnails: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    hashes: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    channels: int,
) -> int:
    """Count the tested pictures that a seen one equals: the same file, or the same thumbnail and the same pixels.

    Pixels are those that networks get; only pictures with the thumbnail of another are decoded.
    """
    known, new = (images.fingerprints for images in (seen, tested))
    files = {row.tobytes() for row in known} if seen.view == tested.view else set()
    order = np.argsort(hashes[0], kind="stable")
    first, last = (np.searchsorted(hashes[0][order], hashes[1], side=side) for side in ("left", "right"))
    count = 0
    for row in range(len(tested)):
        if new[row].tobytes() in files:
            count += 1
            continue
        alike = [k for k in order[first[row] : last[row]] if np.array_equal(thumbnails[0][k], thumbnails[1][row])]
        if alike:
            pixels = in_channels(tested[np.array([row])], channels)
            count += any(np.array_equal(in_channels(seen[np.array([k])], channels), pixels) for k in alike[:CANDIDATES])
    return count


def _hashes(images: NDArray[np.uint8], block_bytes: int) -> NDArray[np.uint64]:
    """Hash each image to 64 bits (N,): a random linear form of its pixels modulo 2^64, equal in every process."""
    size = images[0].size
    words = -(-size // 8)
    factors = np.random.RandomState(0).randint(0, 2**63, words, dtype=np.int64).astype(np.uint64) * 2 + 1
    parts = []
    for block in _blocks(images, block_bytes):
        padded = np.zeros((len(block), words * 8), dtype=np.uint8)
        padded[:, :size] = block.reshape(len(block), -1)
        parts.append((padded.view(np.uint64) * factors).sum(axis=1, dtype=np.uint64))
    return np.concatenate(parts)


def near_duplicates(
    seen: NDArray[np.uint8], tested: NDArray[np.uint8], near: float = NEAR, block_bytes: int = BLOCK
) -> int:
    """Count the tested images (M, C, H, W) that are within `near` of a seen image; exact copies are included."""
    channels = _common_channels(seen.shape[1:], tested.shape[1:])
    if channels is None:
        return 0
    seen, tested = in_channels(seen, channels), in_channels(tested, channels)
    searchable = _Searchable(descriptors(seen, block_bytes))
    return _count_near(seen, tested, searchable, descriptors(tested, block_bytes), near, block_bytes)


class _Searchable:
    """The descriptors of a set, and the tree of their projections."""

    def __init__(self, described: NDArray[np.float32]) -> None:
        from scipy.spatial import cKDTree

        dimensions = described.shape[1]
        covariance = np.cov(described.T.astype(np.float64), bias=True).reshape(dimensions, -1)
        _, directions = np.linalg.eigh(covariance)
        self.described = described
        self.projection = directions[:, -DIRECTIONS:]  # orthonormal, so projecting never increases a distance
        self.tree = cKDTree(described @ self.projection)


def _count_near(
    seen: NDArray[np.uint8],
    tested: NDArray[np.uint8],
    searchable: _Searchable,
    tested_descriptors: NDArray[np.float32],
    near: float,
    block_bytes: int,
) -> int:
    seen_descriptors = searchable.described
    limit = near * (1 + 1e-4) + 1e-3  # slack for float32 rounding, so that no near-duplicate is lost
    neighbours = min(CANDIDATES, len(seen))
    distances, rows = searchable.tree.query(
        tested_descriptors @ searchable.projection, k=[*range(1, neighbours + 1)], distance_upper_bound=limit
    )
    found = np.zeros(len(tested), dtype=bool)
    for rank in range(neighbours):
        remaining = np.flatnonzero(np.isfinite(distances[:, rank]) & ~found)
        candidates = rows[remaining, rank]
        close = np.linalg.norm(seen_descriptors[candidates] - tested_descriptors[remaining], axis=1) <= limit
        found[remaining[close]] = _rms_at_most(seen, candidates[close], tested, remaining[close], near, block_bytes)
    return int(found.sum())


def _rms_at_most(
    seen: NDArray[np.uint8],
    seen_rows: NDArray[np.intp],
    tested: NDArray[np.uint8],
    tested_rows: NDArray[np.intp],
    near: float,
    block_bytes: int,
) -> NDArray[np.bool_]:
    """Whether the RMS difference of seen[seen_rows[k]] and tested[tested_rows[k]] is at most `near`, bool (K,)."""
    within = np.zeros(len(seen_rows), dtype=bool)
    step = max(1, block_bytes // (8 * seen[0].size))
    for start in range(0, len(seen_rows), step):
        piece = slice(start, start + step)
        difference = seen[seen_rows[piece]].astype(np.int64) - tested[tested_rows[piece]]
        squares = (difference**2).reshape(len(difference), -1).sum(axis=1)
        within[piece] = squares <= near**2 * seen[0].size
    return within


def descriptors(images: NDArray[np.uint8], block_bytes: int = BLOCK) -> NDArray[np.float32]:
    """Block sums divided by the roots of block size and image size, float32 (N, D).

    The Euclidean distance between two rows is at most the RMS difference between the two images, in grey levels.
    """
    _, channels, height, width = images.shape
    down, across = _averaging(height), _averaging(width)
    scale = np.float32(1 / np.sqrt(channels))
    parts = []
    for block in _blocks(images, block_bytes):
        rows = block.astype(np.float32) @ across  # (n, C, H, blocks across)
        parts.append(((down.T @ rows) * scale).reshape(len(block), -1))
    return np.concatenate(parts)


def _averaging(side: int) -> NDArray[np.float32]:
    """Matrix (side, blocks) that sums over the blocks of one side, divided by the roots of block size and side."""
    blocks = min(GRID, side)
    block_of = np.arange(side) * blocks // side
    member = (block_of[:, None] == np.arange(blocks)).astype(np.float64)
    averaging: NDArray[np.float32] = (member / np.sqrt(member.sum(axis=0)) / np.sqrt(side)).astype(np.float32)
    return averaging


def _blocks(images: NDArray[np.uint8], block_bytes: int) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, block_bytes // max(1, images[0].nbytes))
    return (images[start : start + rows] for start in range(0, len(images), rows))


class CachedDuplicates:
    """Counts of shared images by the contents of two sets.

    A pair is counted once for all runs that share a store, and a set is hashed, described and sorted once per object.
    Pictures that are decoded when they are read are compared by their thumbnails: equal thumbnails count as copies.
    Images without pixels, of which only outputs are given, count as different from all others.
    """

    def __init__(self, cache: DataCache) -> None:
        self._cache = cache
        self._image_hashes: dict[tuple[str, int], NDArray[np.uint64]] = {}
        self._descriptors: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._searchable: dict[tuple[str, int], _Searchable] = {}
        """By the checksum of the set, and the channels in which it is compared."""

    def exact(self, seen: ImageSet, tested: ImageSet, stored: bool = True) -> int:
        """As `exact_duplicates`. With `stored`, the count is read from, or written to, the store."""
        if not (seen.has_pixels and tested.has_pixels):
            return 0
        channels = _common_channels(seen.small.shape[1:], tested.small.shape[1:])
        if channels is None:
            return 0
        if not stored:
            return self._count_exact(seen, tested, channels)
        name = f"{tested.checksum} within {seen.checksum}"
        return int(self._cache.checksum(name, lambda: str(self._count_exact(seen, tested, channels))))

    def near(self, seen: ImageSet, tested: ImageSet) -> int:
        """As `near_duplicates`."""
        if not (seen.has_pixels and tested.has_pixels):
            return 0
        channels = _common_channels(seen.small.shape[1:], tested.small.shape[1:])
        if channels is None:
            return 0
        name = f"{tested.checksum} near {seen.checksum} version {LEAKAGE_VERSION}"
        return int(self._cache.result(name, lambda: {"near": self._count(seen, tested, channels)})["near"])

    def _count_exact(self, seen: ImageSet, tested: ImageSet, channels: int) -> int:
        # Hashed first, because the thumbnails of some rows of an index are a copy each time.
        hashes = self._hash(seen, channels), self._hash(tested, channels)
        known, new = (in_channels(images.small, channels) for images in (seen, tested))
        if seen.lazy is not None and tested.lazy is not None:
            return _count_equal_pictures(seen.lazy, tested.lazy, (known, new), hashes, channels)
        return _count_equal(known, new, *hashes)

    def _count(self, seen: ImageSet, tested: ImageSet, channels: int) -> int:
        place = (seen.checksum, channels)
        if place not in self._searchable:
            self._searchable[place] = _Searchable(self._describe(seen, channels))
        described = self._describe(tested, channels)
        known, new = (in_channels(images.small, channels) for images in (seen, tested))
        return _count_near(known, new, self._searchable[place], described, NEAR, BLOCK)

    def _hash(self, images: ImageSet, channels: int) -> NDArray[np.uint64]:
        place = (images.checksum, channels)
        if place not in self._image_hashes:
            self._image_hashes[place] = _hashes(in_channels(images.small, channels), BLOCK)
        return self._image_hashes[place]

    def _describe(self, images: ImageSet, channels: int) -> NDArray[np.float32]:
        place = (images.checksum, channels)
        if place not in self._descriptors:
            self._descriptors[place] = descriptors(in_channels(images.small, channels))
        return self._descriptors[place]
