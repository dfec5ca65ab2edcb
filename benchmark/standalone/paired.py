"""`compare`: paired tests of several detectors on the same images, from arrays of scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.comparisons.column import AUROC, RESAMPLES, ColumnComparison, estimated, too_few
from oodbench.benchmark.comparisons.compare import Comparison, matrix_of
from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.standalone.arrays import Given, dependent, groups_by_set
from oodbench.benchmark.standalone.evaluation import Evaluation
from oodbench.benchmark.standalone.html import html_table
from oodbench.benchmark.standalone.latex import latex_line, latex_table
from oodbench.benchmark.stats.clustered import ResamplingUnits
from oodbench.benchmark.stats.seeds import derive
from oodbench.benchmark.views.comparison.layout import metric_title, p_text
from oodbench.benchmark.views.marks import MAYBE, percent

if TYPE_CHECKING:
    import pandas as pd

Scores = Evaluation | tuple[Given, Given | Mapping[str, Given]]
"""A detector's scores: an evaluation, or a pair of ID scores and OOD scores, which may be several sets by name."""

PAIR_HEADS = ("Pair", "OOD set", "difference", "95% interval", "p", "p (Holm)")


class Pair(NamedTuple):
    """Two detectors on one OOD set."""

    ood_set: str
    a: str
    b: str
    value_a: float
    """The metric of `a`, in [0, 1]."""
    value_b: float
    difference: float
    """`value_a` - `value_b`."""
    low: float
    """Lower end of the 95% interval of the difference."""
    high: float
    p: float
    """Two-sided p of the difference."""
    p_holm: float
    """p adjusted by Holm's method over all pairs on this OOD set."""
    outcome: str
    """"win" or "loss" of `a` at 5% after Holm's adjustment, else "tie"."""


class PairedComparison(Comparison):
    """Paired tests of detectors on the same images, as `bench compare` makes them of a run.

    Attributes:
        metric: What was compared.
        labels: The detectors.
        columns: The comparison on each OOD set, with the joint estimate behind it.
    """

    @property
    def pairs(self) -> list[Pair]:
        """Every pair of detectors on every OOD set."""
        return list(self._pairs())

    def _pairs(self) -> Iterator[Pair]:
        for column in self.columns:
            estimate, values = column.estimate, self.shown(column.estimate.values)
            for i, j in combinations(range(len(column.labels)), 2):
                a, b = column.labels[i], column.labels[j]
                difference, half = values[i] - values[j], estimate.half_width[i, j]
                yield Pair(
                    ood_set=column.ood_set,
                    a=a,
                    b=b,
                    value_a=float(values[i]),
                    value_b=float(values[j]),
                    difference=float(difference),
                    low=float(difference - half),
                    high=float(difference + half),
                    p=float(estimate.p[i, j]),
                    p_holm=float(estimate.holm[i, j]),
                    outcome={1: "win", 0: "tie", -1: "loss"}[column.outcome(a, b) or 0],
                )

    @property
    def best(self) -> dict[str, frozenset[str]]:
        """OOD set -> the detectors that may be the best: with 95% confidence, the truly best one is among them."""
        return {column.ood_set: column.best_set for column in self.columns}

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row per OOD set and pair; the columns are the fields of a pair, fractions."""
        import pandas as pd

        return pd.DataFrame(self.pairs, columns=list(Pair._fields))

    def to_latex(self) -> str:
        """A LaTeX table of the pairs, in points, for the package booktabs."""
        blocks = [
            [latex_line(f"{pair.a} - {pair.b}", _cells(pair, "$<$ ")) for pair in self.pairs if pair.ood_set == ood_set]
            for ood_set in dict.fromkeys(column.ood_set for column in self.columns)
        ]
        return latex_table(PAIR_HEADS, blocks)

    def __repr__(self) -> str:
        best = "; ".join(f"{ood_set}: {', '.join(sorted(labels))}" for ood_set, labels in self.best.items())
        return f"<PairedComparison of {metric_title(self.metric)}: {', '.join(self.labels)}; may be best on {best}>"

    def _repr_html_(self) -> str:
        heads = ("detector", *(column.ood_set for column in self.columns))
        rows = [(label, *(self._value(column, label) for column in self.columns)) for label in self.labels]
        values = html_table(f"{metric_title(self.metric)} of the same images", heads, rows)
        notes = (
            f"Percent; {MAYBE} may be the best: the set with this mark contains the truly best one of its column with "
            "95% confidence.",
            "Differences in points, with paired tests over draws of test images; p adjusted by Holm's method over the "
            "pairs on one OOD set.",
        )
        pairs = [(f"{pair.a} - {pair.b}", *_cells(pair, "< ")) for pair in self.pairs]
        return values + html_table("", PAIR_HEADS, pairs, notes)

    def _value(self, column: ColumnComparison, label: str) -> str:
        value = float(self.shown(column.estimate.values)[column.labels.index(label)])
        return percent(value) + (MAYBE if label in column.best_set else "")


def _cells(pair: Pair, less: str) -> list[str]:
    """A pair's numbers as printed, after its name."""
    interval = f"[{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]"
    p = (p_text(value).replace("< ", less) for value in (pair.p, pair.p_holm))
    return [pair.ood_set, f"{100 * pair.difference:+.1f}", interval, *p]


