"""95% confidence intervals of a cell's metrics: what another draw of test images might give the same network.

The images are the source of error here; the training seed is another. As in `metrics`, only the order of the scores is
looked at, so a strictly increasing map of them moves nothing, and equal input gives equal bytes. `docs/uncertainty.md`
has the formulas, how often each interval holds the true value, and what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import Counts, evaluate
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.stats.clustered import TAIL, Floats, ScorePlaces, student_quantile, zero_event_bound
from oodbench.benchmark.stats.delong import Placements

INTERVALS_VERSION = "1"
"""Part of every cell's key; raise it when an interval changes."""

FEW = 40
"""Fewer independent ID images than this hardly ever reach beyond the true 95% quantile by enough to bound it."""

SPLITS, SEED = 8, 0
"""Halvings of the images behind the bias correction of detection accuracy, and the seed that makes them."""

OPTIMISM = 1 / (1 + 2 ** (2 / 3) / 3)
"""Share of the gap between resubstituted and cross-fitted accuracy that is resubstitution's bias: 0.654."""

PRECISIONS = ("aupr_in", "aupr_out", "aupr_in_counts", "aupr_out_counts")
"""Metrics that are averages of precision."""

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Sample:
    """A cell's scores, sorted once."""

    counts: Counts
    id: ScorePlaces
    ood: ScorePlaces

    @property
    def mirrored(self) -> Sample:
        """Every score negated and the sets exchanged: what is said of ID becomes said of OOD."""
        c, entries = self.counts, len(self.counts.id_at_most)
        counts = Counts(c.n_ood - c.ood_at_most[::-1], c.n_id - c.id_at_most[::-1])
        return Sample(counts, *(ScorePlaces(entries - side.entry, side.group) for side in (self.ood, self.id)))


def confidence_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    id_groups: ArrayLike | None = None,
    ood_groups: ArrayLike | None = None,
) -> dict[str, Interval]:
    """The 95% interval (low, high) of every metric of `records.METRICS`, in [0, 1]; each holds the metric itself.

    Scores as in `metrics.evaluate`: (N,) ID, (M,) OOD, higher = more OOD. Groups, (N,) and (M,) integers, mark images
    that depend on each other; None: all are independent. Of the scatter of a set with one image or one group nothing is
    known, so that every interval is (0, 1). Raises `MetricError`.
    """
    return intervals_around(evaluate(id_scores, ood_scores), id_scores, ood_scores, id_groups, ood_groups)


def intervals_around(
    values: Mapping[str, float],
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    id_groups: ArrayLike | None = None,
    ood_groups: ArrayLike | None = None,
) -> dict[str, Interval]:
    """The same where the metrics of the scores, `values`, are known already. Raises `MetricError` for groups."""
    id_array, ood_array = np.asarray(id_scores), np.asarray(ood_scores)
    distinct = np.unique(np.concatenate((id_array, ood_array)))
    id_side = ScorePlaces.of(id_array, distinct, _checked(id_groups, len(id_array), "id_groups"))
    ood_side = ScorePlaces.of(ood_array, distinct, _checked(ood_groups, len(ood_array), "ood_groups"))
    if min(id_side.independent, ood_side.independent) < 2:
        return dict.fromkeys(METRICS, (0.0, 1.0))
    found = _each(Sample(_counts(id_side, ood_side, len(distinct)), id_side, ood_side), values)
    return {name: _holding(found[name], values[name]) for name in METRICS}


def _checked(groups: ArrayLike | None, size: int, name: str) -> NDArray[np.integer] | None:
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise MetricError(f"{name} is {array.dtype} of shape {array.shape}; expected {size} integers, one a score.")
    return array


def _counts(id_side: ScorePlaces, ood_side: ScorePlaces, distinct: int) -> Counts:
    at_most = [np.bincount(side.entry, minlength=distinct + 1).cumsum() for side in (id_side, ood_side)]
    return Counts(*at_most)


def _holding(interval: Interval, value: float) -> Interval:
    """An interval whose centre is corrected might miss the value that is printed; it may not."""
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


