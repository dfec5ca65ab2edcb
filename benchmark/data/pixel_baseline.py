"""Baselines without a network: how well statistics of single images separate an OOD set from an ID set.

Where brightness, colour, spectrum or compressibility separates two sets, a high detector score on that pair says little
about the detector. Two numbers per pair:

- the best single statistic, chosen with its direction on the pair's test images: an upper bound, as no detector may see
  the OOD set;
- a one-class model of all statistics, fitted on ID training images alone, as a detector is; none without such images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.image_statistics import STATISTICS, STATISTICS_VERSION, Values, statistics
from oodbench.benchmark.data.one_class import OneClass
from oodbench.benchmark.metrics.exact import auroc, evaluate
from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plugins.dataset import ImageSet

FITTED_ON = 2000
"""The one-class model is fitted on at most this many training images, evenly spaced in stored order."""

HIGHER, LOWER, UNUSUAL = "higher is OOD", "lower is OOD", "unusual is OOD"
"""Directions of a statistic; unusual: far from the median of ID training images, either way, or of ID test images where
there are none of training: it is an upper bound in any case."""

Statistics = Mapping[str, Values]


def best_statistic_of(training: Statistics, id_statistics: Statistics, ood_statistics: Statistics) -> dict[str, Any]:
    """The statistic and direction with the highest AUROC, and its metrics, given the `statistics` of all three sets."""
    candidates = []
    for name in STATISTICS:
        middle, one, other = np.median(training[name]), id_statistics[name], ood_statistics[name]
        scores: dict[str, tuple[Values, Values]] = {
            HIGHER: (one, other),
            LOWER: (-one, -other),
            UNUSUAL: (np.abs(one - middle), np.abs(other - middle)),
        }
        for direction, (id_scores, ood_scores) in scores.items():
            candidates.append((auroc(id_scores, ood_scores), name, direction, id_scores, ood_scores))
    _, name, direction, id_scores, ood_scores = max(candidates, key=lambda c: c[0])
    return {"statistic": name, "direction": direction, **evaluate(id_scores, ood_scores)}


def one_class_of(training: Statistics, id_statistics: Statistics, ood_statistics: Statistics) -> dict[str, Any]:
    """The metrics of the one-class model, and the number of training images that it was fitted on."""
    model = OneClass.fit(training)
    fitted_on = len(next(iter(training.values())))
    return {"fitted_on": fitted_on, **evaluate(model.scores(id_statistics), model.scores(ood_statistics))}


def baselines_of(training: Statistics | None, id_statistics: Statistics, ood_statistics: Statistics) -> dict[str, Any]:
    """Both baselines of a pair; without training images, None in place of the one-class model."""
    if training is None:
        return {"best": best_statistic_of(id_statistics, id_statistics, ood_statistics), "one_class": None}
    sets = (training, id_statistics, ood_statistics)
    return {"best": best_statistic_of(*sets), "one_class": one_class_of(*sets)}


def fitted_rows(images: int) -> np.ndarray:
    """Rows of the training images that the one-class model is fitted on."""
    count = min(images, FITTED_ON)
    return np.arange(count) * images // count


class CachedBaselines:
    """Baselines of pairs by the contents of the sets.

    A pair is evaluated once for all runs that share a store, and a set's statistics are computed once per object.
    """

    def __init__(self, cache: DataCache) -> None:
        self._cache = cache
        self._statistics: dict[tuple[str, bool], Statistics] = {}

    def of(self, training: ImageSet | None, id_set: ImageSet, ood_set: ImageSet) -> dict[str, Any]:
        """As `baselines_of`, bit for bit: `best`, the best single statistic, and `one_class`, each with its metrics."""
        contents = " ".join(images.checksum if images else "none" for images in (training, id_set, ood_set))
        name = f"{contents} statistics {STATISTICS_VERSION}, metrics {METRICS_VERSION}"
        return self._cache.result(name, lambda: self._measured(training, id_set, ood_set))

    def _measured(self, training: ImageSet | None, id_set: ImageSet, ood_set: ImageSet) -> dict[str, Any]:
        fitted = self._measure(training, True) if training else None
        return baselines_of(fitted, self._measure(id_set), self._measure(ood_set))

    def _measure(self, images: ImageSet, is_training: bool = False) -> Statistics:
        place = (images.checksum, is_training)
        if place not in self._statistics:
            rows = fitted_rows(len(images)) if is_training else slice(None)
            self._statistics[place] = statistics(images.small[rows])
        return self._statistics[place]
