"""95% confidence intervals of a cell's metrics over draws of test images, with the network held fixed.

Test images are one source of error; the training seed, another one, is not covered here. As in `metrics`, only the
order of the scores counts, so a strictly increasing transform of them changes nothing, and equal input gives equal
bytes. `docs/appendix/uncertainty_methods.md` has the formulas, `docs/appendix/uncertainty_simulations.md` the coverage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import Counts, entry_at_tpr95, evaluate
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.stats.clustered import TAIL, Floats, ScorePlaces, student_quantile, zero_event_bound
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.unseen_images import precision_loss

INTERVALS_VERSION = "2"
"""Part of every cell's key; raise it when an interval changes."""

FEW = 40
"""With fewer independent ID images than this, too few lie above the true 95% quantile to bound it."""

FEWEST = 10
"""With fewer independent ID images than this, the true 95% quantile lies above them all more often than not."""

FEWEST_GROUPS = 3
"""Groups needed to place a 95% quantile: two agree by chance too often for their variance to say anything."""

SPLITS, SEED = 8, 0
"""Number of random halvings behind the bias correction of detection accuracy, and their seed."""

OPTIMISM = 1 / (1 + 2 ** (2 / 3) / 3)
"""Share of the gap between resubstituted and cross-fitted accuracy that is the bias of resubstitution: 0.654."""

PRECISIONS = ("aupr_in", "aupr_out", "aupr_in_counts", "aupr_out_counts")
"""The metrics that are average precisions."""

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Sample:
    """A cell's scores, sorted once."""

    counts: Counts
    id: ScorePlaces
    ood: ScorePlaces

    @property
    def mirrored(self) -> Sample:
        """The sample with every score negated and the two sets exchanged, so that ID plays the part of OOD."""
        c, entries = self.counts, len(self.counts.id_at_most)
        counts = Counts(c.n_ood - c.ood_at_most[::-1], c.n_id - c.id_at_most[::-1])
        return Sample(counts, *(ScorePlaces(entries - side.entry, side.group) for side in (self.ood, self.id)))


def confidence_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    id_groups: ArrayLike | None = None,
    ood_groups: ArrayLike | None = None,
) -> dict[str, Interval]:
    """The 95% interval (low, high) of every metric of `metrics.names.METRICS`, in [0, 1], which contains the metric.

    Scores are as in `metrics.exact.evaluate`: (N,) ID, (M,) OOD, higher = more OOD. Groups, (N,) and (M,) integers,
    mark images that depend on each other; with None all are independent. A set with a single image or group has no
    variance to estimate, and then every interval is (0, 1). Raises `MetricError`.
    """
    return intervals_around(evaluate(id_scores, ood_scores), id_scores, ood_scores, id_groups, ood_groups)


def intervals_around(
    values: Mapping[str, float],
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    id_groups: ArrayLike | None = None,
    ood_groups: ArrayLike | None = None,
) -> dict[str, Interval]:
    """Like `confidence_intervals`, given the metrics' `values`. Raises `MetricError` for malformed groups."""
    id_array, ood_array = np.asarray(id_scores), np.asarray(ood_scores)
    by_id = _checked(id_groups, len(id_array), "id_groups")
    by_ood = _checked(ood_groups, len(ood_array), "ood_groups")
    counts = Counts.of(id_array, ood_array)
    grouped = by_id is not None or by_ood is not None
    distinct = np.unique(np.concatenate((id_array, ood_array))) if grouped else None
    id_side = _places_of(id_array, counts.id_at_most, distinct, by_id)
    ood_side = _places_of(ood_array, counts.ood_at_most, distinct, by_ood)
    if min(id_side.independent, ood_side.independent) < 2:
        return dict.fromkeys(METRICS, (0.0, 1.0))
    intervals = _each(Sample(counts, id_side, ood_side), values)
    return {name: _including(intervals[name], values[name]) for name in METRICS}