def _on_logits(sample: Sample, value: float, id_values: Floats, ood_values: Floats, miss: float) -> Interval:
    """From what each image adds to a metric, (N,) and (M,): value and scatter on the scale of log(v / (1 - v)).

    Half a pair in favour of either side keeps 0 and 1 finite, and Student's t with the degrees of freedom that the
    scatter itself shows widens what rests on a few images. Where no image differs from another, the interval reaches as
    far as sources may lie from this sample: `miss`.
    """
    scatter = sample.id.variance_of_mean(id_values) + sample.ood.variance_of_mean(ood_values)
    if scatter.variance < 1e-30:  # rounding; one pair of ten million times ten million images makes 1e-28
        return max(value - miss, 0.0), min(value + miss, 1.0)
    pairs = sample.id.independent * sample.ood.independent
    centre = (value * pairs + 0.5) / (pairs + 1)
    reach = student_quantile(scatter.freedom) * np.sqrt(scatter.variance) / (centre * (1 - centre))
    odds = centre / (1 - centre) * np.exp(np.clip([-reach, reach], -700, 700))
    low, high = odds / (1 + odds)
    return float(low), float(high)


def _auroc(sample: Sample, value: float) -> Interval:
    placed = Placements.of(sample.id.entry, sample.ood.entry)
    return _on_logits(sample, value, placed.of_id, placed.of_ood, _miss(sample))


def _average_precision(sample: Sample, value: float, ood_weight: float) -> Interval:
    """ID is positive."""
    missed = ood_weight * _miss(sample)
    # A share q of OOD that this sample missed, and that looks most like ID: AP = 1 - q log(1 + 1 / q).
    worst = missed * np.log1p(1 / missed)
    return _on_logits(sample, value, *_precision_parts(sample, ood_weight), worst)


def _precision_parts(sample: Sample, ood_weight: float) -> tuple[Floats, Floats]:
    """(N,), (M,): what an image adds to AP with ID positive, by its derivative along both sets' distributions.

    With T and F the shares of ID and OOD accepted, AP = sum of dT P over tie groups, P = T / (T + w F). An image at an
    entry raises T or F there and at all later ones.
    """
    counts = sample.counts
    true, false = counts.id_at_most[1:] / counts.n_id, ood_weight * counts.ood_at_most[1:] / counts.n_ood
    step, retrieved = np.diff(counts.id_at_most) / counts.n_id, true + false
    by_true, by_false = step * false / retrieved**2, -ood_weight * step * true / retrieved**2
    of_id = true / retrieved + by_true[::-1].cumsum()[::-1]
    of_ood = by_false[::-1].cumsum()[::-1]
    return of_id[sample.id.entry - 1], of_ood[sample.ood.entry - 1]


def precision_influences(metric: str, id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Floats, Floats]:
    """What each ID image, (N,), and each OOD image, (M,), adds to one of `PRECISIONS`, in the order of the scores.

    To first order the metric is a constant plus the means of both. Scores as `metrics.evaluate` takes them.
    """
    arrays = np.asarray(id_scores), np.asarray(ood_scores)
    distinct = np.unique(np.concatenate(arrays))
    of_id, of_ood = (ScorePlaces(np.searchsorted(distinct, array) + 1, np.arange(len(array))) for array in arrays)
    sample, ratio = Sample(_counts(of_id, of_ood, len(distinct)), of_id, of_ood), len(of_ood) / len(of_id)
    if metric in ("aupr_in", "aupr_in_counts"):
        return _precision_parts(sample, 1.0 if metric == "aupr_in" else ratio)
    added = _precision_parts(sample.mirrored, 1.0 if metric == "aupr_out" else 1 / ratio)
    return added[1], added[0]


def _miss(sample: Sample) -> float:
    return zero_event_bound(min(sample.id.independent, sample.ood.independent))


