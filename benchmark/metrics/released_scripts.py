"""Metric rules of scripts released with papers, computed in addition to the exact metrics.

They show how a script's rules affected the published numbers. `bench run --metrics NAME` asks for one of `RULES`. The
rules depend on the scale of a paper's own scores (`confidence_of` of a detector: the maximum softmax probability, for
example), higher = more in-distribution (ID), in float32 as the network computes them. ID is the positive class and is
accepted at threshold d if its confidence is at least d. `docs/appendix/metrics_saturation.md` describes the rules and
the effect of saturation. This is a new implementation from a description; it contains no code of the authors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError, UserError, unknown
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.names import EXACT, EXTENDED, EXTENDED_METRICS, METRICS, RULE_METRICS

RULES_VERSION = "1"
"""Part of the key of every cell with values by other rules; increase it when a value changes."""

BINS = 200_000
"""Bins of the released script's grid; only tests use fewer."""

Floats = NDArray[np.float64]


class Grid:
    """The released script's thresholds: min, min + gap, ..., max - gap of both sets, with gap = (max - min) / bins.

    `id` and `ood` are the sorted confidences; `rising` and `falling` are the thresholds in either order, float64.
    """

    def __init__(self, id_confidence: ArrayLike, ood_confidence: ArrayLike, bins: int = BINS) -> None:
        # float64 represents every float32 exactly, so the comparisons below are those of the stored values.
        self.id = np.sort(np.asarray(id_confidence, dtype=np.float64))
        self.ood = np.sort(np.asarray(ood_confidence, dtype=np.float64))
        low, high = min(self.id[0], self.ood[0]), max(self.id[-1], self.ood[-1])
        if low == high:
            raise MetricError(f"all confidences are {low:.9g}; a grid of thresholds needs two distinct values")
        gap = (high - low) / bins
        # In about one case in twenty, rounding gives arange one threshold too many. It may equal the maximum, and then
        # all the area that saturation hides would count. That accident of the script is not reproduced.
        self.rising: Floats = np.arange(low, high, gap)[:bins]
        self.falling: Floats = np.arange(high, low, -gap)[:bins]


def at_least(ordered: Floats, thresholds: Floats) -> Floats:
    """Share of sorted values >= each threshold."""
    return (len(ordered) - np.searchsorted(ordered, thresholds, side="left")) / len(ordered)


def above(ordered: Floats, thresholds: Floats) -> Floats:
    """Share of sorted values > each threshold."""
    return (len(ordered) - np.searchsorted(ordered, thresholds, side="right")) / len(ordered)


def below(ordered: Floats, thresholds: Floats) -> Floats:
    """Share of sorted values < each threshold."""
    return np.searchsorted(ordered, thresholds, side="left") / len(ordered)


def grid_tnr(grid: Grid) -> float:
    """1 - FPR averaged over the thresholds with 0.94 <= TPR <= 0.96, or 0 if there is none.

    The mean is uniform in confidence, not in rank: there are more thresholds per image where confidences are sparse.
    """
    true = at_least(grid.id, grid.rising)
    band = (true >= 0.94) & (true <= 0.96)
    return float(1 - above(grid.ood, grid.rising)[band].mean()) if band.any() else 0.0


def grid_auroc(grid: Grid) -> float:
    """Lower Riemann sum under the ROC curve down to the last threshold; the area beyond it is not counted."""
    false = above(grid.ood, grid.rising)
    return float(np.sum(-np.diff(false, prepend=1.0) * at_least(grid.id, grid.rising)))


def grid_detection_accuracy(grid: Grid) -> float:
    """1 - min (share of ID < d + share of OOD > d) / 2: a tie with the threshold is not an error for either class."""
    return float(1 - min(1.0, np.min(below(grid.id, grid.rising) + above(grid.ood, grid.rising)) / 2))


def grid_aupr_in(grid: Grid) -> float:
    """Area under precision over recall, ID positive, precision from rates; each step uses the higher threshold's."""
    return _step_area(at_least(grid.id, grid.rising), at_least(grid.ood, grid.rising))


def grid_aupr_out(grid: Grid) -> float:
    """Like `grid_aupr_in` with OOD positive, from the largest confidence down, d itself excluded.

    OOD images at the largest confidence are never retrieved; their recall counts with the first precision.
    """
    return _step_area(below(grid.ood, grid.falling), below(grid.id, grid.falling))


def _step_area(recall: Floats, false: Floats) -> float:
    """Sum of the recall lost at each threshold times its precision, plus the remaining recall times the last one."""
    retrieved = recall + false
    precision = recall / retrieved
    return float(np.sum(-np.diff(recall, prepend=1.0) * precision) + recall[-1] * precision[-1])


def lee2018(id_confidence: ArrayLike, ood_confidence: ArrayLike, bins: int = BINS) -> dict[str, float]:
    """The rules of the script released by Lee et al. (ICLR 2018), `src/calculate_log.py`, which follows ODIN's.

    (N,) ID and (M,) OOD confidences -> fractions by the names of `RULE_METRICS`. `top_bin_*`: TPR and FPR at the last
    threshold, the shares that the grid cannot divide further. `float32_*`: the exact metrics of the same confidences,
    including ties. Raises `MetricError` for invalid confidences, or if all are equal.
    """
    exact = evaluate(-np.asarray(id_confidence), -np.asarray(ood_confidence))
    grid = Grid(id_confidence, ood_confidence, bins)
    values = {
        "tnr_at_tpr95": grid_tnr(grid),
        "auroc": grid_auroc(grid),
        "detection_accuracy": grid_detection_accuracy(grid),
        "aupr_in": grid_aupr_in(grid),
        "aupr_out": grid_aupr_out(grid),
        "top_bin_id": float(at_least(grid.id, grid.rising[-1:])[0]),
        "top_bin_ood": float(at_least(grid.ood, grid.rising[-1:])[0]),
    }
    values |= {name: exact[name.removeprefix("float32_")] for name in RULE_METRICS if name.startswith("float32_")}
    return {name: values[name] for name in RULE_METRICS}


RULES: Mapping[str, Callable[[ArrayLike, ArrayLike], dict[str, float]]] = {"lee2018": lee2018}
"""Name, as given to `--metrics` -> function that computes the rules' values."""


def check_rules(name: str, listing: str) -> None:
    """Raise `UserError` unless `name` is a value of --metrics; `listing` is the command that shows them."""
    known = (EXACT, *RULES, EXTENDED)
    if name in known:
        return
    if name in (*METRICS, *EXTENDED_METRICS, *RULE_METRICS):
        raise UserError(
            f"'{name}' is one metric; --metrics takes a set of metrics: {', '.join(known)}. Every metric of a run is a "
            "column of its records.csv."
        )
    raise unknown("metric rules", name, known, listing)