def compare(
    detectors: Mapping[str, Scores],
    *,
    metric: str = AUROC,
    id_groups: Given | None = None,
    ood_groups: Mapping[str, Given] | Given | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare detectors that scored the same images in the same order, by paired tests.

    AUROC is judged by DeLong's covariance, AUPR by the influence of each image on it, other metrics by a bootstrap of
    the images; p is adjusted by Holm's method over the pairs on one OOD set. With several OOD sets there are rank
    tests over them as well (`matrix`).

    Args:
        detectors: Name -> its scores: a pair (ID scores, OOD scores), where OOD scores are an array or several by
            name, or an `Evaluation`.
        metric: One of the metrics of `evaluate`.
        id_groups: Integers (N,), equal for ID images that depend on each other; None: those of the evaluations, or all
            independent.
        ood_groups: The same for the OOD images, (M,), or by name of the set.
        resamples: Number of resamples where a bootstrap is used.
        seed: Seed of resamples and simulated errors.

    Returns:
        The comparison, with `to_frame`, `to_latex`, `pairs` and `best`.

    Raises:
        UserError: Fewer than two detectors, other sets, groups or numbers of images, an unknown metric or set, too few
            images.
        MetricError: Scores are not one finite number per image.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, "bench compare --help")
    if len(detectors) < 2:
        raise UserError(f"A comparison needs two detectors or more, got {len(detectors)}.")
    if resamples < 100:
        raise UserError(f"{resamples} resamples are too few to judge a difference; give 100 or more.")
    evaluations = {
        name: scores if isinstance(scores, Evaluation) else Evaluation(*_pair(name, scores), name=name)
        for name, scores in detectors.items()
    }
    _refuse_other_images(evaluations)
    labels, first = tuple(evaluations), next(iter(evaluations.values()))
    of_id, of_ood = _groups(evaluations, id_groups, ood_groups)
    columns, not_judged = [], {}
    for ood_set in first.sets:
        sides = (
            ResamplingUnits.of(len(first.id_scores), of_id),
            ResamplingUnits.of(len(first.ood_scores[ood_set]), of_ood.get(ood_set)),
        )
        if why := too_few(metric, sides):
            not_judged["ID", ood_set] = why
            continue
        scores = [[(one.id_scores, one.ood_scores[ood_set]) for one in evaluations.values()]]
        rng = np.random.default_rng(derive(seed, "compare", metric, "ID", ood_set))
        same_network = np.zeros((len(labels), len(labels)), bool)  # with one seed, networks are not a sample
        estimate = estimated(metric, scores, same_network, sides, rng, resamples)
        n_id, n_ood = len(first.id_scores), len(first.ood_scores[ood_set])
        columns.append(ColumnComparison("ID", ood_set, False, labels, (0,), n_id, n_ood, estimate, {}, sides))
    if not columns:
        raise UserError("; ".join(f"{ood_set}: {why}" for (_, ood_set), why in not_judged.items()) + ".")
    return PairedComparison("arrays", metric, labels, resamples, tuple(columns), matrix_of(columns, labels), not_judged)


def _pair(name: str, scores: Any) -> tuple[Given, Given | Mapping[str, Given]]:
    if not isinstance(scores, tuple | list) or len(scores) != 2:
        raise UserError(f"'{name}' is not a pair; expected (ID scores, OOD scores), or an Evaluation.")
    id_scores, ood_scores = scores
    return id_scores, ood_scores


def _groups(
    evaluations: Mapping[str, Evaluation], id_groups: Given | None, ood_groups: Mapping[str, Given] | Given | None
) -> tuple[NDArray[np.integer] | None, dict[str, NDArray[np.integer]]]:
    """Groups of the ID images, and by name those of OOD sets: those given here, or else those of the evaluations.

    Raises `UserError`.
    """
    first = next(iter(evaluations.values()))
    if id_groups is None:
        of_id = _agreed("ID", {name: one.id_groups for name, one in evaluations.items()})
    else:
        of_id = dependent(id_groups, "id_groups", len(first.id_scores))
    if ood_groups is not None:
        return of_id, groups_by_set(ood_groups, {key: len(scores) for key, scores in first.ood_scores.items()})
    found = {
        key: _agreed(f"'{key}'", {name: one.ood_groups.get(key) for name, one in evaluations.items()})
        for key in first.sets
    }
    return of_id, {key: groups for key, groups in found.items() if groups is not None}


def _agreed(what: str, groups: Mapping[str, NDArray[np.integer] | None]) -> NDArray[np.integer] | None:
    """The groups of the detectors that have any; None if none has. Raises `UserError` if they differ."""
    known = [(name, array) for name, array in groups.items() if array is not None]
    for name, array in known[1:]:
        if not np.array_equal(array, known[0][1]):
            raise UserError(
                f"'{known[0][0]}' and '{name}' have different groups of {what} images; a paired test needs scores of "
                "the same images, in the same order."
            )
    return known[0][1] if known else None


def _refuse_other_images(evaluations: Mapping[str, Evaluation]) -> None:
    """Raise `UserError` unless all detectors have the same sets with the same numbers of images."""
    (name, first), *others = evaluations.items()
    for other, one in others:
        if set(one.sets) != set(first.sets):
            raise UserError(
                f"'{name}' has the OOD sets {', '.join(first.sets)}, and '{other}' {', '.join(one.sets)}; expected the "
                "same."
            )
        for what, count, theirs in (
            ("ID", len(first.id_scores), len(one.id_scores)),
            *((key, len(first.ood_scores[key]), len(one.ood_scores[key])) for key in first.sets),
        ):
            if count != theirs:
                raise UserError(
                    f"'{name}' has {count:,} {what} scores and '{other}' {theirs:,}; a paired test needs scores of the "
                    "same images, in the same order."
                )
