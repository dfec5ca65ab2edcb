"""The scores of a cell in short: from two `Distribution`s the page draws ROC, histogram, and moves a threshold.

A distribution is the score at each of `LEVELS`, exactly as stored. Let i be the last level whose score is at most t.
The share of images with a score of at most t is then at least level i, and less than level i + 1. Levels are 0.5 points
apart at most, so a share that is interpolated between the two, and with it TPR and FPR at any threshold, is wrong by
less than 0.5 points; at the scores of levels themselves, such as the threshold at which 95% of ID is accepted, by less
than one image unless scores are tied. Towards 0 and 1 levels are closer, for logarithmic axes. Scores are float64,
because those of a good network may differ in their last digits only: as float32, many would become equal.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.records.beside import store_of
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.npy import stored_scores
from oodbench.benchmark.views.report import data

PARTS = 10_000
"""Levels are whole numbers of this part, so that ranks are computed in integers."""

_TAIL = (0, 1, 2, 5, 10, 20, 30, 40)
_STEP = 50

LEVELS: Sequence[int] = (*_TAIL, *range(_STEP, PARTS, _STEP), *(PARTS - part for part in reversed(_TAIL)))
"""Ascending, in parts of `PARTS`; 0.5 points apart, less towards the ends."""

NO_SCORES = "its scores are not in the store; repeating the command that made the run restores them"


class Curves:
    """The distributions that cells share: the ID scores of a row are the same against every OOD set."""

    def __init__(self) -> None:
        self.found: list[data.Distribution] = []
        self._places: dict[tuple[str, str], int | None] = {}

    def curve(self, record: Record, cache: Path) -> data.Curve | None:
        """The distributions of a cell; None if its scores are not in the store, `cache` if it names no other."""
        id_place, ood_place = self._place(record, "id_scores", cache), self._place(record, "ood_scores", cache)
        return None if id_place is None or ood_place is None else data.Curve(id_place, ood_place, record.seed)

    def _place(self, record: Record, name: str, cache: Path) -> int | None:
        key = (str(store_of(record, cache)), record.artifacts.get(name, ""))
        if key not in self._places:
            scores = scores_of(record, name, cache)
            self._places[key] = None if scores is None else len(self.found)
            if scores is not None:
                self.found.append(distribution(scores))
        return self._places[key]


def scores_of(record: Record, name: str, cache: Path) -> NDArray[np.float64] | None:
    """The stored scores `name` of a cell, float64 (N,), higher = more OOD; None if they are not there or damaged."""
    scores = stored_scores(store_of(record, cache), record.artifacts, name)
    return None if scores is None or not scores.size else np.asarray(scores, dtype=np.float64)


def distribution(scores: NDArray[np.float64]) -> data.Distribution:
    """The score at each of `LEVELS`: the ceil(level * N)-th smallest of (N,) scores, the smallest for level 0."""
    count = len(scores)
    ranks = np.maximum(-(-np.array(LEVELS) * count // PARTS), 1) - 1
    values = np.sort(scores)[ranks].astype("<f8")
    return data.Distribution(count, base64.b64encode(values.tobytes()).decode())
