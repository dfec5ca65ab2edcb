"""How far a metric may be off although no image of the sample differs from another: by images the sample lacks.

Where the values of two detectors have no variance (one separates the sets, the other gives all images one score), a
standard error of 0 says nothing. What remains is the rule of three: a share q of a source is missing from n independent
images with probability (1 - q)^n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.stats.clustered import zero_event_bound

Floats = NDArray[np.float64]

AT_A_QUANTILE = ("tnr_at_tpr95", "fpr_at_tpr95", "openood_fpr95")
"""The metrics at a threshold that 5% of unseen images can move anywhere."""

STEPS = 60
"""Halvings in the search for a share; the last interval is 1e-18 wide."""


@dataclass(frozen=True)
class UnseenImages:
    """What images that a sample lacks may do to one metric."""

    units: int
    """Independent images, or groups, of the smaller set."""
    metric: str
    """One of `metrics.names.METRICS`."""
    ratio: float = 1.0
    """OOD images per ID image, which the AUPR of counts depend on."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise AssertionError(f"{self.metric} is not one of {METRICS}")

    def reach(self, share: Floats) -> Floats:
        """By how much a difference of two values may change, at most, if `share` of a source was missed."""
        if self.metric in AT_A_QUANTILE:
            return 2 * np.where(share < 0.05, share, 1.0)
        if self.metric.startswith("aupr"):
            weight = {"aupr_in_counts": self.ratio, "aupr_out_counts": 1 / self.ratio}.get(self.metric, 1.0)
            return 2 * precision_loss(weight * share)
        return 2 * share

    @property
    def half_width(self) -> float:
        """Half of the 95% interval of a difference without variance."""
        return min(float(self.reach(np.array(zero_event_bound(self.units)))), 1.0)

    def p(self, difference: Floats) -> Floats:
        """Two-sided p of differences without variance, (M,), of which none is 0.

        Twice the probability to miss the smallest share of a source that would take the difference away.
        """
        wanted, low, high = np.abs(difference), np.zeros_like(difference), np.ones_like(difference)
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = self.reach(middle) >= wanted
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        p: Floats = np.minimum(2 * (1 - high) ** self.units, 1.0)
        return p


def precision_loss(weighted_share: Floats) -> Floats:
    """By how much the average precision may fall if a share of the negatives, times their weight, was missed.

    Worst case: a share q looks most like the positives. The average precision is then 1 - q log(1 + 1 / q).
    """
    loss: Floats = weighted_share * np.log1p(1 / np.maximum(weighted_share, 1e-300))
    return loss
