"""Baseline without a network: how well a single pixel statistic separates an OOD set from an ID set.

Where the mean, the standard deviation or the sharpest edge of the pixels separates two sets, a high detector score on
that pair says little about the detector.
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
    # `initial=0` covers images that are one pixel wide or high and have no neighbours in that direction.
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
"""Part of the cache key of a pair's result. Raise it when a statistic or the choice among them changes."""

BLOCK = 1 << 20
"""Bytes of pixels processed at a time. Temporaries take eight times as much, whatever the number of images."""


def statistics(images: np.ndarray, block_bytes: int = BLOCK) -> dict[str, np.ndarray]:
    """Each of `STATISTICS` of uint8 images (N, C, H, W), float64 (N,), the same in blocks of any size."""
    rows = max(1, block_bytes // max(1, images[0].nbytes))
    blocks = [images[start : start + rows] for start in range(0, len(images), rows)]
    parts = [[statistic(block) for statistic in STATISTICS.values()] for block in blocks]
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(STATISTICS)}


def best_statistic_of(
    id_statistics: Mapping[str, np.ndarray], ood_statistics: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The statistic and direction with the highest AUROC, and its metrics, given the `statistics` of both sets."""
    candidates = []
    for name in STATISTICS:
        for direction, sign in (("higher is OOD", 1), ("lower is OOD", -1)):
            id_scores, ood_scores = sign * id_statistics[name], sign * ood_statistics[name]
            candidates.append((auroc(id_scores, ood_scores), name, direction, id_scores, ood_scores))
    _, name, direction, id_scores, ood_scores = max(candidates, key=lambda c: c[0])
    return {"statistic": name, "direction": direction, **evaluate(id_scores, ood_scores)}


def best_statistic(id_images: np.ndarray, ood_images: np.ndarray) -> dict[str, Any]:
    """As `best_statistic_of`, given the images of both sets, uint8 (N, C, H, W)."""
    return best_statistic_of(statistics(id_images), statistics(ood_images))


class CachedStatistics:
    """Best statistics of pairs by the contents of the two sets.

    A pair is evaluated once for all runs that share a store, and a set's statistics are computed once per object.
    """

    def __init__(self, cache: DataCache) -> None:
        self._cache = cache
        self._statistics: dict[str, dict[str, np.ndarray]] = {}

    def best(self, id_set: ImageSet, ood_set: ImageSet) -> dict[str, Any]:
        """As `best_statistic`, bit for bit."""
        name = f"{id_set.checksum} {ood_set.checksum} statistics {STATISTICS_VERSION}, metrics {METRICS_VERSION}"
        return self._cache.result(name, lambda: best_statistic_of(self._measure(id_set), self._measure(ood_set)))

    def _measure(self, images: ImageSet) -> dict[str, np.ndarray]:
        if images.checksum not in self._statistics:
            self._statistics[images.checksum] = statistics(images.images)
        return self._statistics[images.checksum]
