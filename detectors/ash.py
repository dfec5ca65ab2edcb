"""ASH and SCALE: energy of a feature that is pruned and scaled by its own largest activations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._rectified import Rectified, kept_from, refuse_negative, require_percentile


class OwnPercentile(Rectified):
    """Splits a feature at a percentile of its own units: of D, the D - round(D percentile / 100) largest are kept.

    Units tied with the smallest of them are kept too, and a unit at 0 never is: which one a sort puts first must not
    matter.
    """

    grid = {"percentile": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    percentile: float = 90.0

    def __post_init__(self) -> None:
        """Refuse what is no percentile."""
        require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """The head; an error for features below 0, or too few for the percentile."""
        super().fit(classifier, data)
        refuse_negative(data.train, self.name)
        if self._kept(self.weight_.shape[1]) < 1:
            raise DataError(
                f"Of {self.weight_.shape[1]} features none is above the {self.percentile:g}th percentile of an image; "
                "choose a lower one."
            )

    def _kept(self, units: int) -> int:
        return units - round(units * self.percentile / 100)

    def pruned(self, features: Tensor) -> Tensor:
        """Features (N, D) with all but each row's largest set to 0."""
        place = features.shape[1] - self._kept(features.shape[1])
        # NumPy's selection takes a fifth of the time of torch.topk
        smallest = torch.from_numpy(np.partition(features.numpy(), place, axis=1)[:, place, None])
        return kept_from(smallest.clamp_min(0), features, features)


def ratio(features: Tensor, pruned: Tensor) -> Tensor:
    """Sum of each row over the sum of what was kept of it, (N, 1), at least 1; 1 for a row of zeros."""
    kept = pruned.sum(dim=1, keepdim=True)
    return torch.where(kept > 0, features.sum(dim=1, keepdim=True) / torch.where(kept > 0, kept, 1.0), 1.0)


@detector(
    "ash",
    title="ASH",
    paper="Djurisic, Bozanic, Ashok & Liu, Extremely Simple Activation Shaping for Out-of-Distribution "
    "Detection, ICLR 2023",
)
class ASH(OwnPercentile):
    """Energy of the head on a feature of which only the largest units are kept, by the image's own percentile.

    `variant="s"`: what is kept, times exp(s1 / s2); `"b"`: s1 / n in each of the n units kept; `"p"`: what is kept. s1
    is the sum before, s2 after. Features must not be negative: the sums would mean nothing. A unit at 0 is never kept
    and ties are kept together, so that "b" on a feature with fewer active units than the percentile keeps fills the
    active ones alone.

    Differs: the authors' code keeps exactly k units, whichever the sort puts first, also units at 0, which "b" then
    fills. OpenOOD has variant "b"; through its `main.py` it is bit for bit Energy.
    """

    variant: str = "s"

    def __post_init__(self) -> None:
        """Refuse variants there are not."""
        super().__post_init__()
        if self.variant not in ("s", "b", "p"):
            raise ValueError(f"variant must be 's', 'b' or 'p', got {self.variant!r}")

    def shaped(self, features: Tensor) -> Tensor:
        """The feature, pruned; with its sum restored by "b", and scaled by "s"."""
        pruned = self.pruned(features)
        if self.variant == "p":
            return pruned
        if self.variant == "s":
            return pruned.mul_(torch.exp(ratio(features, pruned)))
        kept = (pruned > 0).to(features.dtype)
        return kept * features.sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp_min(1)


@detector(
    "scale",
    title="SCALE",
    paper="Xu, Chen, Franchi & Yao, Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement, "
    "ICLR 2024",
)
class Scale(OwnPercentile):
    """Energy of the head on z exp(s1 / s2): nothing is pruned, s1 is the sum of z, s2 that of its largest units.

    Features must not be negative. A unit at 0 adds nothing to either sum, so that ties do not matter.

    Differs: ties with the smallest unit kept are kept too, where the authors' code keeps exactly k units. OpenOOD
    chooses the percentile on OOD validation images; here it is the authors' 85.
    """

    percentile: float = 85.0

    def shaped(self, features: Tensor) -> Tensor:
        """The feature times exp(s1 / s2)."""
        return features * torch.exp(ratio(features, self.pruned(features)))
