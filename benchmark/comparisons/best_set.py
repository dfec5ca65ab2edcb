"""Determines which detectors may be the best of each column, and stores the result with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.best import METRIC, NAME, Judged, Stored, inputs_of, stored_best
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.atomic import to_json, write_atomically

if TYPE_CHECKING:
    from oodbench.benchmark.comparisons.column import ColumnComparison
    from oodbench.benchmark.comparisons.scored_images import ScoredImages


def judge_best(records: Sequence[Record], cache: Path, images: ScoredImages) -> tuple[list[Judged], bool]:
    """Judge every column by the scores in the store; the flag tells whether the scores of all columns were found.

    A column with fewer than two competing detectors is left out.
    """
    from oodbench.benchmark.comparisons.column import ColumnComparison, ComparisonConfig, by_column, compare_column

    judged, complete = [], True
    config = ComparisonConfig(cache, METRIC, images=images)
    for in_column in by_column(records).values():
        try:
            column = compare_column(in_column, list(dict.fromkeys(record.label for record in in_column)), config)
        except UserError:
            complete = False
            continue
        if isinstance(column, ColumnComparison):
            judged.append(_judgement(column))
    return judged, complete


def _judgement(column: ColumnComparison) -> Judged:
    return Judged(
        column.id_set,
        column.ood_set,
        list(column.seeds),
        list(column.labels),
        [label for label in column.labels if label in column.best_set],
        [side.count for side in column.units],
    )


def update_best(run: StoredRun, cache: Path, images: ScoredImages) -> None:
    """Judge a run's columns and store the result, unless that has already been done for these records."""
    stored, inputs = stored_best(run.path), inputs_of(run.records)
    if stored is not None and stored.inputs == inputs and stored.whole:
        return
    columns, complete = judge_best(run.records, cache, images)
    write_atomically(run.path / NAME, to_json(asdict(Stored(inputs, complete, columns))))
