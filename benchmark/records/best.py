"""Which detectors may be the best of each column of a run's tables: judged once, kept with the run, shown by the views.

    results/runs/NAME/best.json   what was judged (`inputs`), and a `Judged` for every column

Views only read it: judging takes the scores, and a second or so. What was judged on other records than those that are
shown is left out. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import Run
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.store.safe_read import read_json
from oodbench.benchmark.store.schema import Count, convert

if TYPE_CHECKING:
    pass


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
    units: Sequence[Count]
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


def is_outdated(run: Run) -> bool:
    """Whether there is a judgement, of other records than those that the run shows, or one that cannot be read."""
    stored = _stored(run.path)
    return (run.path / NAME).exists() and (stored is None or stored.inputs != inputs_of(run.records))


def _stored(folder: Path) -> Stored | None:
    try:
        return convert(read_json(folder / NAME), Stored)
    except (OSError, ValueError):  # absent, not JSON, or of another version
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
