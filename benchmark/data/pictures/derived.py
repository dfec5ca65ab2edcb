"""Images made from others when they are read: forms of a set, and slightly changed copies of its test images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows


class DerivedImages(LazyImages):
    """Changed copies of images that are decoded when they are read.

    Args:
        base: The images as the network would get them unchanged.
        changes: Functions of some of them, uint8 (n, C, H, W), that return as many changed ones of the same size; a row
            must depend on its own image alone.
        view: What the functions do, as text that determines it.
        sources: The image behind each row, int64 (M,); every image under every change in turn if None.
        kinds: The position in `changes` of each row's function, int64 (M,).
        channels: Channels of the changed images; those of `base` if 0.
    """

    def __init__(
        self,
        base: LazyImages,
        changes: Sequence[Callable[[Pixels], Pixels]],
        view: str,
        sources: NDArray[np.int64] | None = None,
        kinds: NDArray[np.int64] | None = None,
        channels: int = 0,
    ) -> None:
        count = len(base)
        self._base, self._changes, self._what = base, tuple(changes), view
        self._sources = np.tile(np.arange(count), len(changes)) if sources is None else sources
        self._kinds = np.repeat(np.arange(len(changes)), count) if kinds is None else kinds
        self._channels = channels or base.shape[1]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of images, channels, height and width."""
        return (len(self._sources), self._channels, *self._base.shape[2:])

    def __getitem__(self, rows: Rows) -> Pixels:
        """Decode and change some images; each one behind them is decoded once."""
        sources, kinds = self._sources[rows], self._kinds[rows]
        needed, place = np.unique(sources, return_inverse=True)
        return self._changed(self._base[needed], place, kinds)

    def ahead(self, batches: Iterable[NDArray[Any]], busy: int = 0) -> Iterator[Pixels]:
        """The images at each batch of row numbers; those behind them are decoded ahead, as they are in `base`."""
        rest: deque[tuple[NDArray[np.int64], NDArray[np.int64]]] = deque()

        def needed() -> Iterator[NDArray[Any]]:
            for batch in batches:
                sources, place = np.unique(self._sources[batch], return_inverse=True)
                rest.append((place, self._kinds[batch]))
                yield sources

        for images in self._base.ahead(needed(), busy):
            yield self._changed(images, *rest.popleft())

    def select(self, rows: Rows) -> DerivedImages:
        """The images at `rows`, still not decoded."""
        sources, kinds = self._sources[rows], self._kinds[rows]
        return DerivedImages(self._base, self._changes, self._what, sources, kinds, self._channels)

    @property
    def thumbnails(self) -> Pixels:
        """The changes of the thumbnails, which is not the same as thumbnails of changed images."""
        return self._changed(self._base.thumbnails, self._sources, self._kinds)

    @property
    def fingerprints(self) -> NDArray[np.uint8]:
        """Those of the images behind them."""
        return self._base.fingerprints[self._sources]

    @property
    def names(self) -> list[str]:
        """Those of the images behind them."""
        known = self._base.names
        return [known[source] for source in self._sources]

    @property
    def view(self) -> str:
        """What is done to the stored images, and then to the decoded ones."""
        return f"{self._base.view}; {self._what}"

    def _changed(self, images: Pixels, place: NDArray[np.int64], kinds: NDArray[np.int64]) -> Pixels:
        """Image `place[k]` under change `kinds[k]`, for every k."""
        changed = np.empty((len(place), self._channels, *images.shape[2:]), np.uint8)
        for kind in np.unique(kinds):
            of_kind = kinds == kind
            changed[of_kind] = self._changes[kind](images[place[of_kind]])
        return changed
