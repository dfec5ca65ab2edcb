"""Compares a run's detectors: first in every column of its tables (`column`), then over the matrix of all columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark.comparisons.column import (
    AUROC,
    RESAMPLES,
    ColumnComparison,
    ComparisonConfig,
    by_column,
    compare_column,
)
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics.names import LOWER_IS_BETTER, METRICS
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stats.paired_tests import Floats
from oodbench.benchmark.stats.rank_tests import RankTests, rank_tests


@dataclass(frozen=True, eq=False)
class Matrix:
    """The columns in which all detectors compete, and the rank tests over them."""

    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    """(ID set, OOD set)."""
    tests: RankTests


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that `bench compare` shows."""

    name: str
    metric: str
    labels: tuple[str, ...]
    resamples: int
    columns: tuple[ColumnComparison, ...]
    matrix: Matrix | None
    """None if fewer than two columns have all detectors."""
    not_judged: Mapping[tuple[str, str], str]
    """(ID set, OOD set) -> why the column cannot be judged."""
    remarks: tuple[str, ...] = ()
    """Sentences on missing cells, and on what several runs side by side do not share."""

    def shown(self, values: Floats) -> Floats:
        """Values or differences with the metric's own sign, which is flipped internally where lower is better."""
        return values * (-1 if self.metric in LOWER_IS_BETTER else 1) + 0.0  # + 0.0 turns -0.0 into 0.0

    def counts(self, a: str, b: str) -> tuple[int, int, int]:
        """Number of columns in which `a` wins against `b`, ties with it, and loses."""
        outcomes = [outcome for column in self.columns if (outcome := column.outcome(a, b)) is not None]
        return outcomes.count(1), outcomes.count(0), outcomes.count(-1)


def compare(
    run: StoredRun,
    cache: Path,
    detectors: Sequence[str] = (),
    metric: str = AUROC,
    resamples: int = RESAMPLES,
    seed: int = 0,
    images: ScoredImages | None = None,
) -> Comparison:
    """Compare the run's `detectors` by one metric: labels as its tables show them, or names without what tells several
    rows apart, which stand for all of these; all if empty.

    AUROC is judged by DeLong's covariance, AUPR by the influence of each image on it, other metrics by a bootstrap of
    `resamples` resamples of the images. The same `seed` gives the same numbers. `images` is used to look up which
    images belong together; without it all count as independent. Raises `UserError` for unknown names, for fewer than
    two detectors, if no column has two with scores, and if scores are not in the store.
    """
    name = run.name
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, "bench compare --help")
    if resamples < 100:
        raise UserError(f"{resamples} resamples are too few to judge a difference; give 100 or more.")
    labels = _labels(run, name, detectors)
    config = ComparisonConfig(cache, metric, resamples, seed, images)
    columns, not_judged = [], {}
    for key, records in by_column(run.records).items():
        column = compare_column([record for record in records if record.label in labels], labels, config)
        if isinstance(column, str):
            not_judged[key] = column
        else:
            columns.append(column)
    remarks = (*run.unfinished, *run.info.get("beside", ()))
    if not columns:
        reasons = "; ".join(f"{' against '.join(key)}: {reason}" for key, reason in not_judged.items())
        raise UserError(f"No column of run '{name}' has two of these detectors that can be compared. {reasons}.")
    return Comparison(name, metric, labels, resamples, tuple(columns), matrix_of(columns, labels), not_judged, remarks)


def _labels(run: StoredRun, name: str, detectors: Sequence[str]) -> tuple[str, ...]:
    known = list(dict.fromkeys(record.label for record in run.records))
    own: dict[str, list[str]] = {}
    for record in run.records:
        own.setdefault(own_name(record, "label"), []).append(record.label)
    asked = [found for one in detectors for found in ([one] if one in known else own.get(one, [one]))]
    chosen = list(dict.fromkeys(asked)) or known
    for label in chosen:
        if label not in known:
            raise unknown(f"detector of run '{name}'", label, known, f"bench table {run.typed}")
    if len(chosen) < 2:
        source = f"run '{name}' has" if not detectors else "--detectors names"
        raise UserError(f"A comparison needs two detectors or more; {source} only {', '.join(chosen) or 'none'}.")
    return tuple(chosen)


def matrix_of(columns: Sequence[ColumnComparison], labels: Sequence[str]) -> Matrix | None:
    """The matrix of the columns in which all detectors compete; None if there are fewer than two."""
    complete = [column for column in columns if len(column.labels) == len(labels) and not column.source]
    if len(complete) < 2:
        return None
    values = np.array([column.estimate.values for column in complete])
    return Matrix(tuple(labels), tuple((c.id_set, c.ood_set) for c in complete), rank_tests(values))