def auroc_interval(
    value: float, placed: Placements, id_groups: ArrayLike | None = None, ood_groups: ArrayLike | None = None
) -> Interval:
    """The 95% interval of an AUROC `value`, given where the images of either set lie among those of the other.

    It is that of `confidence_intervals`, up to the order in which float64 numbers are added. Raises `MetricError` for
    malformed groups.
    """
    counts = len(placed.of_id), len(placed.of_ood)
    id_side = ScorePlaces.in_order(counts[0], _checked(id_groups, counts[0], "id_groups"))
    ood_side = ScorePlaces.in_order(counts[1], _checked(ood_groups, counts[1], "ood_groups"))
    fewest = min(id_side.independent, ood_side.independent)
    if fewest < 2:
        return 0.0, 1.0
    miss = zero_event_bound(fewest)
    return _including(_on_logits(id_side, ood_side, value, placed.of_id, placed.of_ood, miss), value)


def _checked(groups: ArrayLike | None, size: int, name: str) -> NDArray[np.integer] | None:
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise MetricError(f"{name} is {array.dtype} of shape {array.shape}; expected {size} integers, one per score.")
    return array


def _places_of(
    scores: NDArray[np.generic],
    at_most: NDArray[np.int64],
    distinct: NDArray[np.generic] | None,
    groups: NDArray[np.integer] | None,
) -> ScorePlaces:
    """One set's images; `distinct` is given where one of both sets has groups."""
    if groups is None or distinct is None:
        return ScorePlaces.independent_images(at_most)
    return ScorePlaces.of(scores, distinct, groups)


def _including(interval: Interval, value: float) -> Interval:
    """Extend an interval to the printed value, which one with a bias-corrected centre might miss."""
    return min(interval[0], value), max(interval[1], value)


def _each(sample: Sample, values: Mapping[str, float]) -> dict[str, Interval]:
    mirrored, ratio = sample.mirrored, sample.counts.n_ood / sample.counts.n_id
    tnr, openood_tnr = _tnr(sample), _tnr(mirrored)
    return {
        "tnr_at_tpr95": tnr,
        "auroc": _auroc(sample, values["auroc"]),
        "detection_accuracy": _detection_accuracy(sample, values["detection_accuracy"]),
        "aupr_in": _average_precision(sample, values["aupr_in"], 1.0),
        "aupr_out": _average_precision(mirrored, values["aupr_out"], 1.0),
        "aupr_in_counts": _average_precision(sample, values["aupr_in_counts"], ratio),
        "aupr_out_counts": _average_precision(mirrored, values["aupr_out_counts"], 1 / ratio),
        "fpr_at_tpr95": (1 - tnr[1], 1 - tnr[0]),
        "openood_fpr95": (1 - openood_tnr[1], 1 - openood_tnr[0]),
    }


def _on_logits(
    id_side: ScorePlaces, ood_side: ScorePlaces, value: float, id_values: Floats, ood_values: Floats, miss: float
) -> Interval:
    """Interval on the scale of log(v / (1 - v)), from the (N,) and (M,) contributions of the images to a metric.

    Half a pair of images added to either side keeps the logit of 0 and 1 finite. Student's t, with degrees of freedom
    estimated from the contributions, widens intervals that depend on few images. Where all contributions are equal, the
    interval extends `miss` to either side: as far as the source may differ from this sample.
    """
    error = id_side.variance_of_mean(id_values) + ood_side.variance_of_mean(ood_values)
    if error.variance < 1e-30:  # a rounding error: one pair among ten million x ten million images gives 1e-28
        return max(value - miss, 0.0), min(value + miss, 1.0)
    # Not pairs of groups: half of one of their few pairs would move the centre by more than the error.
    pairs = id_side.equivalent(id_values) * ood_side.equivalent(ood_values)
    centre = (value * pairs + 0.5) / (pairs + 1)
    reach = student_quantile(error.degrees_of_freedom) * np.sqrt(error.variance) / (centre * (1 - centre))
    odds = centre / (1 - centre) * np.exp(np.clip([-reach, reach], -700, 700))
    low, high = odds / (1 + odds)
    return float(low), float(high)


def _auroc(sample: Sample, value: float) -> Interval:
    counts = sample.counts
    above = 1 - _middles(counts.ood_at_most)[sample.id.entry - 1]
    below = _middles(counts.id_at_most)[sample.ood.entry - 1]
    return _on_logits(sample.id, sample.ood, value, above, below, _miss(sample))


