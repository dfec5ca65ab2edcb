"""DeLong's covariance of AUROC, from the contribution of each image to the area.

DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988), 837-845, computed from ranks as in Sun & Xu, IEEE Signal
Processing Letters 21 (2014), 1389-1393: two sorts instead of N x M comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Placements:
    """Placement values: where each image lies among those of the other set. The mean of either array is AUROC.

    float64, in the order of the scores.
    """

    of_id: NDArray[np.float64]
    """(N,): share of OOD scores above each ID score, ties counting half."""
    of_ood: NDArray[np.float64]
    """(M,): share of ID scores below each OOD score, ties counting half."""

    @classmethod
    def of(cls, id_scores: ArrayLike, ood_scores: ArrayLike) -> Placements:
        """From (N,) ID and (M,) OOD scores, higher = more OOD; `metrics.exact` has checked that they are finite."""
        id_array, ood_array = np.asarray(id_scores), np.asarray(ood_scores)
        return cls(1 - _share_below(id_array, np.sort(ood_array)), _share_below(ood_array, np.sort(id_array)))

    @property
    def auroc(self) -> float:
        """P(OOD score > ID score) + P(equal) / 2."""
        return float(self.of_ood.mean())

    @property
    def variance(self) -> float:
        """DeLong's variance of `auroc`; NaN where a set has a single image and so no variance."""
        return float(covariance([self])[0, 0])


def covariance(placements: Sequence[Placements]) -> NDArray[np.float64]:
    """(D, D) covariance of the AUROCs of D detectors on the same images; NaN where a set has a single image."""
    total = np.zeros((len(placements), len(placements)))
    for values in ([p.of_id for p in placements], [p.of_ood for p in placements]):
        stacked = np.stack(values)
        count = stacked.shape[1]
        if count < 2:
            return np.full_like(total, np.nan)
        centred = stacked - stacked.mean(axis=1, keepdims=True)
        total += centred @ centred.T / (count - 1) / count
    return total


def _share_below(scores: NDArray[np.generic], sorted_others: NDArray[np.generic]) -> NDArray[np.float64]:
    below = np.searchsorted(sorted_others, scores, side="left")
    at_most = np.searchsorted(sorted_others, scores, side="right")
    shares: NDArray[np.float64] = (below + at_most) / (2 * len(sorted_others))
    return shares
