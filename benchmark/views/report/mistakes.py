"""Which images detectors get wrong at the threshold for 95% of ID: rejected ID images, accepted OOD images.

The threshold is that of `tnr_at_tpr95`: an image is accepted if its score is at most the ceil(0.95 N)-th smallest ID
score. Confident mistakes are ID images with the highest scores and OOD images with the lowest ones. The majority is of
the rows of an ID set that have scores, without sanity rows, and without rows that were trained on the set's
distribution; it is wrong on an image if more than half of them are. Each row votes by the first seed that has a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.metrics.exact import tpr_threshold
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.views.report.curves import scores_of
from oodbench.benchmark.views.report.tables import Shown

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """The mistakes of one row on one set."""

    row: int
    threshold: float
    wrong: int
    """Number of images on the wrong side."""
    images: tuple[int, ...]
    """The most confident ones first: positions in the set."""
    scores: tuple[float, ...]


@dataclass
class OnSet:
    """The mistakes of all rows of a block on its ID set (`place` is None) or on one of its OOD sets."""

    shown: Shown
    place: int | None
    record: Record
    """Of the first row with scores: it says which images were scored."""
    images: int
    rows: list[Found] = field(default_factory=list)
    votes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,): how many of the voting rows are wrong on each image."""
    confidence: Floats = field(default_factory=lambda: np.zeros(0))
    """(N,): sum over voting rows of each image's rank by confidence of being wrong, as a share of the set."""
    voters: int = 0

    @property
    def set_name(self) -> str:
        """The name of the set."""
        return self.shown.block.id_set if self.place is None else self.shown.block.sets[self.place].name

    def majority(self) -> NDArray[np.int64]:
        """Positions of the images that more than half of the rows get wrong: most votes first, then by confidence."""
        wrong = np.flatnonzero(2 * self.votes > self.voters)
        order = np.lexsort((wrong, -self.confidence[wrong], -self.votes[wrong]))
        chosen: NDArray[np.int64] = wrong[order]
        return chosen


def mistakes_of(shown: Shown, cache: Path, count: int) -> Iterator[OnSet]:
    """The mistakes in a block: first on its ID set, then on every OOD set; at most `count` images of each row.

    Sets without scores are left out.
    """
    for place in (None, *range(len(shown.block.sets))):
        if (found := _on_set(shown, place, cache, count)) is not None:
            yield found


def _on_set(shown: Shown, place: int | None, cache: Path, count: int) -> OnSet | None:
    found: OnSet | None = None
    for number, row in shown.rows():
        record = _record(shown, row.label, place)
        id_scores = None if record is None else scores_of(record, "id_scores", cache)
        scores = id_scores if place is None or record is None else scores_of(record, "ood_scores", cache)
        if record is None or id_scores is None or scores is None:
            continue
        if found is None:
            empty = np.zeros(len(scores))
            found = OnSet(shown, place, record, len(scores), [], empty.astype(np.int64), empty)
        if len(scores) == found.images:  # in one column, rows are scored on the same images
            votes = not record.sanity and not (place is not None and row.cells[shown.block.sets[place].name].seen)
            _add(found, number, scores, tpr_threshold(id_scores), votes, count)
    return found


def _record(shown: Shown, label: str, place: int | None) -> Record | None:
    """The record whose scores are judged; for the ID set, which all OOD sets share, the first one with a result."""
    sets = shown.block.sets if place is None else shown.block.sets[place : place + 1]
    return next((record for ood in sets if (record := shown.record(label, ood.name)) is not None), None)


def _add(found: OnSet, row: int, scores: Floats, threshold: float, votes: bool, count: int) -> None:
    wrong = scores > threshold if found.place is None else scores <= threshold
    order = np.argsort(-scores if found.place is None else scores, kind="stable")
    number = int(wrong.sum())
    best = order[: min(count, number)]
    found.rows.append(Found(row, threshold, number, tuple(best.tolist()), tuple(scores[best].tolist())))
    if votes:
        found.voters += 1
        found.votes += wrong
        ranks = np.empty(len(order))
        ranks[order] = np.arange(len(order), 0, -1)
        found.confidence += ranks / len(order)
