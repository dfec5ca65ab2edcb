"""Reads which detectors may be the best of each column of a run's tables, as stored with the run.

    results/runs/NAME/best.json   a hash of the records that were judged (`inputs`), and one `Judged` per column

Computing it needs the scores and takes about a second (comparisons/best_set.py); the views only read it. A judgement of
records other than those shown is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.store.safe_read import read_json
from oodbench.benchmark.store.schema import Count, convert

NAME = "best.json"

VERSION = "1"
"""Increase it when the judgement of the same records changes."""

METRIC = "auroc"
"""The metric judged here, because DeLong's covariance is fast; others need resampling, see `bench compare`."""


@dataclass(frozen=True)
class Judged:
    """One column: the set of detectors that contains the one with the best AUROC with 95% confidence."""

    id_set: str
    ood_set: str
    seeds: Sequence[int]
    """The seeds that all competing detectors have."""
    compete: Sequence[str]
    """Labels of the competing detectors, as tables show them."""
    may_be_best: Sequence[str]
    """The labels in the set."""
    units: Sequence[Count]
    """Numbers of ID and of OOD units: images, or groups of dependent images."""


@dataclass(frozen=True)
class Stored:
    """`best.json`."""

    inputs: str
    whole: bool
    """Whether the scores of all columns were available."""
    columns: Sequence[Judged]


Marks = Mapping[tuple[str, str], Judged]
"""(ID set, OOD set) -> the judgement of that column."""


def read_best(run: StoredRun) -> Marks:
    """The judgements of a run; empty if it was not judged or its records have changed since."""
    stored = stored_best(run.path)
    if stored is None or stored.inputs != inputs_of(run.records):
        return {}
    return {(one.id_set, one.ood_set): one for one in stored.columns}


def is_outdated(run: StoredRun) -> bool:
    """Whether a judgement exists that is unreadable or of other records than the run's."""
    stored = stored_best(run.path)
    return (run.path / NAME).exists() and (stored is None or stored.inputs != inputs_of(run.records))


def stored_best(folder: Path) -> Stored | None:
    """What the file in a run's folder says, of whatever records; None if there is none that can be read."""
    try:
        return convert(read_json(folder / NAME), Stored)
    except (OSError, ValueError):  # missing, not JSON, or of another version
        return None


def inputs_of(records: Sequence[Record]) -> str:
    """A hash of everything that the judgement of these records depends on."""
    names = ("id_scores", "ood_scores", "checkpoint")
    inputs = [
        [r.id_set, r.ood_set, r.label, r.seed, r.status, r.seen, r.key, r.metrics.get(METRIC)]
        + [r.artifacts.get(name) for name in names]
        for r in records
    ]
    return hashlib.sha256(to_json([VERSION, inputs]).encode(errors="surrogatepass")).hexdigest()
