"""A run's detectors against each other: every column of its tables is judged (`columns`), then the matrix. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark.compare.column import (
    AUROC,
    RESAMPLES,
    ColumnComparison,
    ComparisonConfig,
    by_column,
    compare_column,
)
from oodbench.benchmark.compare.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics.names import LOWER_IS_BETTER, METRICS
from oodbench.benchmark.records.run import Run
from oodbench.benchmark.stats.paired_tests import Floats
from oodbench.benchmark.stats.rank_tests import RankTests, rank_tests


@dataclass(frozen=True, eq=False)
class Matrix:
    """The columns in which all of the detectors compete, and the tests over them."""

    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    """(ID set, OOD set)."""
    tests: RankTests


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that `bench compare` shows."""

    name: str
    metric: str
    labels: tuple[str, ...]
    resamples: int
    columns: tuple[ColumnComparison, ...]
    matrix: Matrix | None
    """None where fewer than two columns have all detectors."""
    not_judged: Mapping[tuple[str, str], str]
    """(ID set, OOD set) -> why the column cannot be judged."""

    def shown(self, values: Floats) -> Floats:
        """Values or differences as the metric has them: those of a metric of errors were turned round to compare."""
        return values * (-1 if self.metric in LOWER_IS_BETTER else 1) + 0.0  # + 0.0 makes a zero of minus zero

    def counts(self, a: str, b: str) -> tuple[int, int, int]:
        """In how many columns `a` wins against `b`, neither does, and `a` loses."""
        found = [outcome for column in self.columns if (outcome := column.outcome(a, b)) is not None]
        return found.count(1), found.count(0), found.count(-1)


def compare(
    run: Run,
    cache: Path,
    detectors: Sequence[str] = (),
    metric: str = AUROC,
    resamples: int = RESAMPLES,
    seed: int = 0,
    images: ScoredImages | None = None,
) -> Comparison:
    """Judge the run's `detectors` (labels as its tables show them; all if empty) by one metric.

    AUROC is judged by DeLong's covariance, AUPR by what each image adds to it, other metrics on `resamples` resamples
    of the images. The same `seed` gives the same numbers. `images` tell which of them belong together; without them all
    count as independent. Raises `UserError` for unknown names, for fewer than two detectors, where no column has two
    with scores, and where scores are not in the store.
    """
    name = str(run.info.get("name") or run.path.name)
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
    if not columns:
        told = "; ".join(f"{' against '.join(key)}: {why}" for key, why in not_judged.items())
        raise UserError(f"In no column of run '{name}' can two of these detectors be compared. {told}.")
    return Comparison(name, metric, labels, resamples, tuple(columns), _matrix(columns, labels), not_judged)


def _labels(run: Run, name: str, detectors: Sequence[str]) -> tuple[str, ...]:
    known = list(dict.fromkeys(record.label for record in run.records))
    chosen = list(dict.fromkeys(detectors)) or known
    for label in chosen:
        if label not in known:
            raise unknown(f"detector of run '{name}'", label, known, f"bench table {name}")
    if len(chosen) < 2:
        held = f"run '{name}' shows" if not detectors else "--detectors names"
        raise UserError(f"A comparison needs two detectors or more; {held} only {', '.join(chosen) or 'none'}.")
    return tuple(chosen)


def _matrix(columns: Sequence[ColumnComparison], labels: Sequence[str]) -> Matrix | None:
    whole = [column for column in columns if len(column.labels) == len(labels) and not column.source]
    if len(whole) < 2:
        return None
    values = np.array([column.estimate.values for column in whole])
    return Matrix(tuple(labels), tuple((c.id_set, c.ood_set) for c in whole), rank_tests(values))
