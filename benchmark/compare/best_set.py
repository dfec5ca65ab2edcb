"""Judges which detectors may be the best of each column, and keeps the judgement with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.best import METRIC, NAME, Judged, Stored, _stored, inputs_of
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import Run
from oodbench.benchmark.store.atomic import to_json, write_atomically

if TYPE_CHECKING:
    from oodbench.benchmark.compare.column import ColumnComparison
    from oodbench.benchmark.compare.scored_images import ScoredImages


def judge_best(records: Sequence[Record], cache: Path, images: ScoredImages) -> tuple[list[Judged], bool]:
    """Judge every column by the scores in the store; and whether all of those were there.

    A column with fewer than two detectors that compete is left out.
    """
    from oodbench.benchmark.compare.column import (  # SciPy, for which views do not wait
        ColumnComparison,
        ComparisonConfig,
        by_column,
        compare_column,
    )

    found, whole = [], True
    for own in by_column(records).values():
        try:
            column = compare_column(
                own, list(dict.fromkeys(record.label for record in own)), ComparisonConfig(cache, METRIC, images=images)
            )
        except UserError:
            whole = False
            continue
        if isinstance(column, ColumnComparison):
            found.append(_judgement(column))
    return found, whole


def _judgement(column: ColumnComparison) -> Judged:
    return Judged(
        column.id_set,
        column.ood_set,
        list(column.seeds),
        list(column.labels),
        [label for label in column.labels if label in column.best_set],
        [side.count for side in column.units],
    )


def update_best(run: Run, cache: Path, images: ScoredImages) -> None:
    """Judge a run's columns and keep the judgement, unless that has been done on these records."""
    stored, inputs = _stored(run.path), inputs_of(run.records)
    if stored is not None and stored.inputs == inputs and stored.whole:
        return
    columns, whole = judge_best(run.records, cache, images)
    write_atomically(run.path / NAME, to_json(asdict(Stored(inputs, whole, columns))))
