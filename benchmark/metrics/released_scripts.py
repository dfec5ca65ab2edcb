"""Metric rules of published scripts, computed beside the exact metrics to show what they did to published numbers.

`bench run --metrics NAME` asks for one of `RULES`. They look at the scale of a paper's own scores (`confidence_of` of a
detector: the largest softmax probability, say), higher = more in-distribution (ID), in float32 as a network in float32
leaves them. ID is the positive class, accepted at a threshold d when its confidence is at least d. `docs/metrics.md`
tells what saturation does under these rules. Rewritten from their description; no line is the authors'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.names import RULE_METRICS

RULES_VERSION = "1"
"""Part of the key of every cell that is audited; raise it when a value changes."""

BINS = 200_000
"""Bins of the released grid; fewer for tests only."""

Floats = NDArray[np.float64]


class Grid:
    """The released script's thresholds, d = min, min + gap, ..., max - gap of both sets, with gap = (max - min) / bins.

    Shares of either set above or below every threshold, float64 in [0, 1], one array entry a threshold.
    """

    def __init__(self, id_confidence: ArrayLike, ood_confidence: ArrayLike, bins: int = BINS) -> None:
        # float64 holds every float32 exactly, so the comparisons below are those of the stored values.
        self.id = np.sort(np.asarray(id_confidence, dtype=np.float64))
        self.ood = np.sort(np.asarray(ood_confidence, dtype=np.float64))
        low, high = min(self.id[0], self.ood[0]), max(self.id[-1], self.ood[-1])
        if low == high:
            raise MetricError(f"all confidences are {low:.9g}; a grid of thresholds needs two different ones")
        gap = (high - low) / bins
        # In one case of some twenty rounding gives arange one threshold more. It may lie at the maximum itself, and all
        # the area that saturation hides would then count: an accident of the script that is not followed.
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
    """1 - FPR averaged over the thresholds with 0.94 <= TPR <= 0.96, and 0 where there is none.

    The mean is uniform in confidence, not in rank: where confidences are sparse, more thresholds lie.
    """
    true = at_least(grid.id, grid.rising)
    band = (true >= 0.94) & (true <= 0.96)
    return float(1 - above(grid.ood, grid.rising)[band].mean()) if band.any() else 0.0


def grid_auroc(grid: Grid) -> float:
    """Lower Riemann sum under the ROC curve down to the last threshold; what lies beyond it counts as no area."""
    false = above(grid.ood, grid.rising)
    return float(np.sum(-np.diff(false, prepend=1.0) * at_least(grid.id, grid.rising)))


def grid_detection_accuracy(grid: Grid) -> float:
    """1 - min (share of ID < d + share of OOD > d) / 2: a tie with the threshold is no error on either side."""
    return float(1 - min(1.0, np.min(below(grid.id, grid.rising) + above(grid.ood, grid.rising)) / 2))


def grid_aupr_in(grid: Grid) -> float:
    """Area under precision and recall, ID positive, precision from rates; each step has the higher threshold's."""
    return _step_area(at_least(grid.id, grid.rising), at_least(grid.ood, grid.rising))


def grid_aupr_out(grid: Grid) -> float:
    """The same with OOD positive, from the largest confidence down, d itself excluded.

    OOD images at the largest confidence are never found; their recall is credited with the first precision.
    """
    return _step_area(below(grid.ood, grid.falling), below(grid.id, grid.falling))


def _step_area(recall: Floats, false: Floats) -> float:
    """Sum of the recall lost at each threshold times the precision there, and of what is left times the last."""
    retrieved = recall + false
    precision = recall / retrieved
    return float(np.sum(-np.diff(recall, prepend=1.0) * precision) + recall[-1] * precision[-1])


def lee2018(id_confidence: ArrayLike, ood_confidence: ArrayLike, bins: int = BINS) -> dict[str, float]:
    """The rules of the script that Lee et al. (ICLR 2018) released (`src/calculate_log.py`), after ODIN's.

    (N,) and (M,) confidences -> fractions by the names of `RULE_METRICS`. `top_bin_*`: the shares that no threshold of
    the grid divides any more, TPR and FPR at the last one. `float32_*`: the exact metrics of the same confidences, ties
    and all. Raises `MetricError` for what is no confidence, or where all are equal.
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
"""Name -> rules, as `--metrics` takes it."""
