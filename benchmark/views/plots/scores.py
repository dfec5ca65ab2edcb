"""The scores behind a run's cells, as pictures read them, and the curves that several pictures share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.metrics.exact import roc_curve
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.npy import stored_scores
from oodbench.benchmark.views.summary import Block

Scores = NDArray[np.float64]
Pair = tuple[Scores, Scores]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

NO_SCORES = "scores not in the cache"

ROC_POINTS = 400


class PairScores(Protocol):
    """Where pictures take scores from: a run's cache, or a data frame."""

    def read(self, block: Block, label: str, ood_set: str) -> Pair | str:
        """The (N,) scores of the ID set and the (M,) scores of the OOD set, or why there are none."""
        ...


@dataclass(frozen=True)
class ScoreReader:
    """Reads the stored scores behind a run's cells, for one seed."""

    cache_dir: Path
    seed: int
    records: Mapping[tuple[str, str, str], Record]
    arrays: dict[tuple[str, str, str], Pair | str] = field(default_factory=dict)
    """What has been read already, mapped from the files; a run's pictures need each pair several times."""

    @classmethod
    def of(cls, run: StoredRun, cache_dir: Path, seed: int) -> ScoreReader:
        """The reader for a run and a seed."""
        return cls(cache_dir, seed, {(r.id_set, r.label, r.ood_set): r for r in run.records if r.seed == seed})

    def read(self, block: Block, label: str, ood_set: str) -> Pair | str:
        """The (N,) scores of the ID set and the (M,) scores of the OOD set, or why there are none."""
        place = (block.id_set, label, ood_set)
        if place not in self.arrays:
            self.arrays[place] = self._pair(self.records.get(place))
        return self.arrays[place]

    def _pair(self, record: Record | None) -> Pair | str:
        if record is None or record.status != OK:
            return record.status if record else "not run"
        id_scores, ood_scores = self._load(record, "id_scores"), self._load(record, "ood_scores")
        return NO_SCORES if id_scores is None or ood_scores is None else (id_scores, ood_scores)

    def _load(self, record: Record, name: str) -> Scores | None:
        scores = stored_scores(self.cache_dir, record.artifacts, name)
        return scores if scores is not None and scores.size else None


def curve_of(pair: Pair, points: int = ROC_POINTS, floor: float | None = None) -> Curve:
    """(FPR, TPR) of a ROC curve, from corner to corner, at most `points` of each.

    With `floor`, for an axis of FPR that is logarithmic: the points are spread over the axis from there to 1, and lower
    rates are drawn at its end.
    """
    if floor is None:
        return roc_curve(*pair, points=points)
    false_positive, true_positive = roc_curve(*pair)
    clipped = np.maximum(false_positive, floor)
    along = 1 + np.log10(clipped) / -np.log10(floor) + true_positive
    chosen = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))
    chosen = np.union1d(chosen[chosen < len(along)], [0, len(along) - 1])
    return clipped[chosen], true_positive[chosen]
