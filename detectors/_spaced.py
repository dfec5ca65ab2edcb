"""A part of the training images, for detectors that do not read all of them."""

from __future__ import annotations

import numpy as np


def spaced(count: int, most: int) -> np.ndarray:
    """Row numbers of `most` of `count` images, equally spaced, or of all where there are no more: int64, ascending."""
    used = min(count, most)
    return (np.arange(used) * count + count // 2) // max(1, used)
