"""Decodes pictures in threads, ahead of whoever reads them.

Threads suffice because Pillow releases the global interpreter lock while it decodes and resizes. They are not those of
torch, whose number decides the last bits of its results.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows
from oodbench.benchmark.store.cores import usable_cores

AHEAD = 64
"""Images that are decoded ahead, or two batches if these are more."""

AHEAD_BYTES = 1 << 27
"""Bytes of decoded images that wait to be read, if that is more than one batch."""


_Batch: TypeAlias = "tuple[Pixels, list[Future[None]]]"
"""A batch that is being filled, uint8 (n, H, W, C), and the tasks that fill it."""


class DecodedAhead(LazyImages):
    """Images that are decoded one by one: subclasses say how (`decode`)."""

    @abstractmethod
    def decode(self, row: int) -> NDArray[np.uint8]:
        """One image, uint8 (H, W, C), or (H, W) for a grey one. May be called by several threads at the same time."""

    def __getitem__(self, rows: Rows) -> Pixels:
        """Decode some images, uint8 (n, C, H, W), channels last in memory."""
        return next(iter(self.ahead([numbers(rows, len(self))])))

    def ahead(self, batches: Iterable[NDArray[Any]], busy: int = 0) -> Iterator[Pixels]:
        """The images at each batch of row numbers, in order, decoded in threads.

        Where half of the cores or more are not `busy`, these decode while batches are used. Otherwise all cores decode
        some batches, and then wait until they are used: a network's threads wait for each other, so that one that
        shares its core with a decoder holds up all of them. An error is raised in place of its batch. Threads end when
        the iterator does.
        """
        total = usable_cores()
        spare = total - busy
        meanwhile = 2 * spare >= total
        waiting: deque[_Batch] = deque()
        source = iter(batches)
        with ThreadPoolExecutor(spare if meanwhile else total) as pool:
            try:
                while True:
                    if meanwhile or not waiting:
                        while _has_room(waiting) and (batch := next(source, None)) is not None:
                            waiting.append(self._submit(batch, pool))
                        if not meanwhile:
                            wait([future for _, futures in waiting for future in futures])
                    if not waiting:
                        return
                    block, futures = waiting.popleft()
                    for future in futures:
                        future.result()
                    yield block.transpose(0, 3, 1, 2)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, batch: NDArray[Any], pool: ThreadPoolExecutor) -> _Batch:
        _, channels, height, width = self.shape
        block = np.empty((len(batch), height, width, channels), np.uint8)

        def fill(place: int, row: int) -> None:
            decoded = self.decode(row)
            block[place] = decoded if decoded.ndim == 3 else decoded[:, :, None]

        return block, [pool.submit(fill, place, int(row)) for place, row in enumerate(batch)]


def numbers(rows: Rows, count: int) -> NDArray[np.int64]:
    """Row numbers of `count` rows as an array selects them."""
    return np.arange(count)[rows]


def _has_room(waiting: deque[_Batch]) -> bool:
    """Whether another batch should be submitted."""
    if not waiting:
        return True
    images, size = (sum(counts) for counts in zip(*((len(block), block.nbytes) for block, _ in waiting), strict=True))
    return size < AHEAD_BYTES and (images < AHEAD or len(waiting) < 2)