def _middles(at_most: NDArray[np.int64]) -> Floats:
    """(K,): share of a set's scores below each distinct score, ties counting half."""
    shares: Floats = (at_most[:-1] + at_most[1:]) / (2 * at_most[-1])
    return shares


def _average_precision(sample: Sample, value: float, ood_weight: float) -> Interval:
    """The interval with ID positive."""
    worst = precision_loss(np.array(ood_weight * _miss(sample)))
    return _on_logits(sample.id, sample.ood, value, *_precision_parts(sample, ood_weight), float(worst))


def _precision_parts(sample: Sample, ood_weight: float) -> tuple[Floats, Floats]:
    """(N,), (M,): influence of each image on AP with ID positive, the derivative along both sets' distributions.

    With T and F the shares of ID and OOD accepted, AP = sum of dT P over tie groups, P = T / (T + w F). An image at an
    entry raises T or F at that entry and all later ones.
    """
    counts = sample.counts
    true, false = counts.id_at_most[1:] / counts.n_id, ood_weight * counts.ood_at_most[1:] / counts.n_ood
    step, retrieved = np.diff(counts.id_at_most) / counts.n_id, true + false
    by_true, by_false = step * false / retrieved**2, -ood_weight * step * true / retrieved**2
    of_id = true / retrieved + by_true[::-1].cumsum()[::-1]
    of_ood = by_false[::-1].cumsum()[::-1]
    return of_id[sample.id.entry - 1], of_ood[sample.ood.entry - 1]


def precision_influences(metric: str, id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Floats, Floats]:
    """Influence of each ID image, (N,), and OOD image, (M,), on one of `PRECISIONS`, in the order of the scores.

    To first order the metric is a constant plus the means of both arrays. Scores are as in `metrics.exact.evaluate`.
    """
    arrays = np.asarray(id_scores), np.asarray(ood_scores)
    distinct = np.unique(np.concatenate(arrays))
    of_id, of_ood = (ScorePlaces(np.searchsorted(distinct, array) + 1, np.arange(len(array))) for array in arrays)
    sample, ratio = Sample(Counts.of(*arrays), of_id, of_ood), len(of_ood) / len(of_id)
    if metric in ("aupr_in", "aupr_in_counts"):
        return _precision_parts(sample, 1.0 if metric == "aupr_in" else ratio)
    added = _precision_parts(sample.mirrored, 1.0 if metric == "aupr_out" else 1 / ratio)
    return added[1], added[0]


def _miss(sample: Sample) -> float:
    return zero_event_bound(min(sample.id.independent, sample.ood.independent))


def _tnr(sample: Sample) -> Interval:
    """Interval of TNR at the true 95% quantile of ID, allowing for the errors of both the quantile and the TNR there.

    The quantile has a distribution over the ID scores (`_places`). The TNR at each has the Beta distribution that
    Jeffreys' prior gives. The mixture is approximated by the Beta distribution with its mean and variance. With fewer
    than `FEWEST_GROUPS` groups of ID images, anything is possible.
    """
    counts = sample.counts
    if sample.id.independent < min(FEWEST_GROUPS, counts.n_id):
        return 0.0, 1.0
    entry = entry_at_tpr95(counts)
    size = sample.ood.effective(entry)
    weights, shares, widths = _places(counts, sample.id.effective(entry))
    means = (shares * size + 0.5) / (size + 1)
    mean = float(weights @ means)
    variance = float(weights @ (means * (1 - means) / (size + 2) + (means - mean) ** 2))
    # What a TNR spread evenly over the width of its gap adds to the Beta distribution's variance.
    variance += float(weights @ widths**2) / 12 * size**2 / ((size + 1) * (size + 2))
    return _beta(mean, variance)


