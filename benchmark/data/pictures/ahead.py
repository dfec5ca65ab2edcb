"""Decodes pictures in threads, ahead of whoever reads them.

Threads suffice because Pillow releases the global interpreter lock while it decodes and resizes. They are not those of
torch, whose number decides the last bits of its results.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.pictures.index import cores
from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows

AHEAD_BYTES = 1 << 27
"""Bytes of decoded pictures that wait to be read, if that is more than one batch."""

BATCHES_AHEAD = 2
"""Batches that are being decoded while one is used; more if they are smaller than the number of threads."""


class DecodedAhead(LazyImages):
    """Images that are decoded one by one: subclasses say how (`decode`)."""

    @abstractmethod
    def decode(self, row: int) -> NDArray[np.uint8]:
        """One image, uint8 (H, W, C), or (H, W) for a grey one. May be called by several threads at the same time."""

    def __getitem__(self, rows: Rows) -> Pixels:
        """Decode some images, uint8 (n, C, H, W), channels last in memory."""
        return next(iter(self.ahead([numbers(rows, len(self))])))

    def ahead(self, batches: Iterable[NDArray[Any]]) -> Iterator[Pixels]:
        """The images at each batch of row numbers, in order, decoded ahead in threads.

        An error in decoding is raised in place of its batch. Threads end when the iterator does.
        """
        threads = cores()
        waiting: deque[tuple[Pixels, list[Future[None]]]] = deque()
        source = iter(batches)
        with ThreadPoolExecutor(threads) as pool:
            try:
                while True:
                    while _has_room(waiting, threads) and (batch := next(source, None)) is not None:
                        waiting.append(self._submit(batch, pool))
                    if not waiting:
                        return
                    block, futures = waiting.popleft()
                    for future in futures:
                        future.result()
                    yield block.transpose(0, 3, 1, 2)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, batch: NDArray[Any], pool: ThreadPoolExecutor) -> tuple[Pixels, list[Future[None]]]:
        _, channels, height, width = self.shape
        block = np.empty((len(batch), height, width, channels), np.uint8)

        def fill(place: int, row: int) -> None:
            decoded = self.decode(row)
            block[place] = decoded if decoded.ndim == 3 else decoded[:, :, None]

        return block, [pool.submit(fill, place, int(row)) for place, row in enumerate(batch)]


def numbers(rows: Rows, count: int) -> NDArray[np.int64]:
    """Row numbers of `count` rows as an array selects them."""
    return np.arange(count)[rows]


def _has_room(waiting: deque[tuple[Pixels, list[Future[None]]]], threads: int) -> bool:
    """Whether another batch should be submitted."""
    if len(waiting) <= 1:
        return True
    images = sum(len(block) for block, _ in waiting)
    return sum(block.nbytes for block, _ in waiting) < AHEAD_BYTES and (
        len(waiting) <= BATCHES_AHEAD or images < 2 * threads
    )