def _tnr(sample: Sample) -> Interval:
    """TNR at the true 95% quantile of ID: mean and variance over where that quantile and the true TNR there may lie.

    The quantile by its place among the ID scores (`_places`), the TNR there by a Beta distribution of OOD images that
    Jeffreys' prior gives; of the mixture the first two moments are kept.
    """
    counts = sample.counts
    entry = int(np.searchsorted(counts.id_at_most, -(-19 * counts.n_id // 20)))
    size = sample.ood.effective(entry)
    weights, shares = _places(counts, sample.id.effective(entry))
    means = (shares * size + 0.5) / (size + 1)
    mean = float(weights @ means)
    variance = float(weights @ (means * (1 - means) / (size + 2) + (means - mean) ** 2))
    return _beta(mean, variance)


def _places(counts: Counts, size: float) -> tuple[Floats, Floats]:
    """Weights of places where the true quantile may lie, summing to 1, and the share of OOD above each.

    At an ID score with the weight that it has in Harrell & Davis's quantile (Biometrika 69 (1982)), the bootstrap's
    exact distribution of an order statistic of rank 0.95 (N + 1) (Hutson & Ernst, JRSS B 62 (2000)). Of `FEW` or fewer
    images the largest would often have to stand for what lies above it; there the quantile lies between two scores with
    the binomial chance that so many lie below it, above the largest included.
    """
    from scipy.special import bdtr, betainc

    if size < FEW:
        below = np.arange(round(size) + 1)
        weights = np.diff(bdtr(below, len(below) - 1, 0.95), prepend=0.0)
        edges = np.append(_above(counts, below / (len(below) - 1)), 0.0)
        return weights, (edges[:-1] + edges[1:]) / 2
    rank, beyond = 0.95 * (size + 1), 0.05 * (size + 1)
    spread = 8 * np.sqrt(0.05 * 0.95 / size)
    first, last = (int(np.clip(share * counts.n_id, 0, counts.n_id)) for share in (0.95 - spread, 0.95 + spread))
    ranks = np.arange(first, last + 1) / counts.n_id
    weights = np.diff(betainc(rank, beyond, ranks))
    return weights / weights.sum(), _above(counts, ranks[1:])


def _above(counts: Counts, shares: Floats) -> Floats:
    """Share of OOD above the smallest ID score that at least a share of ID does not exceed; all of it for share 0."""
    needed = np.rint(shares * counts.n_id)
    above: Floats = 1 - counts.ood_at_most[np.searchsorted(counts.id_at_most, needed)] / counts.n_ood
    return above


def _beta(mean: float, variance: float) -> Interval:
    """The interval of the Beta distribution with this mean and variance."""
    from scipy.special import betaincinv

    size = mean * (1 - mean) / variance - 1
    low, high = betaincinv(mean * size, (1 - mean) * size, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _detection_accuracy(sample: Sample, value: float) -> Interval:
    """Two binomial shares at the best threshold, moved down by what choosing it on the same images gained."""
    counts = sample.counts
    best = int(np.argmax(counts.id_at_most / counts.n_id - counts.ood_at_most / counts.n_ood))
    shares = counts.id_at_most[best] / counts.n_id, 1 - counts.ood_at_most[best] / counts.n_ood
    sizes = sample.id.effective(best), sample.ood.effective(best)
    means = [(share * size + 0.5) / (size + 1) for share, size in zip(shares, sizes, strict=True)]
    variance = sum(mean * (1 - mean) / (size + 2) for mean, size in zip(means, sizes, strict=True)) / 4
    unbiased = value - OPTIMISM * max(value - _cross_fitted(sample), 0.0)
    pooled = 2 * min(
        sizes
    )  # the smaller set's share decides; a Beta distribution has less variance than mean (1 - mean)
    low, high = _beta((unbiased * pooled + 0.5) / (pooled + 1), variance)
    return max(low, 0.5), max(high, 0.5)


def _cross_fitted(sample: Sample) -> float:
    """(TPR + TNR) / 2 of one half of the images at the threshold that is best for the other, over both and `SPLITS`."""
    entries = len(sample.counts.id_at_most)
    random = np.random.default_rng(SEED)
    gaps = []
    for _ in range(SPLITS):
        halves = [_halves(side, entries, random) for side in (sample.id, sample.ood)]
        gap = halves[0] - halves[1]  # (2, entries): TPR - FPR of either half
        gaps += [gap[1, gap[0].argmax()], gap[0, gap[1].argmax()]]
    return float(np.mean(gaps) + 1) / 2


def _halves(side: ScorePlaces, entries: int, random: np.random.Generator) -> Floats:
    """(2, entries) shares of either random half accepted at each entry; groups stay whole."""
    half = random.permutation(side.independent)[side.group] % 2
    counts = np.bincount(side.entry + entries * half, minlength=2 * entries).reshape(2, entries).cumsum(axis=1)
    shares: Floats = counts / counts[:, -1:]
    return shares
