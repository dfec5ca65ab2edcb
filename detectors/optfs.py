"""OptFS: feature shaping by a piecewise constant factor that is learned from ID data in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._head import energy, head
from oodbench.detectors._rectified import COUNTED, pooled_percentile
from oodbench.detectors._rows import by_rows

LOWEST, HIGHEST = 0.1, 99.9
"""Percentiles of all training features between which the bins lie."""
LENGTH = 1000.0
"""Length of the vector of factors, as in the authors' code: the unit of the scores, and how little biases count."""


@detector(
    "optfs",
    title="OptFS",
    paper="Zhao, Xu, Gupta, Asthana, Zheng & Gould, Towards Optimal Feature-Shaping Methods for Out-of-Distribution "
    "Detection, ICLR 2024",
    display_name="OptFS",
    cite="zhao2024optfs",
)
class OptFS(Detector):
    """-w f', f'_d = theta_b f_d for the bin b that f_d lies in; theta_b ~ E[sum_d w_d f_d over the units in b].

    w is the head's weight of the class that is predicted from the unchanged feature, and the mean is that of training
    images. The `bins` have equal widths between the 0.1th and the 99.9th percentile of all training features, pooled
    over units; a unit outside of them becomes 0. Of all theta of the same length, 1000, this one gives the largest mean
    score to training images. Features may have either sign, as those of ViT, Swin and ConvNeXt have.

    `statistic="logit"`, the default of the authors' script and their "Ours (V)", is that shaped logit without the
    class's bias; `"energy"`, their "Ours (E)", is -logsumexp of all shaped logits with biases.

    Differs: there are exactly `bins` bins, where the authors' `numpy.arange` sometimes makes one more. On the same
    arrays their code and this give the same order (Spearman above 0.9999).
    """

    needs = frozenset({"features", "head", "logits"})
    grid = {"bins": (20, 50, 100, 200), "statistic": ("logit", "energy")}
    bins: int = 100
    statistic: str = "logit"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}")
        if self.statistic not in ("logit", "energy"):
            raise ValueError(f"statistic must be 'logit' or 'energy', got {self.statistic!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head, the bins and their factors.

        Raises `DataError` if features do not vary, or contribute nothing to logits.
        """
        self.weight_, self.bias_ = head(classifier)
        low, high = (pooled_percentile(data.train, percentile) for percentile in (LOWEST, HIGHEST))
        if not high > low:
            raise DataError(
                f"{self.name} divides the range of training features into bins, but their 0.1th and their 99.9th "
                f"percentile are both {low:.3g}; look at the network and its training."
            )
        self.low_, self.width_ = low, (high - low) / self.bins
        sums = np.zeros(self.bins + 1)
        for part in data.train.batches(COUNTED):
            features = part.features
            contributions = self.weight_[part.logits.argmax(dim=1)] * features
            bins = self._bins(features).flatten().numpy()
            sums += np.bincount(bins, contributions.flatten().numpy(), minlength=self.bins + 1)
        sums[-1] = 0
        if not (length := float(np.linalg.norm(sums))) > 0:
            raise DataError(
                f"{self.name} learns from what features contribute to the logits of the training images, which is 0 in "
                "every bin; look at the network's head."
            )
        self.factors_ = torch.from_numpy(sums * (LENGTH / length))

    def _bins(self, features: Tensor) -> Tensor:
        """The bin of each unit, int64 (N, D); one more than the last bin for a unit in none."""
        places = ((features.double() - self.low_) / self.width_).floor_()
        inside = (places >= 0) & (places < self.bins)
        return torch.where(inside, places, float(self.bins)).long()

    def shaped(self, features: Tensor) -> Tensor:
        """Each unit times the factor of its bin, (N, D)."""
        return by_rows(lambda rows: self.factors_.to(rows.dtype)[self._bins(rows)] * rows, features)

    def score(self, batch: Batch) -> Tensor:
        """The negative energy, or logit, of the shaped features."""
        shaped = self.shaped(batch.features)
        if self.statistic == "energy":
            return energy(shaped, self.weight_, self.bias_)
        weight = self.weight_[batch.logits.argmax(dim=1)].to(shaped.dtype)
        return -(weight * shaped).double().sum(dim=1)
