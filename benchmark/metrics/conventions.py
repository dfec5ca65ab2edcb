"""Metrics that share a name but not a definition: one function per convention of the literature.

Use them to compare with a published column. Every function takes `(id_scores, ood_scores)`, 1-D, higher = more
out-of-distribution (OOD), returns a fraction in [0, 1] and raises `MetricError` as `metrics.exact` does. The tables of
a run do not use them; their columns are defined in `metrics.exact`. `docs/metrics.md` says which source uses which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.metrics import exact
from oodbench.benchmark.metrics.exact import Counts

Floats = NDArray[np.float64]


def fpr95_id_positive(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Share of OOD accepted where 95% of ID is accepted (Liang et al. 2018; Lee et al. 2018): `fpr_at_tpr95`."""
    return exact.fpr_at_tpr95(id_scores, ood_scores)


def fpr95_ood_positive(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Share of ID flagged where 95% of OOD is flagged (Hendrycks et al. 2019; OpenOOD v1.5): `openood_fpr95`."""
    return exact.openood_fpr95(id_scores, ood_scores)


def detection_accuracy_best(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Largest (TPR + TNR) / 2 of any threshold (Lee et al. 2018, both papers): `detection_accuracy`."""
    return exact.detection_accuracy(id_scores, ood_scores)


def detection_accuracy_at_tpr95(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """(TPR + TNR) / 2 at the 95% threshold: 1 - detection error as defined in the text of Liang et al. (2018)."""
    return (exact.tpr(id_scores, ood_scores) + exact.tnr_at_tpr95(id_scores, ood_scores)) / 2


def detection_accuracy_of_counts(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Largest share of images classified correctly at any threshold; it depends on the sizes of the sets (oodeel)."""
    counts = Counts.of(id_scores, ood_scores)
    right = counts.id_at_most + (counts.n_ood - counts.ood_at_most)
    return int(right.max()) / (counts.n_id + counts.n_ood)


def aupr_in_equal_mass(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision, ID positive, classes of equal mass (Liang et al. 2018): `aupr_in`."""
    return exact.aupr_in(id_scores, ood_scores)


def aupr_out_equal_mass(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision, OOD positive, classes of equal mass (Liang et al. 2018): `aupr_out`."""
    return exact.aupr_out(id_scores, ood_scores)


def aupr_in_average_precision(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision, ID positive, every image weighted equally (scikit-learn): `aupr_in_counts`."""
    return exact.aupr_in_counts(id_scores, ood_scores)


def aupr_out_average_precision(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision, OOD positive, every image weighted equally (Hendrycks et al. 2019): `aupr_out_counts`."""
    return exact.aupr_out_counts(id_scores, ood_scores)


def aupr_in_trapezoid(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Trapezoidal area under the precision-recall curve, ID positive, from counts (OpenOOD, pytorch-ood).

    The curve starts at recall 0, precision 1, as in scikit-learn. Too optimistic where scores are tied.
    """
    counts = Counts.of(id_scores, ood_scores)
    return _trapezoids(counts.id_at_most[1:], counts.ood_at_most[1:])


def aupr_out_trapezoid(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Like `aupr_in_trapezoid`, with OOD positive (OpenOOD, pytorch-ood)."""
    counts = Counts.of(id_scores, ood_scores)
    return _trapezoids((counts.n_ood - counts.ood_at_most[:-1])[::-1], (counts.n_id - counts.id_at_most[:-1])[::-1])


def _trapezoids(hits: NDArray[np.int64], misses: NDArray[np.int64]) -> float:
    """Area under precision over recall, from the hits and misses retrieved at each threshold, fewest first."""
    precision = np.append(1.0, hits / (hits + misses))
    recall: Floats = np.append(0.0, hits / hits[-1])
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


CONVENTIONS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    f.__name__: f
    for f in (
        fpr95_id_positive,
        fpr95_ood_positive,
        detection_accuracy_best,
        detection_accuracy_at_tpr95,
        detection_accuracy_of_counts,
        aupr_in_equal_mass,
        aupr_out_equal_mass,
        aupr_in_average_precision,
        aupr_out_average_precision,
        aupr_in_trapezoid,
        aupr_out_trapezoid,
    )
}
"""Name -> function of every convention."""
