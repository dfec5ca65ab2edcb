"""AUROC by class for a report: the lists of classes once, and each cell's numbers by their positions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.views.by_class import ShownClass, shown_classes

COLUMNS, ROWS = 26, 130
"""Classes that a heat map has across and down at most: more could not be read. Of a larger matrix, the lowest pairs are
listed."""

LOWEST = 30
"""Pairs in that list."""

DECIMALS = 4
"""Of fractions."""


class ClassList(msgspec.Struct, frozen=True):
    """The classes of a set of which test images were scored."""

    names: list[str]
    images: list[int]


class ClassNumbers(msgspec.Struct, frozen=True):
    """A cell's AUROCs by class, means over seeds."""

    id: int | None
    """The position of the ID classes in `ReportData.class_lists`; None where their labels are not known."""
    ood: int | None
    of_id: list[list[float]]
    """[AUROC, low, high] of each ID class against all OOD images."""
    of_ood: list[list[float]]
    """The same of each OOD class against all ID images."""
    pairs: list[list[float]]
    """AUROC of each ID class (rows) against each OOD class; empty if not known, or if it would be too large to read."""
    lowest: list[list[float]]
    """[position of the ID class, of the OOD class, AUROC] of the lowest pairs, where `pairs` would be too large."""


class Classes:
    """The lists of classes as cells are added."""

    def __init__(self) -> None:
        self.lists: list[ClassList] = []
        self._places: dict[tuple[tuple[str, int], ...], int] = {}

    def numbers(self, records: Sequence[Record]) -> ClassNumbers | None:
        """Those of a row's records on one OOD set; None without."""
        found = shown_classes(records)
        if found is None:
            return None
        fits = max(found.pairs.shape) <= ROWS and min(found.pairs.shape) <= COLUMNS
        lowest = [] if fits else [[row, at, _rounded(found.pairs[row, at])] for row, at in found.lowest_pairs[:LOWEST]]
        return ClassNumbers(
            id=self._place(found.id),
            ood=self._place(found.ood),
            of_id=[_ends(one) for one in found.id],
            of_ood=[_ends(one) for one in found.ood],
            pairs=[[_rounded(value) for value in row] for row in found.pairs.tolist()] if fits else [],
            lowest=lowest,
        )

    def _place(self, classes: Sequence[ShownClass]) -> int | None:
        if not classes:
            return None
        key = tuple((one.name, one.images) for one in classes)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(ClassList([visible(name) for name, _ in key], [images for _, images in key]))
        return self._places[key]


def _ends(one: ShownClass) -> list[float]:
    return [_rounded(value) for value in (one.stat.mean, *one.interval)]


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)
