"""VRA: energy of activations that are cut from below and clipped from above."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._rectified import Rectified, pooled_percentile, require_percentile

UNITS = 64
"""Units whose percentiles are taken at once: a matter of memory only."""


@detector(
    "vra",
    title="VRA",
    paper="Xu, Lian, Liu & Tao, VRA: Variational Rectified Activation for Out-of-Distribution Detection, NeurIPS 2023",
)
class VRA(Rectified):
    """Energy of the head on g(z): 0 where z < a, z + gamma from a to b, b where z > b, unit by unit.

    a and b are percentiles of each unit's training features, or with `pooled=true` of all units together. gamma above 0
    is the paper's VRA+; VRA++ is not offered. A unit whose b is not above 0 stays silent; if that is every unit, the
    percentiles are refused.

    Differs: OpenOOD and pytorch-ood raise what is below a to a, which is not the paper's function; OpenOOD pools the
    units and takes validation images from the test set. Defaults are those of the authors' code for CIFAR-10, whose
    percentiles are by unit; for ImageNet it has fixed thresholds.
    """

    grid = {"low": (10.0, 40.0, 60.0), "high": (90.0, 95.0, 99.0)}
    low: float = 60.0
    high: float = 90.0
    gamma: float = 0.0
    pooled: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no pair of percentiles."""
        require_percentile(self.low, "low")
        require_percentile(self.high, "high")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """The head, and both thresholds, each (D,) or a number."""
        super().fit(classifier, data)
        shares = (self.low, self.high)
        if self.pooled:
            low, high = (torch.tensor(pooled_percentile(data.train, share), dtype=torch.float64) for share in shares)
        else:
            pieces = data.train.features.numpy()
            columns = [pieces[:, k : k + UNITS].astype(np.float64) for k in range(0, pieces.shape[1], UNITS)]
            low, high = torch.from_numpy(np.concatenate([np.percentile(c, shares, axis=0) for c in columns], axis=1))
        if not (high > 0).any():
            raise DataError(
                f"The {self.high:g}th percentile of every unit's training features is at most 0: nothing of any image "
                "would be left. Choose a higher one."
            )
        self.low_, self.high_ = low, high

    def shaped(self, features: Tensor) -> Tensor:
        """g(z)."""
        raised = torch.where(features < self.low_, 0.0, features + self.gamma)
        return torch.where(features > self.high_, self.high_, raised)
