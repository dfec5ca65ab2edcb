"""Thresholds that accept a stated share of ID images, and what a sample says about the share of all images accepted.

An image is accepted when its score is at most the threshold. The threshold for a share is an order statistic of the
scores, as in `metrics.exact.tpr_threshold`. Intervals are at the level of `clustered.LEVEL` and exact for independent
images with distinct scores; images in groups count as fewer (`ScorePlaces.effective`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import checked_scores
from oodbench.benchmark.stats.clustered import TAIL, ScorePlaces


class Threshold(NamedTuple):
    """The score up to which images are accepted, and how well a sample determines it."""

    value: float
    """The smallest score at which at least `tpr` of the sample is accepted."""
    tpr: float
    """The share that was asked for."""
    low: float | None
    """Lower end of the interval of the score at which `tpr` of all images is accepted; None if the sample is too small
    to bound it."""
    high: float | None
    """Upper end, likewise."""
    accepted: float
    """Share of the sample that is accepted, at least `tpr`."""
    accepted_low: float
    """Lower end of the interval of the share of all images that `value` accepts."""
    accepted_high: float
    """Upper end."""
    images: int
    """Number of images in the sample, N."""
    effective: float
    """How many independent images they are worth, 1 to N; N without groups."""


def rank_of(tpr: float, images: int) -> int:
    """How many of N images must be accepted for a share of at least `tpr`: ceil(tpr N), from 1 to N.

    A product that misses an integer by rounding counts as that integer: 0.55 of 100 images is 55.
    """
    return min(max(math.ceil(round(tpr * images, 9)), 1), images)


def threshold_at(scores: ArrayLike, tpr: float, groups: ArrayLike | None = None) -> Threshold:
    """The threshold that accepts a share of ID images, from a sample of their scores.

    Args:
        scores: (N,) ID scores, higher = more OOD.
        tpr: The share to accept, above 0 and at most 1.
        groups: (N,) integers, equal for images that depend on each other; None if all are independent.

    Raises:
        MetricError: `tpr` is outside (0, 1], or `scores` are not finite numbers.
    """
    if not 0 < tpr <= 1:
        raise MetricError(f"tpr is the share of ID images to accept, above 0 and at most 1; got {tpr:g}.")
    values = np.asarray(checked_scores(scores, "scores"), dtype=np.float64)
    ordered = np.sort(values)
    count, rank = len(ordered), rank_of(tpr, len(ordered))
    value = float(ordered[rank - 1])
    accepted = int(np.searchsorted(ordered, value, side="right"))
    size = _effective(values, ordered, value, groups)
    low, high = _order_statistics(ordered, tpr, size)
    share = accepted / count
    return Threshold(value, tpr, low, high, share, *_share_accepted(rank / count, accepted, count, size), count, size)


def share_interval(accepted: int, images: int) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share, given `accepted` of `images` (Biometrika 26 (1934), 404)."""
    from scipy.special import betaincinv

    low = 0.0 if accepted == 0 else float(betaincinv(accepted, images - accepted + 1, TAIL))
    high = 1.0 if accepted == images else float(betaincinv(accepted + 1, images - accepted, 1 - TAIL))
    return low, high


def _effective(
    values: NDArray[np.float64], ordered: NDArray[np.float64], value: float, groups: ArrayLike | None
) -> float:
    """How many independent images the sample is worth where its share accepted at `value` is concerned."""
    if groups is None:
        return float(len(values))
    distinct = np.unique(ordered)
    places = ScorePlaces.of(values, distinct, np.asarray(groups))
    return places.effective(int(np.searchsorted(distinct, value)) + 1) if places.independent > 1 else 1.0


def _order_statistics(ordered: NDArray[np.float64], tpr: float, size: float) -> tuple[float | None, float | None]:
    """The order statistics between which the score that accepts `tpr` of all images lies.

    Of n independent images, the number at or below it is binomial (n, tpr). With B the number, the k-th smallest score
    is above it with probability P(B < k), so that P(B < low) and P(B >= high) are each at most 2.5%.
    """
    from scipy.special import bdtr

    trials = max(round(size), 1)
    cumulative = bdtr(np.arange(trials + 1), trials, tpr)  # P(B <= k)
    low_rank = int(np.searchsorted(cumulative, TAIL, side="right"))  # largest k with P(B <= k - 1) <= TAIL
    high_rank = int(np.searchsorted(cumulative, 1 - TAIL)) + 1  # smallest k with P(B <= k - 1) >= 1 - TAIL
    scale, count = len(ordered) / trials, len(ordered)
    low = None if low_rank < 1 else float(ordered[max(math.floor(low_rank * scale), 1) - 1])
    high = None if high_rank > trials else float(ordered[min(math.ceil(high_rank * scale), count) - 1])
    return low, high


def _share_accepted(share: float, accepted: int, count: int, size: float) -> tuple[float, float]:
    """The interval of the share of all images at or below the sample's k-th smallest score, k = share N.

    Of n independent images with distinct scores it has the distribution Beta(k, n - k + 1). Where scores are tied with
    the threshold, more are accepted: the upper end is that of a share of `accepted` of N.
    """
    from scipy.special import betaincinv

    low = float(betaincinv(share * size, size - share * size + 1, TAIL))
    most = accepted / count * size
    high = float(betaincinv(most, size - most + 1, 1 - TAIL))
    return low, high
