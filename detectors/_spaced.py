"""A part of the training images, for detectors that do not read all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from oodbench.benchmark import Batch


def spaced(count: int, most: int) -> np.ndarray:
    """Row numbers of `most` of `count` images, equally spaced, or of all where there are no more: int64, ascending."""
    used = min(count, most)
    return (np.arange(used) * count + count // 2) // max(1, used)


def blocks_with(train: Batch, rows: Tensor, size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Blocks of `size` training images with some of `rows`, ascending int64 (n,), and where these are in the block."""
    start = 0
    for part in train.batches(size):
        own = rows[(rows >= start) & (rows < start + len(part))] - start
        start += len(part)
        if len(own):
            yield part, own