def _places(counts: Counts, size: float) -> tuple[Floats, Floats, Floats]:
    """Where the true quantile may lie: the places' probabilities, summing to 1, and the share of OOD above each.

    The third array is by how much that share differs from one end of a place to the other; 0 where it is not used.

    The places are the ID scores, with their weights in Harrell & Davis's quantile (Biometrika 69 (1982)): the exact
    bootstrap distribution of the order statistic of rank 0.95 (N + 1) (Hutson & Ernst, JRSS B 62 (2000)). With fewer
    than `FEW` images the largest score would often have to represent everything above it. There the places are the gaps
    between scores, the one above the largest included, with the binomial probability of so many scores below. With
    fewer than `FEWEST`, most of the probability is in that last gap, and its middle alone would look certain.
    """
    from scipy.special import bdtr, betainc

    if size < FEW:
        below = np.arange(round(size) + 1)
        weights = np.diff(bdtr(below, len(below) - 1, 0.95), prepend=0.0)
        edges = np.append(_above(counts, below / (len(below) - 1)), 0.0)
        widths = edges[:-1] - edges[1:]
        return weights, (edges[:-1] + edges[1:]) / 2, widths if size < FEWEST else np.zeros_like(widths)
    rank, rank_from_top = 0.95 * (size + 1), 0.05 * (size + 1)
    spread = 8 * np.sqrt(0.05 * 0.95 / size)
    first, last = (int(np.clip(share * counts.n_id, 0, counts.n_id)) for share in (0.95 - spread, 0.95 + spread))
    ranks = np.arange(first, last + 1) / counts.n_id
    weights = np.diff(betainc(rank, rank_from_top, ranks))
    return weights / weights.sum(), _above(counts, ranks[1:]), np.zeros_like(weights)


def _above(counts: Counts, shares: Floats) -> Floats:
    """Share of OOD above the smallest ID score at which each of `shares` of ID is accepted; all of OOD for share 0."""
    needed = np.rint(shares * counts.n_id)
    above: Floats = 1 - counts.ood_at_most[np.searchsorted(counts.id_at_most, needed)] / counts.n_ood
    return above


def _beta(mean: float, variance: float) -> Interval:
    """The central 95% interval of the Beta distribution with this mean and variance."""
    from scipy.special import betaincinv

    size = mean * (1 - mean) / variance - 1
    low, high = betaincinv(mean * size, (1 - mean) * size, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _detection_accuracy(sample: Sample, value: float) -> Interval:
    """Interval from two binomial proportions at the best threshold, corrected for choosing it on the same images."""
    counts = sample.counts
    best = int(np.argmax(counts.id_at_most / counts.n_id - counts.ood_at_most / counts.n_ood))
    shares = counts.id_at_most[best] / counts.n_id, 1 - counts.ood_at_most[best] / counts.n_ood
    sizes = sample.id.effective(best), sample.ood.effective(best)
    means = [(share * size + 0.5) / (size + 1) for share, size in zip(shares, sizes, strict=True)]
    variance = sum(mean * (1 - mean) / (size + 2) for mean, size in zip(means, sizes, strict=True)) / 4
    unbiased = value - OPTIMISM * max(value - _cross_fitted(sample), 0.0)
    # Twice the smaller set, which dominates: the variance must stay below mean (1 - mean) for a Beta distribution.
    pooled = 2 * min(sizes)
    low, high = _beta((unbiased * pooled + 0.5) / (pooled + 1), variance)
    return max(low, 0.5), max(high, 0.5)


def _cross_fitted(sample: Sample) -> float:
    """Mean (TPR + TNR) / 2 of one half of the images at the threshold that is best for the other half.

    Averaged over both halves and `SPLITS` random halvings.
    """
    random = np.random.default_rng(SEED)
    sides = ((sample.id, sample.counts.id_at_most), (sample.ood, sample.counts.ood_at_most))
    gaps = []
    for _ in range(SPLITS):
        halves = [_halves(side, at_most, random) for side, at_most in sides]
        gap = halves[0] - halves[1]  # (2, entries): TPR - FPR of either half
        gaps += [gap[1, gap[0].argmax()], gap[0, gap[1].argmax()]]
    return float(np.mean(gaps) + 1) / 2


def _halves(side: ScorePlaces, at_most: NDArray[np.int64], random: np.random.Generator) -> Floats:
    """(2, entries): share of each random half that is accepted at each entry; groups are not split."""
    second = random.permutation(np.arange(side.independent) % 2 == 1)[side.group]
    of_second = np.bincount(side.entry[second], minlength=len(at_most)).cumsum()
    counts = np.stack((at_most - of_second, of_second))
    shares: Floats = counts / counts[:, -1:]
    return shares
