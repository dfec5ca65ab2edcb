"""A row's AUROCs by class over its seeds, as views show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.store.schema import ByClass, ClassAuroc
from oodbench.benchmark.views.summary import Stat, stat_of

CellName = tuple[str, str, str]
"""(ID set, label, OOD set)."""


@dataclass(frozen=True, eq=False)
class ShownClass:
    """One class over the seeds of a row."""

    name: str
    """The name to show: WordNet identifiers of ImageNet-1k stand with theirs."""
    images: int
    stat: Stat
    """Its AUROC, with the interval whose ends are averaged over seeds."""

    @property
    def interval(self) -> tuple[float, float]:
        """95% over draws of test images."""
        return self.stat.interval or (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class ShownClasses:
    """The AUROCs by class of a row on one OOD set; lists are empty where labels are not known."""

    id: Sequence[ShownClass]
    ood: Sequence[ShownClass]
    pairs: NDArray[np.float64]
    """(ID classes, OOD classes), means over seeds; (0, 0) without."""
    seeds: int

    @property
    def lowest_pairs(self) -> list[tuple[int, int]]:
        """Positions in `id` and `ood`, lowest AUROC first."""
        order = np.argsort(self.pairs, axis=None, kind="stable")
        return [(int(k) // self.pairs.shape[1], int(k) % self.pairs.shape[1]) for k in order]

    def lines(self) -> Iterator[tuple[object, ...]]:
        """One line per class, then per pair: ID class, OOD class, AUROC, and for classes images and interval."""
        for one in self.id:
            yield one.name, "", one.stat.mean, one.images, *one.interval
        for one in self.ood:
            yield "", one.name, one.stat.mean, one.images, *one.interval
        for one, row in zip(self.id, self.pairs, strict=False):
            for other, value in zip(self.ood, row, strict=True):
                yield one.name, other.name, float(value), None, None, None


def lowest(classes: Sequence[ShownClass]) -> ShownClass | None:
    """The class with the lowest AUROC; None without classes."""
    return min(classes, key=lambda one: one.stat.mean, default=None)


def shown_classes(records: Sequence[Record]) -> ShownClasses | None:
    """The means over seeds of one row's records on one OOD set; None if none has AUROCs by class.

    Records count that have the classes of the first one, with as many images.
    """
    found = [record.by_class for record in records if record.status == OK and record.by_class]
    alike = [one for one in found if _same(one) == _same(found[0])]
    if not alike:
        return None
    pairs = np.mean([np.asarray(one.pairs, dtype=np.float64).reshape(_shape(one)) for one in alike], axis=0)
    of_id, of_ood = (_over_seeds([getattr(one, side) for one in alike]) for side in ("id", "ood"))
    return ShownClasses(of_id, of_ood, pairs, len(alike))


def shown_by_cell(records: Sequence[Record]) -> Mapping[CellName, ShownClasses]:
    """`shown_classes` of every row and OOD set that have any, in order of appearance."""
    cells: dict[CellName, list[Record]] = {}
    for record in records:
        cells.setdefault((record.id_set, record.label, record.ood_set), []).append(record)
    found = {cell: shown_classes(of_cell) for cell, of_cell in cells.items()}
    return {cell: one for cell, one in found.items() if one is not None}


def _same(one: ByClass) -> object:
    return _shape(one), [[(c.name, c.images) for c in classes] for classes in (one.id, one.ood)]


def _shape(one: ByClass) -> tuple[int, int]:
    return (len(one.id), len(one.ood)) if one.pairs else (0, 0)


def _over_seeds(seeds: Sequence[Sequence[ClassAuroc]]) -> list[ShownClass]:
    return [_one_class(of_class) for of_class in zip(*seeds, strict=True)]


def _one_class(seeds: Sequence[ClassAuroc]) -> ShownClass:
    found = stat_of([one.auroc for one in seeds])
    assert found is not None
    ends = float(np.mean([one.low for one in seeds])), float(np.mean([one.high for one in seeds]))
    return ShownClass(named_class(seeds[0].name), seeds[0].images, Stat(found.mean, found.std, found.n, ends))
