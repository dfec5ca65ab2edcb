"""DICE: energy of a sparsified head."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._gaussian import mean_of
from oodbench.detectors._rectified import Rectified, require_percentile


@detector(
    "dice",
    title="DICE",
    paper="Sun & Li, DICE: Leveraging Sparsification for Out-of-Distribution Detection, ECCV 2022",
)
class DICE(Rectified):
    """Energy of the head with only those weights whose contribution w_kd E[z_d] is above the percentile of all.

    One threshold holds for the whole K x D matrix; E[z] is the mean of the training features. The bias is kept.
    Features may have either sign.

    Differs: no difference from the authors' code, nor from OpenOOD. The paper uses 90 for CIFAR and 70 for ImageNet.
    """

    grid = {"percentile": (10.0, 30.0, 50.0, 70.0, 90.0)}
    percentile: float = 90.0

    def __post_init__(self) -> None:
        """Check the percentile."""
        require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head with the weights below the threshold set to 0."""
        super().fit(classifier, data)
        contribution = self.weight_ * mean_of(data.train)
        ordered = contribution.flatten().sort().values
        position = self.percentile / 100 * (len(ordered) - 1)
        low = int(position)
        threshold = ordered[low] + (position - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
        kept = contribution > threshold
        if not kept.any():
            raise DataError(
                f"No weight of the head contributes more than the {self.percentile:g}th percentile of all "
                "contributions, which are equal from there on; choose a lower percentile."
            )
        self.weight_ = torch.where(kept, self.weight_, 0.0)

    def shaped(self, features: Tensor) -> Tensor:
        """The features, unchanged."""
        return features
