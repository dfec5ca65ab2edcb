"""Which detectors may be the best of each column of a run's tables: judged once, kept with the run, shown by the views.

    results/runs/NAME/best.json   what was judged (`inputs`), and a `Judged` for every column

Views only read it: judging takes the scores, and a second or so. What was judged on other records than those that are
shown is left out. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records import Record, Run, to_json, write_atomically
from oodbench.benchmark.untrusted import misfit, read_json

if TYPE_CHECKING:
    from oodbench.benchmark.columns import Column
    from oodbench.benchmark.scored import ScoredImages

NAME = "best.json"
VERSION = "1"
"""Raise it when a judgement changes."""
METRIC = "auroc"
"""DeLong's covariance takes a moment; other metrics would take resamples, and `bench compare` judges them."""


@dataclass(frozen=True)
class Judged:
    """One column: the set of detectors that holds the truly best one with 95% confidence, by AUROC."""

    id_set: str
    ood_set: str
    seeds: Sequence[int]
    """Those that all of the detectors that compete have."""
    compete: Sequence[str]
    """Labels, as tables show them."""
    may_be_best: Sequence[str]
    """Those of them in the set."""
    units: Sequence[int]
    """How many ID and OOD images, or groups of images that belong together, were drawn at random."""


@dataclass(frozen=True)
class Stored:
    """`best.json`."""

    inputs: str
    whole: bool
    """Whether the scores of all columns were there."""
    columns: Sequence[Judged]


Marks = Mapping[tuple[str, str], Judged]
"""(ID set, OOD set) -> who may be the best there."""


def read_best(run: Run) -> Marks:
    """What is known of the records that the run shows; nothing where it was not judged, or on other records."""
    stored = _stored(run.path)
    if stored is None or stored.inputs != inputs_of(run.records):
        return {}
    return {(one.id_set, one.ood_set): one for one in stored.columns}


def is_of_others(run: Run) -> bool:
    """Whether there is a judgement, of other records than those that the run shows, or one that cannot be read."""
    stored = _stored(run.path)
    return (run.path / NAME).exists() and (stored is None or stored.inputs != inputs_of(run.records))


def _stored(folder: Path) -> Stored | None:
    try:
        content = read_json(folder / NAME)
        if misfit(content, Stored):
            return None
        return Stored(**{**content, "columns": [Judged(**column) for column in content["columns"]]})
    except (OSError, ValueError, TypeError):  # gone, no JSON, or with other names
        return None


def inputs_of(records: Sequence[Record]) -> str:
    """A hash of all that a judgement hangs on."""
    names = ("id_scores", "ood_scores", "checkpoint")
    told = [
        [r.id_set, r.ood_set, r.label, r.seed, r.status, r.seen, r.key, r.metrics.get(METRIC)]
        + [r.artifacts.get(name) for name in names]
        for r in records
    ]
    return hashlib.sha256(to_json([VERSION, told]).encode()).hexdigest()


def judge_best(records: Sequence[Record], cache: Path, images: ScoredImages) -> tuple[list[Judged], bool]:
    """Judge every column by the scores in the store; and whether all of those were there.

    A column with fewer than two detectors that compete is left out.
    """
    from oodbench.benchmark.columns import Column, How, by_column, judged  # SciPy, for which views do not wait

    found, whole = [], True
    for own in by_column(records).values():
        try:
            column = judged(own, list(dict.fromkeys(record.label for record in own)), How(cache, METRIC, images=images))
        except UserError:
            whole = False
            continue
        if isinstance(column, Column):
            found.append(_told(column))
    return found, whole


def _told(column: Column) -> Judged:
    return Judged(
        column.id_set,
        column.ood_set,
        list(column.seeds),
        list(column.labels),
        [label for label in column.labels if label in column.maybe_best],
        [side.count for side in column.units],
    )


def update_best(run: Run, cache: Path, images: ScoredImages) -> None:
    """Judge a run's columns and keep the judgement, unless that has been done on these records."""
    stored, inputs = _stored(run.path), inputs_of(run.records)
    if stored is not None and stored.inputs == inputs and stored.whole:
        return
    columns, whole = judge_best(run.records, cache, images)
    write_atomically(run.path / NAME, to_json(asdict(Stored(inputs, whole, columns))))
