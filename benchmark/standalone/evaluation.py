"""`Evaluation`: the metrics of one detector's scores with their intervals, as numbers, tables and plots."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics.exact import checked_scores, evaluate
from oodbench.benchmark.metrics.extended import ScoredClassification, extended
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.standalone.arrays import Given, as_array, dependent, groups_by_set
from oodbench.benchmark.standalone.html import html_table
from oodbench.benchmark.standalone.labels import CLASS_COLUMNS, Labels, class_lines
from oodbench.benchmark.standalone.latex import latex_line, latex_number, latex_table
from oodbench.benchmark.stats.intervals import Interval, intervals_around
from oodbench.benchmark.store.schema import ByClass
from oodbench.benchmark.views.comparison.layout import metric_title
from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.summary import EVERY, GROUPS
from oodbench.benchmark.views.tables.layout import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

ONLY = "OOD"
"""The name of the OOD set where a single array is given."""

NOTE = "Percent, with 95% intervals over draws of {}. Higher scores are more OOD."


class Evaluation:
    """The metrics of scores on an ID set and one or several OOD sets, with 95% intervals.

    A score is higher for images that look more OOD. Metrics are those of a run: exact, fractions in [0, 1].

    Attributes:
        name: The detector's name in tables.
        id_scores: (N,).
        ood_scores: Name of an OOD set -> (M,).
        groups: Name of an OOD set -> "near" or "far", where it is in one.
        id_groups: Integers (N,), equal for ID images that depend on each other; None if all are independent.
        ood_groups: Name of an OOD set -> the same for its images, (M,), for sets whose images depend on each other.
        labels: The classes of the images, where they are given.

    Example:
        >>> from oodbench.benchmark import Evaluation
        >>> evaluation = Evaluation([0.1, 0.2, 0.6], [0.5, 0.8, 0.9, 0.7])
        >>> round(evaluation.auroc, 3)
        0.917
    """

    def __init__(
        self,
        id_scores: Given,
        ood_scores: Given | Mapping[str, Given],
        groups: Mapping[str, str] | None = None,
        *,
        name: str = "",
        id_groups: Given | None = None,
        ood_groups: Given | Mapping[str, Given] | None = None,
        id_labels: Given | None = None,
        ood_labels: Given | Mapping[str, Given] | None = None,
        id_logits: Given | None = None,
    ) -> None:
        """Check the scores.

        Args:
            id_scores: Scores of the ID test images, (N,), NumPy, PyTorch or a list.
            ood_scores: Scores of the OOD images, (M,), or several sets by name.
            groups: OOD set -> "near" or "far", for means over either.
            name: The detector's name in tables.
            id_groups: Integers (N,), equal for ID images that depend on each other, such as crops of one photograph;
                intervals then count the groups, not the images. None if all are independent.
            ood_groups: The same for the OOD images, (M,), or by name of the set; sets left out have independent images.
            id_labels: Classes of the ID images, (N,), numbers or names, for `classes`.
            ood_labels: The same for the OOD images, (M,), or by name of the set.
            id_logits: Logits of the ID images, (N, K), for `extended`; `id_labels` are then numbers from 0 to K - 1.

        Raises:
            MetricError: Scores are not one finite number per image.
            UserError: No OOD set, an unknown set or group, `id_groups` or `ood_groups` without an integer per image, or
                labels without a class per image.
        """
        sets = ood_scores if isinstance(ood_scores, Mapping) else {ONLY: ood_scores}
        if not sets:
            raise UserError("ood_scores is empty; expected an array, or a name and an array for each OOD set.")
        self.name = name
        self.id_scores = _scores(id_scores, "id_scores")
        self.ood_scores = {
            str(key): _scores(values, f"ood_scores['{key}']" if isinstance(ood_scores, Mapping) else "ood_scores")
            for key, values in sets.items()
        }
        self.groups = _checked_groups(groups or {}, self.ood_scores)
        self.id_groups = dependent(id_groups, "id_groups", len(self.id_scores))
        counts = {key: len(values) for key, values in self.ood_scores.items()}
        self.ood_groups = groups_by_set(ood_groups, counts)
        self.labels = Labels.of(id_labels, ood_labels, id_logits, len(self.id_scores), counts)
        if all(values["auroc"] < 0.5 for values in self._metrics.values()):
            logger.warning(
                "AUROC is below 0.5 on every OOD set (%s): if higher scores are more in-distribution, negate them.",
                ", ".join(f"{key} {percent(values['auroc'])}" for key, values in self._metrics.items()),
            )

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the OOD sets, in the order given."""
        return tuple(self.ood_scores)

    def __getitem__(self, ood_set: str) -> Evaluation:
        """The evaluation on one of the OOD sets. Raises `UserError` for a name that it does not have."""
        if ood_set not in self.ood_scores:
            raise unknown("OOD set", ood_set, self.sets, "evaluation.sets")
        groups = {ood_set: self.groups[ood_set]} if ood_set in self.groups else {}
        return Evaluation(
            self.id_scores,
            {ood_set: self.ood_scores[ood_set]},
            groups,
            name=self.name,
            id_groups=self.id_groups,
            ood_groups={ood_set: self.ood_groups[ood_set]} if ood_set in self.ood_groups else None,
            **self.labels.only(ood_set),
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> value in [0, 1]; the mean over the OOD sets if there are several."""
        return _mean(list(self._metrics.values()))

    @property
    def auroc(self) -> float:
        """AUROC; the mean over the OOD sets if there are several."""
        return self.metrics["auroc"]

    @property
    def intervals(self) -> dict[str, Interval]:
        """Metric -> (low, high), its 95% interval over draws of test images.

        Raises `UserError` for several OOD sets: they share their ID images, so a mean over them has no interval.
        """
        if len(self.sets) > 1:
            raise UserError(
                f"A mean over {len(self.sets)} OOD sets has no interval, because they share their ID images. Ask for "
                f"one of them: evaluation['{self.sets[0]}'].intervals."
            )
        return dict(self._intervals[self.sets[0]])

    @property
    def extended(self) -> dict[str, float]:
        """The extended metrics that scores, labels and logits give, such as `aurc`, `augrc` and `oscr`; the mean over
        the OOD sets if there are several. Without `id_logits`, those of scores alone."""
        images = self.labels.classified
        test = self.id_scores if images is None else ScoredClassification(images, self.id_scores)
        found = [extended(test, scores, None) for scores in self.ood_scores.values()]
        shared = [name for name in found[0] if all(name in values for values in found)]
        return {name: float(np.mean([values[name] for values in found])) for name in shared}

    def classes(self) -> pd.DataFrame:
        """AUROC by class: which ID class is confused with which OOD class.

        Returns:
            A data frame with one row per class and per pair of classes of every OOD set: `ood_set`, `id_class` and
            `ood_class` ("" for all images of the set), `auroc`, and for single classes `images`, and the ends `low` and
            `high` of the 95% interval; missing for pairs. Classes of a set need its labels, of which two differ.

        Example:
            >>> evaluation = Evaluation([0, 1, 2, 3], [1, 5], id_labels=["cat", "cat", "dog", "dog"])
            >>> evaluation.classes()[["id_class", "auroc"]].values.tolist()
            [['cat', 0.875], ['dog', 0.5]]
        """
        import pandas as pd

        frame = pd.DataFrame(class_lines(self._by_class), columns=list(CLASS_COLUMNS))
        return frame.astype({"auroc": float, "low": float, "high": float})

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Group ("near", "far", and "all" for every set) -> metric -> mean over its OOD sets; {} for a single set."""
        if len(self.sets) == 1:
            return {}
        members = {group: [s for s in self.sets if self.groups.get(s) == group] for group in GROUPS}
        members[EVERY] = list(self.sets)
        return {group: _mean([self._metrics[s] for s in own]) for group, own in members.items() if own}

    @cached_property
    def _metrics(self) -> dict[str, dict[str, float]]:
        found = {key: evaluate(self.id_scores, scores) for key, scores in self.ood_scores.items()}
        return {key: {name: values[name] for name in METRICS} for key, values in found.items()}

    @cached_property
    def _by_class(self) -> dict[str, ByClass]:
        return self.labels.by_class(self.id_scores, self.ood_scores, self.id_groups, self.ood_groups)

    @cached_property
    def _intervals(self) -> dict[str, dict[str, Interval]]:
        return {
            s: intervals_around(
                self._metrics[s], self.id_scores, self.ood_scores[s], self.id_groups, self.ood_groups.get(s)
            )
            for s in self.sets
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and text, for JSON.

        Returns:
            `name`, `n_id`, `sets` (name -> `group`, `n_ood`, `metrics`, `intervals` as lists) and `means`.
        """
        sets = {
            key: {
                "group": self.groups.get(key, ""),
                "n_ood": len(scores),
                "metrics": dict(self._metrics[key]),
                "intervals": {metric: list(ends) for metric, ends in self._intervals[key].items()},
            }
            for key, scores in self.ood_scores.items()
        }
        return {"name": self.name, "n_id": len(self.id_scores), "sets": sets, "means": self.means}

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row per OOD set, and the means: `group`, `n_id`, `n_ood`, and of every metric its value,
        `METRIC_low` and `METRIC_high`, as in `records.csv`; means have no intervals."""
        import pandas as pd

        rows: dict[str, dict[str, Any]] = {}
        for key, scores in self.ood_scores.items():
            rows[key] = {"group": self.groups.get(key, ""), "n_id": len(self.id_scores), "n_ood": len(scores)}
            for metric, value in self._metrics[key].items():
                low, high = self._intervals[key][metric]
                rows[key] |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        rows |= {f"{group} mean": {"group": group, **values} for group, values in self.means.items()}
        frame = pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="ood_set"))
        return frame.astype({"n_id": "Int64", "n_ood": "Int64"})

    def to_latex(self, metrics: Sequence[str] = tuple(COLUMNS), *, name: str = "", row: bool = False) -> str:
        """A LaTeX table with intervals, for the package booktabs; percent.

        Args:
            metrics: Names of metrics, in the order of the columns.
            name: The detector's name; by default that of the evaluation.
            row: Return the rows alone, to be put into a table of your own.

        Returns:
            With one OOD set, a row named after the detector; with several, one per set, and the means.

        Raises:
            UserError: An unknown metric.
        """
        for metric in metrics:
            if metric not in METRICS:
                raise unknown("metric", metric, METRICS, "bench compare --help")
        name, several = name or self.name, len(self.sets) > 1
        lines = []
        for key in self.sets:
            numbers = [latex_number(self._metrics[key][m], self._intervals[key][m]) for m in metrics]
            lines.append(latex_line(key if several else name or key, numbers))
        means = [
            latex_line(f"{group} mean", [latex_number(values[m]) for m in metrics])
            for group, values in self.means.items()
        ]
        if row:
            return "\n".join([*lines, *means]) + "\n"
        first = ("Detector" if name else "OOD set") if not several else f"OOD set ({name})" if name else "OOD set"
        return latex_table([first, *map(metric_title, metrics)], [lines, *([means] if means else [])])

    def plot_roc(self, ax: Axes | None = None) -> Axes:
        """Draw the ROC curve of each OOD set, with ID positive, into `ax` or a new figure; returns the axes."""
        from oodbench.benchmark.standalone.plots import plot_roc

        return plot_roc(self.id_scores, self.ood_scores, self.name, ax)

    def plot_histogram(self, ax: Axes | None = None, bins: int = 48) -> Axes:
        """Draw histograms of the ID and OOD scores, each as shares of its own set, over the central 99.8%.

        Args:
            ax: Where to draw; None for a new figure.
            bins: Number of bins.
        """
        from oodbench.benchmark.standalone.plots import plot_histogram

        return plot_histogram(self.id_scores, self.ood_scores, self.name, ax, bins)

    def plot_classes(self, ood_set: str = "", ax: Axes | None = None) -> Axes:
        """Draw a heat map of the AUROC of every ID class against every class of an OOD set; returns the axes.

        Args:
            ood_set: The name of the OOD set, if there are several.
            ax: Where to draw; None for a new figure.

        Raises:
            UserError: An unknown set, or labels are missing or of one class only.
        """
        from oodbench.benchmark.standalone.plots import plot_classes

        one = self if len(self.sets) == 1 and not ood_set else self[ood_set]
        return plot_classes(one._by_class[one.sets[0]], self.name, one.sets[0], ax)

    def __repr__(self) -> str:
        name = f" '{self.name}'" if self.name else ""
        listed = ", ".join(f"{key} {_with_interval(self, key, 'auroc')}" for key in self.sets[:6])
        more = f", and {len(self.sets) - 6} more" if len(self.sets) > 6 else ""
        return f"<Evaluation{name}: AUROC of {len(self.id_scores):,} ID images against {listed}{more}>"

    def _repr_html_(self) -> str:
        rows = [
            (key, f"{len(self.ood_scores[key]):,}", *(_with_interval(self, key, metric) for metric in COLUMNS))
            for key in self.sets
        ]
        rows += [
            (f"{group} mean", "", *(percent(values[metric]) for metric in COLUMNS))
            for group, values in self.means.items()
        ]
        drawn = "groups of dependent test images" if self.id_groups is not None or self.ood_groups else "test images"
        return html_table(self.name, ("OOD set", "images", *COLUMNS.values()), rows, (NOTE.format(drawn),))


def _scores(values: Given, name: str) -> NDArray[Any]:
    return checked_scores(as_array(values, name), name)


def _checked_groups(groups: Mapping[str, str], sets: Mapping[str, object]) -> dict[str, str]:
    for key, group in groups.items():
        if key not in sets:
            raise UserError(f"groups has '{key}', which is no OOD set here; expected one of {', '.join(sets)}.")
        if group not in GROUPS:
            raise UserError(f"groups has '{group}' for '{key}'; expected {' or '.join(GROUPS)}.")
    return dict(groups)


def _mean(of_sets: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: float(np.mean([values[metric] for values in of_sets])) for metric in METRICS}


def _with_interval(evaluation: Evaluation, key: str, metric: str) -> str:
    low, high = evaluation._intervals[key][metric]
    return f"{percent(evaluation._metrics[key][metric])} [{percent(low)}, {percent(high)}]"
