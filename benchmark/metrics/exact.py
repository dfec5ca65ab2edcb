"""Exact metrics of how well scores separate in-distribution (ID) from out-of-distribution (OOD) images.

A score is higher for images that look more OOD. Every function takes `(id_scores, ood_scores)`, 1-D array-likes of
finite integers or floats of any length from 1 up, and raises `MetricError` for anything else. An image is accepted as
ID when its score is at most the threshold. Equal scores are never separated: no threshold lies between them.

All metrics are computed from `Counts`, which takes one sort; `evaluate` returns all of them from a single sort.
`docs/metrics.md` has the formulas and lists what other sources call by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.names import METRICS, TIES

BLOCK = 1 << 16
"""Scores or tie groups processed at a time, so that intermediates stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Counts:
    """The confusion counts at every distinct threshold.

    With K distinct scores, both arrays are int64 of shape (K + 1,) and non-decreasing. Entry 0 is the threshold minus
    infinity, where both are 0; entry k is the k-th smallest distinct score; entry K holds the sizes of the two sets.
    """

    id_at_most: NDArray[np.int64]
    """Number of ID scores at or below the threshold: true positives."""
    ood_at_most: NDArray[np.int64]
    """Number of OOD scores at or below the threshold: false positives."""

    @classmethod
    def of(cls, id_scores: ArrayLike, ood_scores: ArrayLike) -> Counts:
        """Sort and count the scores. Raise `MetricError` for scores from which no metric can be computed."""
        id_array, ood_array = checked_scores(id_scores, "id_scores"), checked_scores(ood_scores, "ood_scores")
        _check_exact_together(id_array, ood_array)
        scores = np.concatenate((id_array, ood_array))
        return cls(*_count(scores, _merge(scores, len(id_array)), len(id_array)))

    @property
    def n_id(self) -> int:
        """Number of ID scores."""
        return int(self.id_at_most[-1])

    @property
    def n_ood(self) -> int:
        """Number of OOD scores."""
        return int(self.ood_at_most[-1])

    def blocks(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield both arrays in pieces that overlap by one entry, as integers that can hold 2 * n_id * n_ood."""
        dtype = np.int64 if 2 * self.n_id * self.n_ood <= np.iinfo(np.int64).max else object
        for start in range(0, len(self.id_at_most) - 1, BLOCK):
            piece = slice(start, start + BLOCK + 1)
            yield self.id_at_most[piece].astype(dtype, copy=False), self.ood_at_most[piece].astype(dtype, copy=False)


class Metric(Protocol):
    """A public metric: two 1-D array-likes of scores in, a float in [0, 1] out."""

    def __call__(self, id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
        """Return the metric of (N,) ID scores and (M,) OOD scores. Raise `MetricError`."""
        ...


_OF_COUNTS: dict[str, Callable[[Counts], float]] = {}


def _metric(of_counts: Callable[[Counts], float]) -> Metric:
    """Turn a function of counts, which `evaluate` calls, into the public function, which takes scores."""

    def metric(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
        return of_counts(Counts.of(id_scores, ood_scores))

    # Not functools.wraps: help() would then show the signature of the wrapped function.
    metric.__name__ = metric.__qualname__ = of_counts.__name__
    metric.__doc__ = of_counts.__doc__
    _OF_COUNTS[of_counts.__name__] = of_counts
    return metric


def evaluate(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Return every metric of `names.METRICS`, and "tpr", by name, from one sort of (N,) ID and (M,) OOD scores.

    Each value is in [0, 1] and equal to what the function of that name returns. Raises `MetricError`.
    """
    return evaluate_counts(Counts.of(id_scores, ood_scores))


def evaluate_counts(counts: Counts) -> dict[str, float]:
    """Like `evaluate`, from counts."""
    return {name: _OF_COUNTS[name](counts) for name in (*METRICS, "tpr")}


def ties_of(counts: Counts) -> dict[str, int]:
    """Return the numbers of distinct and of tied scores, by the names of `names.TIES`.

    The number of distinct ID and OOD scores (each 1 or more), and the number of ID scores (1 or more) and of OOD scores
    (0 or more) equal to `tpr_threshold`.
    """
    distinct = np.zeros(2, dtype=np.int64)
    for both in counts.blocks():
        distinct += [np.count_nonzero(np.diff(at_most)) for at_most in both]
    entry = entry_at_tpr95(counts)
    tied = [int(at_most[entry] - at_most[entry - 1]) for at_most in (counts.id_at_most, counts.ood_at_most)]
    return dict(zip(TIES, [*distinct.tolist(), *tied], strict=True))


def tpr_threshold(id_scores: ArrayLike) -> float:
    """Return the score t at which 95% of ID is accepted: the ceil(0.95 N)-th smallest of (N,) scores.

    An image is accepted when its score is at most t. Integer scores give an integer. Raises `MetricError`.
    """
    array = checked_scores(id_scores, "id_scores")
    rank = _ceil_95_percent(len(array)) - 1
    threshold: float = np.partition(array, rank)[rank].item()
    return threshold


@_metric
def tpr(counts: Counts) -> float:
    """Return the share of ID accepted at `tpr_threshold`: 0.95, or more where N or ties do not allow exactly that."""
    return int(counts.id_at_most[entry_at_tpr95(counts)]) / counts.n_id


@_metric
def tnr_at_tpr95(counts: Counts) -> float:
    """Return the share of OOD scores above `tpr_threshold`; ID is positive (Liang et al. 2018; Lee et al. 2018)."""
    return (counts.n_ood - int(counts.ood_at_most[entry_at_tpr95(counts)])) / counts.n_ood


@_metric
def fpr_at_tpr95(counts: Counts) -> float:
    """Return 1 - `tnr_at_tpr95`: the share of OOD accepted when 95% of ID is; ID is positive (Liang et al. 2018)."""
    return int(counts.ood_at_most[entry_at_tpr95(counts)]) / counts.n_ood


@_metric
def openood_fpr95(counts: Counts) -> float:
    """Return the share of ID flagged at the largest t that flags (score >= t) at least 95% of OOD; OOD is positive.

    This is what OpenOOD v1.5 calls FPR@95 (Zhang et al. 2023); it is not `fpr_at_tpr95`.
    """
    # The scores above entry k are flagged, and 20 * flagged >= 19 * n_ood where ood_at_most is n_ood // 20 or less.
    # The last entry for which that holds flags the fewest ID images.
    entry = int(np.searchsorted(counts.ood_at_most, counts.n_ood // 20, side="right")) - 1
    return (counts.n_id - int(counts.id_at_most[entry])) / counts.n_id


@_metric
def auroc(counts: Counts) -> float:
    """Return P(OOD score > ID score) + P(equal) / 2 over all pairs, from integer counts.

    The area under the ROC curve, whichever class is positive (Hanley & McNeil 1982).
    """
    doubled = 0  # twice the number of pairs in which the OOD score is higher; a tie is half a pair
    for id_at_most, ood_at_most in counts.blocks():
        above = counts.n_ood - ood_at_most
        doubled += int((np.diff(id_at_most) * (above[1:] + above[:-1])).sum())
    return doubled / (2 * counts.n_id * counts.n_ood)


@_metric
def detection_accuracy(counts: Counts) -> float:
    """Return the largest (TPR + TNR) / 2 over all thresholds, plus and minus infinity included; so at least 0.5.

    Both classes have equal weight, whatever their sizes (Lee et al. 2018).
    """
    n_id, n_ood = counts.n_id, counts.n_ood
    gain = max(int((id_at_most * n_ood - ood_at_most * n_id).max()) for id_at_most, ood_at_most in counts.blocks())
    return (gain + n_id * n_ood) / (2 * n_id * n_ood)


@_metric
def aupr_in(counts: Counts) -> float:
    """Return the average precision with ID positive and both classes weighted to equal mass (Liang et al. 2018)."""
    return _average_precision_in(counts, counts.n_id / counts.n_ood)


@_metric
def aupr_out(counts: Counts) -> float:
    """Return the average precision with OOD positive and both classes weighted to equal mass (Liang et al. 2018)."""
    return _average_precision_out(counts, counts.n_ood / counts.n_id)


@_metric
def aupr_in_counts(counts: Counts) -> float:
    """Return the average precision with ID positive at the sets' own sizes, as scikit-learn does on -score."""
    return _average_precision_in(counts, 1.0)


@_metric
def aupr_out_counts(counts: Counts) -> float:
    """Return the average precision with OOD positive at the sets' own sizes, as scikit-learn does on the score."""
    return _average_precision_out(counts, 1.0)


def roc_curve(
    id_scores: ArrayLike, ood_scores: ArrayLike, points: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (FPR, TPR) of the ROC curve with ID positive: two non-decreasing float64 arrays from (0, 0) to (1, 1).

    One entry per distinct score, and the starting point. With `points` (2 or more), at most that many of these entries,
    spread evenly along the length of the curve. Raises `MetricError`.
    """
    if points is not None and points < 2:
        raise MetricError(f"points is {points}; expected 2 or more, because both ends of the curve are included.")
    counts = Counts.of(id_scores, ood_scores)
    false_positive, true_positive = counts.ood_at_most / counts.n_ood, counts.id_at_most / counts.n_id
    if points is None or points >= len(true_positive):
        return false_positive, true_positive
    along = (false_positive + true_positive) / 2
    chosen = np.unique(np.searchsorted(along, np.linspace(0, 1, points)))
    return false_positive[chosen], true_positive[chosen]


def _ceil_95_percent(n: int) -> int:
    """ceil(0.95 n) in integers, because 0.95 is not exact in binary."""
    return -(-19 * n // 20)


def entry_at_tpr95(counts: Counts) -> int:
    """Return the entry of `counts` whose threshold is `tpr_threshold`: the first that accepts 95% of ID."""
    return int(np.searchsorted(counts.id_at_most, _ceil_95_percent(counts.n_id)))


def _average_precision_in(counts: Counts, ood_weight: float) -> float:
    blocks = ((np.diff(id_), id_[1:], ood[1:]) for id_, ood in counts.blocks())
    return math.fsum(_precision_sum(*block, ood_weight) for block in blocks) / counts.n_id


def _average_precision_out(counts: Counts, id_weight: float) -> float:
    n_id, n_ood = counts.n_id, counts.n_ood
    # The images that score at least as high as group k are those not counted in entry k - 1.
    blocks = ((np.diff(ood), n_ood - ood[:-1], n_id - id_[:-1]) for id_, ood in counts.blocks())
    return math.fsum(_precision_sum(*block, id_weight) for block in blocks) / n_ood


def _precision_sum(new: NDArray[Any], hits: NDArray[Any], misses: NDArray[Any], miss_weight: float) -> float:
    """Sum over tie groups of the number of positives in the group times the precision when the group is included."""
    hits = hits.astype(np.float64)
    retrieved = misses.astype(np.float64)
    retrieved *= miss_weight
    retrieved += hits
    hits /= retrieved
    hits *= new.astype(np.float64)
    return float(hits.sum())


def checked_scores(scores: ArrayLike, name: str) -> NDArray[Any]:
    """Return scores as an array, (N,), integers or floats. Raise `MetricError`, which calls them `name`."""
    try:
        array = np.asarray(scores)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"{name} cannot be converted to an array ({error}); expected one finite score per image."
        ) from error
    if array.dtype.kind not in "iuf":
        raise MetricError(f"{name} has values of type {array.dtype}; expected integers or floats, one per image.")
    if array.ndim != 1:
        raise MetricError(f"{name} has shape {array.shape}; expected one dimension, one finite score per image.")
    if array.size == 0:
        raise MetricError(f"{name} is empty; expected at least one finite score.")
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise MetricError(
            f"{name} has {len(bad)} of {len(array)} values that are not finite, the first ({array[bad[0]]}) "
            f"at index {bad[0]}; expected one finite score per image."
        )
    return array


def _check_exact_together(id_array: NDArray[Any], ood_array: NDArray[Any]) -> None:
    """Reject inputs that NumPy would round when comparing them: large integers with floats, or with unsigned ones."""
    common = np.result_type(id_array, ood_array)
    if common.kind != "f":
        return
    digits = np.finfo(common).nmant + 1
    for array, name in ((id_array, "id_scores"), (ood_array, "ood_scores")):
        if array.dtype.kind in "iu" and max(int(array.max()), -int(array.min())) > 2**digits:
            raise MetricError(
                f"{name} has {array.dtype} values beyond 2**{digits}, which would be rounded when compared with the "
                f"other input; expected both inputs to have the same type."
            )


def _merge(scores: NDArray[Any], n_id: int) -> NDArray[np.intp]:
    """Sort the first `n_id` scores and the rest, each in place; return the order that sorts all of them."""
    # NumPy's default sort is vectorised and far faster than argsort. On the two sorted runs that it leaves, the stable
    # sort (timsort) is a single merge.
    scores[:n_id].sort()
    scores[n_id:].sort()
    return scores.argsort(kind="stable")


def _count(scores: NDArray[Any], order: NDArray[np.intp], n_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two arrays of `Counts`. A tie group that crosses blocks is counted in the block where it ends."""
    id_at_most, ood_at_most = np.zeros(len(order) + 1, np.int64), np.zeros(len(order) + 1, np.int64)
    entries, n_id_before = 1, 0
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK + 1]  # one more than a block, to see whether its last group ends in it
        values, is_id = scores[block], block < n_id
        ends = np.flatnonzero(values[1:] != values[:-1])
        new = slice(entries, entries + len(ends))
        id_at_most[new] = np.cumsum(is_id, dtype=np.int64)[ends] + n_id_before
        ood_at_most[new] = ends + (start + 1) - id_at_most[new]
        entries += len(ends)
        n_id_before += int(np.count_nonzero(is_id[:BLOCK]))
    id_at_most[entries], ood_at_most[entries] = n_id, len(order) - n_id
    return id_at_most[: entries + 1], ood_at_most[: entries + 1]
