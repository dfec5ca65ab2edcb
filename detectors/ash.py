"""ASH and SCALE: energy of a feature that is pruned, or scaled, based on its own largest activations."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Classifier, FitData, detector
from oodbench.detectors._rectified import Rectified, kept_from, mean_active, require_percentile, units_above
from oodbench.detectors._rules import DENSENET, RESNET18, percentile_of


class OwnPercentile(Rectified):
    """Keeps the D - round(D percentile / 100) largest of an image's D units.

    Units tied with the smallest one kept are kept, too, and a unit at 0 is never kept, so that the result does not
    depend on how a sort orders ties.
    """

    grid = {"percentile": (None, 50.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    authors: ClassVar[tuple[float, int]] = (90.0, DENSENET)
    """The authors' percentile, and the number of features of the narrowest network that they use."""
    percentile: float | None = None

    def __post_init__(self) -> None:
        """Check the percentile."""
        if self.percentile is not None:
            require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head. Raises `DataError` for negative features, and if the percentile keeps no unit."""
        super().fit(classifier, data)
        units, active = self.weight_.shape[1], mean_active(data.train, self.name)
        if self.percentile is None:
            self.percentile_ = percentile_of(units, active, *self.authors)
            self.chosen_ = {"percentile": self.percentile_}
        else:
            self.percentile_ = self.percentile
        self._kept(units)

    def _kept(self, units: int) -> int:
        return units_above(units, self.percentile_)

    def pruned(self, features: Tensor) -> Tensor:
        """Features (N, D) with all units of each row except the largest set to 0."""
        place = features.shape[1] - self._kept(features.shape[1])
        # np.partition takes a fifth of the time of torch.topk
        smallest = torch.from_numpy(np.partition(features.numpy(), place, axis=1)[:, place, None])
        return kept_from(smallest.clamp_min(0), features, features)


def ratio(features: Tensor, pruned: Tensor) -> Tensor:
    """Sum of each row divided by the sum of its kept units, (N, 1), at least 1; 1 for a row of zeros."""
    kept = pruned.sum(dim=1, keepdim=True)
    return torch.where(kept > 0, features.sum(dim=1, keepdim=True) / torch.where(kept > 0, kept, 1.0), 1.0)


@detector(
    "ash",
    title="ASH",
    paper="Djurisic, Bozanic, Ashok & Liu, Extremely Simple Activation Shaping for Out-of-Distribution "
    "Detection, ICLR 2023",
    display_name="ASH",
    cite="djurisic2023ash",
)
class ASH(OwnPercentile):
    """Energy of the head on a feature of which only the largest units are kept, by a percentile within the image.

    `variant="s"`: the kept units, times exp(s1 / s2); `"b"`: each of the n kept units is set to s1 / n; `"p"`: the kept
    units. s1 is the sum of the feature before pruning, s2 after. Features must not be negative, or the sums would have
    no meaning. A unit at 0 is never kept and ties are kept together: if a feature has fewer active units than the
    percentile keeps, "b" fills only the active ones.

    Default of `percentile`: the authors' from 342 features on. Below, the one that keeps as many units as theirs keeps
    of 342, but at most half of the units above 0 in a training image (mean). Authors: 90 for 342 (DenseNet) to 2048
    features (ResNet-50), which keeps 34 to 205 units. Default suite: 79 to 81, 24 to 27 of 128 units, of which 48 to 54
    are above 0.

    Differs: the authors' code keeps exactly k units, whichever the sort puts first, including units at 0, which "b"
    then fills. OpenOOD has variant "b"; run through its `main.py`, it is bit for bit Energy.
    """

    variant: str = "s"

    def __post_init__(self) -> None:
        """Check the percentile and the variant."""
        super().__post_init__()
        if self.variant not in ("s", "b", "p"):
            raise ValueError(f"variant must be 's', 'b' or 'p', got {self.variant!r}")

    def shaped(self, features: Tensor) -> Tensor:
        """The pruned features; "b" restores their sum and "s" scales them."""
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
    display_name="SCALE",
    cite="xu2024scale",
)
class Scale(OwnPercentile):
    """Energy of the head on z exp(s1 / s2), where s1 is the sum of the feature z and s2 that of its largest units.

    Nothing is pruned. Features must not be negative. Units at 0 add nothing to either sum, so ties at 0 do not matter.

    Default of `percentile`: the authors' from 512 features on. Below, the one that counts as many units as theirs
    counts of 512, but at most half of the units above 0 in a training image (mean). Authors: 85 for 512 (ResNet-18) to
    2048 features (ResNet-50), which counts 77 to 307 units. Default suite: 79 to 81, 24 to 27 of 128 units, of which 48
    to 54 are above 0.

    Differs: units tied with the smallest one counted in s2 are counted, too; the authors' code counts exactly k units.
    OpenOOD chooses the percentile on OOD validation images.
    """

    authors = (85.0, RESNET18)

    def shaped(self, features: Tensor) -> Tensor:
        """The features times exp(s1 / s2)."""
        return features * torch.exp(ratio(features, self.pruned(features)))
