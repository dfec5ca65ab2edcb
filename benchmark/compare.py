"""A run's detectors against each other: scores are read from the store, every column is judged, then the matrix.

A column is an ID set against an OOD set. In it compete the detectors that have scores from all of its seeds and whose
recipes have not seen outliers of the OOD set's distribution. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark.across import Across, across
from oodbench.benchmark.arrays import stored_scores
from oodbench.benchmark.delong import Placements
from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics import evaluate
from oodbench.benchmark.paired import LEVEL, Flags, Floats, Joint, of_placements, of_resamples
from oodbench.benchmark.records import METRICS, OK, Record, Run
from oodbench.benchmark.resample import Scores, resampled
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.views._summary import LOWER_IS_BETTER

AUROC = "auroc"
RESAMPLES = 2000
FEWEST_IMAGES = 2
"""Of a set: one image has no scatter."""


@dataclass(frozen=True, eq=False)
class Column:
    """One ID set against one OOD set: who competes, and how it came out."""

    id_set: str
    ood_set: str
    source: bool
    """The distribution of the outliers that the suite supplies: left out of the matrix, as of the tables' means."""
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    n_id: int
    n_ood: int
    joint: Joint
    """In the order of `labels`; higher = better, so that a metric of errors has its sign changed."""
    left_out: Mapping[str, str]
    """Label -> why it does not compete here."""

    @property
    def best(self) -> str:
        """The detector with the best value."""
        return self.labels[int(self.joint.values.argmax())]

    @property
    def maybe_best(self) -> frozenset[str]:
        """The detectors that may be the best: the set holds the truly best one with 95% confidence."""
        return frozenset(label for label, stays in zip(self.labels, self.joint.maybe_best, strict=True) if stays)

    def outcome(self, a: str, b: str) -> int | None:
        """1 where `a` is better than `b` at 5%, Holm-adjusted over the column; -1 worse, 0 neither, None not judged."""
        if a not in self.labels or b not in self.labels:
            return None
        i, j = self.labels.index(a), self.labels.index(b)
        return int(np.sign(self.joint.difference[i, j])) if self.joint.holm[i, j] < 1 - LEVEL else 0


@dataclass(frozen=True, eq=False)
class Matrix:
    """The columns in which all of the detectors compete, and the tests over them."""

    labels: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    """(ID set, OOD set)."""
    tests: Across


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that `bench compare` shows."""

    name: str
    metric: str
    labels: tuple[str, ...]
    resamples: int
    columns: tuple[Column, ...]
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
    run: Run, cache: Path, detectors: Sequence[str] = (), metric: str = AUROC, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Judge the run's `detectors` (labels as its tables show them; all if empty) by one metric.

    AUROC is judged by DeLong's covariance, other metrics on `resamples` resamples of the images. The same `seed` gives
    the same numbers. Raises `UserError` for unknown names, for fewer than two detectors, where no column has two with
    scores, and where scores are not in the store.
    """
    name = str(run.info.get("name") or run.path.name)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, "bench compare --help")
    if resamples < 100:
        raise UserError(f"{resamples} resamples are too few to judge a difference; give 100 or more.")
    labels = _labels(run, name, detectors)
    columns, not_judged = [], {}
    for key in dict.fromkeys((record.id_set, record.ood_set) for record in run.records):
        records = [r for r in run.records if (r.id_set, r.ood_set) == key and r.label in labels]
        column = _column(records, labels, cache, metric, resamples, seed)
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


def _column(
    records: Sequence[Record], labels: Sequence[str], cache: Path, metric: str, resamples: int, seed: int
) -> Column | str:
    """One column, or why it cannot be judged."""
    seeds = tuple(sorted({record.seed for record in records if record.status == OK and not record.seen}))
    by_label = {label: {r.seed: r for r in records if r.label == label} for label in labels}
    left_out = {label: why for label, own in by_label.items() if (why := _why_not(own, seeds))}
    inside = tuple(label for label in labels if label not in left_out)
    if len(inside) < 2:
        return "; ".join(f"{label} {why}" for label, why in left_out.items())
    used = [[by_label[label][s] for label in inside] for s in seeds]
    scores = [[_scores(record, cache) for record in own] for own in used]
    first = used[0][0]
    sizes = {(len(id_), len(ood)) for own in scores for id_, ood in own}
    if len(sizes) > 1:
        return f"the detectors were not scored on the same images: {sorted(sizes)} ID and OOD images"
    n_id, n_ood = sizes.pop()
    if min(n_id, n_ood) < FEWEST_IMAGES:
        return f"{n_id} ID and {n_ood} OOD images are too few"
    rng = np.random.default_rng(derive(seed, "compare", metric, first.id_set, first.ood_set))
    joint = _joint(metric, scores, _apart(used), resamples, rng)
    return Column(
        first.id_set, first.ood_set, first.outlier_source, inside, seeds, n_id, n_ood, joint, left_out
    )  # fmt: skip


def _why_not(own: Mapping[int, Record], seeds: Iterable[int]) -> str:
    """Why a detector does not compete in a column; empty if it does."""
    if any(record.seen for record in own.values()):
        return "has seen outliers of this distribution"
    missing = [str(s) for s in seeds if s not in own or own[s].status != OK]
    return f"has no result of seed {', '.join(missing)}" if missing or not own else ""


def _apart(used: Sequence[Sequence[Record]]) -> Flags:
    """Which detectors look at different networks, in any seed."""
    networks = [tuple(own[i].artifacts.get("checkpoint") for own in used) for i in range(len(used[0]))]
    return np.array([[a != b for b in networks] for a in networks])


def _scores(record: Record, cache: Path) -> Scores:
    id_scores, ood_scores = (_array(record, name, cache) for name in ("id_scores", "ood_scores"))
    return id_scores, ood_scores


def _array(record: Record, name: str, cache: Path) -> Floats:
    array = stored_scores(cache, record.artifacts, name)
    if array is not None:
        return array
    raise UserError(
        f"The scores of '{record.label}' on {record.id_set} against {record.ood_set}, seed {record.seed}, are not in "
        f"the cache '{cache}'. Give the command that made the run once more: only what is missing is done."
    )


def _joint(
    metric: str, scores: Sequence[Sequence[Scores]], apart: Flags, resamples: int, rng: np.random.Generator
) -> Joint:
    if metric == AUROC:
        return of_placements([[Placements.of(*pair) for pair in own] for own in scores], apart, rng)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    values = np.array([[evaluate(*pair)[metric] for pair in own] for own in scores])
    return of_resamples(sign * values, sign * resampled((metric,), scores, resamples, rng)[metric], apart)


def _matrix(columns: Sequence[Column], labels: Sequence[str]) -> Matrix | None:
    whole = [column for column in columns if len(column.labels) == len(labels) and not column.source]
    if len(whole) < 2:
        return None
    values = np.array([column.joint.values for column in whole])
    return Matrix(tuple(labels), tuple((c.id_set, c.ood_set) for c in whole), across(values))
