"""DICE: energy of a sparsified head."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._gaussian import mean_of
from oodbench.detectors._rectified import Rectified, require_percentile
from oodbench.detectors._rules import DENSENET, ever_active, percentile_of


@detector(
    "dice",
    title="DICE",
    paper="Sun & Li, DICE: Leveraging Sparsification for Out-of-Distribution Detection, ECCV 2022",
    display_name="DICE",
    cite="sun2022dice",
)
class DICE(Rectified):
    """Energy of the head with only those weights whose contribution w_kd E[z_d] is above the percentile of all.

    One threshold holds for the whole K x D matrix; E[z] is the mean of the training features. The bias is kept.
    Features may have either sign.

    Default of `percentile`: the authors' from 342 features on. Below, the one that keeps as many weights of a class
    (mean) as theirs keeps of 342, but at most half of those of units that are ever active. Authors: 90 for CIFAR with
    342 features (DenseNet), which keeps 34 weights of a class; 70 for ImageNet with 2048. Default suite: 73, which
    keeps 34 of 128, of which 70 to 76 are of units that are ever active.

    Differs: no difference from the authors' code, nor from OpenOOD, whose percentile is 90.
    """

    grid = {"percentile": (None, 10.0, 30.0, 50.0, 70.0, 90.0)}
    percentile: float | None = None

    def __post_init__(self) -> None:
        """Check the percentile."""
        if self.percentile is not None:
            require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head with the weights below the threshold set to 0."""
        super().fit(classifier, data)
        mean = data.train.once(mean_of)
        if (percentile := self.percentile) is None:
            percentile = percentile_of(len(mean), ever_active(mean), 90.0, DENSENET)
            self.chosen_ = {"percentile": percentile}
        contribution = self.weight_ * mean
        ordered = contribution.flatten().sort().values
        position = percentile / 100 * (len(ordered) - 1)
        low = int(position)
        threshold = ordered[low] + (position - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
        kept = contribution > threshold
        if not kept.any():
            raise DataError(
                f"No weight of the head contributes more than the {percentile:g}th percentile of all "
                "contributions, which are equal from there on; choose a lower percentile."
            )
        self.weight_ = torch.where(kept, self.weight_, 0.0)

    def shaped(self, features: Tensor) -> Tensor:
        """The features, unchanged."""
        return features
