"""What no network is needed for: how well a single pixel statistic separates two sets.

A set that the mean, the spread or the sharpest edge of the pixels tells apart says little about a detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.metrics.exact import auroc, evaluate
from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plugins.dataset import ImageSet


def mean(images: np.ndarray) -> np.ndarray:
    """Mean of all pixels of each image, (N,)."""
    means: np.ndarray = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    return means


def standard_deviation(images: np.ndarray) -> np.ndarray:
    """Standard deviation of all pixels of each image, (N,)."""
    spread: np.ndarray = images.reshape(len(images), -1).std(axis=1, dtype=np.float64)
    return spread


def largest_gradient(images: np.ndarray) -> np.ndarray:
    """Largest absolute difference between neighbouring pixels of each image, (N,)."""
    signed = images.astype(np.int16)
    # An image one pixel wide or high has no neighbours that way.
    across = np.abs(np.diff(signed, axis=3)).max(axis=(1, 2, 3), initial=0)
    down = np.abs(np.diff(signed, axis=2)).max(axis=(1, 2, 3), initial=0)
    steepest: np.ndarray = np.maximum(across, down).astype(np.float64)
    return steepest


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixel mean": mean,
    "pixel std": standard_deviation,
    "pixel gradient": largest_gradient,
}

STATISTICS_VERSION = "1"
"""Part of what a pair's result is remembered under; raise it when a statistic or the choice among them changes."""

BLOCK = 1 << 20
"""Bytes of pixels at a time: temporaries take eight times as much, however many images there are."""


def statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Every statistic of uint8 images (N, C, H, W), float64 (N,) each; an image's values depend on it alone."""
    rows = max(1, BLOCK // max(1, images[0].nbytes))
    blocks = [images[start : start + rows] for start in range(0, len(images), rows)]
    parts = [[statistic(block) for statistic in STATISTICS.values()] for block in blocks]
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(STATISTICS)}


def best_statistic_of(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The statistic and direction with the highest AUROC between two sets' `statistics`, ID first, with its metrics."""
    candidates = []
    for name in STATISTICS:
        for direction, sign in (("higher is OOD", 1), ("lower is OOD", -1)):
            one, other = sign * ours[name], sign * theirs[name]
            candidates.append((auroc(one, other), name, direction, one, other))
    _, name, direction, one, other = max(candidates, key=lambda c: c[0])
    return {"statistic": name, "direction": direction, **evaluate(one, other)}


def best_statistic(id_images: np.ndarray, ood_images: np.ndarray) -> dict[str, Any]:
    """`best_statistic_of` two uint8 sets (N, C, H, W)."""
    return best_statistic_of(statistics(id_images), statistics(ood_images))


class CachedStatistics:
    """Results of pairs by the sets' contents: a set is measured once, and a pair once for all runs of a store."""

    def __init__(self, cache: DataCache) -> None:
        self._cache = cache
        self._measured: dict[str, dict[str, np.ndarray]] = {}

    def best(self, id_set: ImageSet, ood_set: ImageSet) -> dict[str, Any]:
        """As `best_statistic`, bit by bit."""
        name = f"{id_set.checksum} {ood_set.checksum} statistics {STATISTICS_VERSION}, metrics {METRICS_VERSION}"
        return self._cache.result(name, lambda: best_statistic_of(self._of(id_set), self._of(ood_set)))

    def _of(self, images: ImageSet) -> dict[str, np.ndarray]:
        if images.checksum not in self._measured:
            self._measured[images.checksum] = statistics(images.images)
        return self._measured[images.checksum]
