"""Images made from two others each when they are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows


class PairedImages(LazyImages):
    """Each image of a set that is decoded when it is read, joined with another one of it.

    Args:
        base: The images.
        partners: The row of the other image of each, int64 (N,).
        join: Joins images with others of the same size, uint8 (n, C, H, W) each, row by row.
        view: What it does, as text that determines it.
        rows: The rows of `base` that are joined with their partners, int64 (M,); all if None.
    """

    def __init__(
        self,
        base: LazyImages,
        partners: NDArray[np.int64],
        join: Callable[[Pixels, Pixels], Pixels],
        view: str,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._base, self._partners, self._join, self._what = base, partners, join, view
        self._rows = np.arange(len(base)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of images, channels, height and width."""
        return (len(self._rows), *self._base.shape[1:])

    def __getitem__(self, rows: Rows) -> Pixels:
        """Decode and join some images; each one behind them is decoded once."""
        needed, place = self._needed(rows)
        return self._joined(self._base[needed], place)

    def ahead(self, batches: Iterable[NDArray[Any]], busy: int = 0) -> Iterator[Pixels]:
        """The images at each batch of row numbers; those behind them are decoded ahead, as they are in `base`."""
        rest: deque[NDArray[np.int64]] = deque()

        def needed() -> Iterator[NDArray[Any]]:
            for batch in batches:
                sources, place = self._needed(batch)
                rest.append(place)
                yield sources

        for images in self._base.ahead(needed(), busy):
            yield self._joined(images, rest.popleft())

    def select(self, rows: Rows) -> PairedImages:
        """The images at `rows`, still not decoded."""
        return PairedImages(self._base, self._partners, self._join, self._what, self._rows[rows])

    @property
    def thumbnails(self) -> Pixels:
        """The thumbnails joined, which is not the same as thumbnails of joined images."""
        needed, place = self._needed(slice(None))
        return self._joined(self._base.thumbnails[needed], place)

    @property
    def fingerprints(self) -> NDArray[np.uint8]:
        """Those of both images behind each, combined: a joined image is none of the stored ones."""
        known = self._base.fingerprints
        return known[self._rows] ^ np.roll(known[self._partners[self._rows]], 1, axis=1)

    @property
    def names(self) -> list[str]:
        """Those of the first images."""
        known = self._base.names
        return [known[row] for row in self._rows]

    @property
    def has_names(self) -> bool:
        """Whether the images behind them have names."""
        return self._base.has_names

    @property
    def view(self) -> str:
        """What is done to the stored images, and then to two decoded ones."""
        return f"{self._base.view}; {self._what}"

    def _needed(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of `base` behind some images, and the places among them of both of each, (2, n)."""
        first = self._rows[rows]
        needed, place = np.unique(np.stack([first, self._partners[first]]), return_inverse=True)
        return needed, place.reshape(2, -1)

    def _joined(self, images: Pixels, place: NDArray[np.int64]) -> Pixels:
        return self._join(images[place[0]], images[place[1]])
