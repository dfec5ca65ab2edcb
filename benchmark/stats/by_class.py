"""AUROC by class: of every ID class, of every OOD class, and of every pair of both.

A cell's AUROC is the mean over all pairs of an ID and an OOD image. Which classes pull it down? Each number here is the
AUROC of some classes' images alone, in [0, 1], higher = better, ties counting half, as in `metrics.exact`. An interval
covers draws of test images of its own class; the lowest of many classes is low partly by chance, which no interval of a
single class allows for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.metrics.exact import checked_scores
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.intervals import auroc_interval
from oodbench.benchmark.store.schema import ByClass, ClassAuroc

MOST_PAIRS = 20_000
"""Pairs of classes that a record holds at most, such as 100 x 200; larger matrices are left out."""

FEWEST = 2
"""Classes with images that a set needs: the AUROC of a single class is that of the set."""

Groups = NDArray[np.integer] | None


@dataclass(frozen=True, eq=False)
class Labelled:
    """The scores of a set's images with their labels."""

    scores: NDArray[Any]
    """(N,), higher = more OOD."""
    labels: NDArray[np.integer] | None = None
    """(N,), positions in `names`; None where they are not known."""
    names: Sequence[str] = ()
    groups: Groups = None
    """(N,): equal for images that depend on each other."""

    @property
    def present(self) -> NDArray[np.intp]:
        """The labels that images have, ascending; empty for fewer than `FEWEST`."""
        found = np.unique(self.labels) if self.labels is not None else np.empty(0)
        return found.astype(np.intp) if len(found) >= FEWEST else np.empty(0, dtype=np.intp)


def by_class(id_set: Labelled, ood_set: Labelled, most_pairs: int = MOST_PAIRS) -> ByClass:
    """The AUROCs of two sets by class, with intervals; `most_pairs`: of a larger matrix none is returned.

    Both sets are sorted once; a class then costs a running sum over the distinct scores. AUROCs are integers until one
    last division. Raises `MetricError` as `metrics.exact` does.
    """
    sides = _Sides.of(id_set, ood_set)
    classes = id_set.present, ood_set.present
    labels = ood_set.labels if len(classes[1]) else None
    column = None if labels is None else np.searchsorted(classes[1], labels)
    of_id, of_ood, pairs = [], [], []
    for label in classes[0]:
        rows = np.flatnonzero(id_set.labels == label)
        twice = sides.twice_below(0, rows)[sides.places[1]]  # ID images of the class below each OOD image
        of_id.append(_class_auroc(id_set, label, sides, rows, None, twice))
        if column is not None and len(classes[0]) * len(classes[1]) <= most_pairs:
            sizes = np.bincount(column)
            pairs.append(tuple((np.bincount(column, twice) / (2 * len(rows) * sizes)).tolist()))
    for label in classes[1]:
        rows = np.flatnonzero(ood_set.labels == label)
        twice = (
            2 * len(rows) - sides.twice_below(1, rows)[sides.places[0]]
        )  # OOD images of the class above each ID image
        of_ood.append(_class_auroc(ood_set, label, sides, None, rows, twice))
    return ByClass(tuple(of_id), tuple(of_ood), tuple(pairs))


@dataclass(frozen=True, eq=False)
class _Sides:
    """The ID and the OOD set, sorted together."""

    sets: tuple[Labelled, Labelled]
    places: tuple[NDArray[np.intp], NDArray[np.intp]]
    """(N,), (M,): the place of each image among the distinct scores of both sets."""
    distinct: int
    placed: Placements
    """Every image against all of the other set."""

    @classmethod
    def of(cls, id_set: Labelled, ood_set: Labelled) -> _Sides:
        arrays = checked_scores(id_set.scores, "id_scores"), checked_scores(ood_set.scores, "ood_scores")
        values, place = np.unique(np.concatenate(arrays), return_inverse=True)
        places = place.reshape(-1)[: len(arrays[0])], place.reshape(-1)[len(arrays[0]) :]
        return cls((id_set, ood_set), places, len(values), Placements.of(*places))

    def twice_below(self, side: int, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """(K,): for each distinct score, twice how many of these images are below it, plus how many are at it."""
        own = np.bincount(self.places[side][rows], minlength=self.distinct)
        both: NDArray[np.intp] = 2 * own.cumsum() - own
        return both


def _class_auroc(
    own: Labelled,
    label: int,
    sides: _Sides,
    id_rows: NDArray[np.intp] | None,
    ood_rows: NDArray[np.intp] | None,
    twice: NDArray[np.intp],
) -> ClassAuroc:
    """One class against the other set, whose images have `twice`: twice how many of the class they are in order with.

    `id_rows` or `ood_rows` are the images of the class, None for all of the other set.
    """
    rows = id_rows if id_rows is not None else ood_rows
    count = 0 if rows is None else len(rows)
    share = twice / (2 * count)
    value = int(twice.sum()) / (2 * count * len(twice))
    placed = sides.placed
    of_id, of_ood = (placed.of_id[id_rows], share) if id_rows is not None else (share, placed.of_ood[ood_rows])
    groups = (_rows(sides.sets[0].groups, id_rows), _rows(sides.sets[1].groups, ood_rows))
    ends = auroc_interval(value, Placements(of_id, of_ood), *groups)
    return ClassAuroc(str(own.names[label]), count, value, *ends)


def _rows(groups: Groups, rows: NDArray[np.intp] | None) -> Groups:
    return groups if groups is None or rows is None else groups[rows]
