"""SSD: Mahalanobis distance on normalised features."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import CUTOFF, require_cutoff, squared_distances, whitening
from oodbench.detectors._similarity import unit


@detector(
    "ssd",
    title="SSD",
    paper="Sehwag, Chiang & Mittal, SSD: A Unified Framework for Self-Supervised Outlier Detection, ICLR 2021",
)
class SSD(Detector):
    """min_m (z - mu_m)^T S_m^+ (z - mu_m) with z = f / |f|; mean mu_m and covariance S_m of each cluster's z.

    `clusters="one"`: all training images; `clusters="classes"`: one a class. A class must then have more
    images than z varies in directions: the pseudo-inverse of a smaller class's covariance is blind to most directions,
    and its distance is near 0 for every image. The method is meant for features of contrastive training.

    Differs: the authors standardise z unit by unit before, which changes no distance where S_m is not singular; with
    `clusters` a number, they cluster by k-means, which is not offered. OpenOOD's SSD cannot be run through its API.
    """

    needs = frozenset({"features"})
    clusters: str = "one"
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Refuse clusterings there are not, and cut-offs outside (0, 1)."""
        if self.clusters not in ("one", "classes"):
            raise ValueError(f"clusters must be 'one' or 'classes', got {self.clusters!r}")
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Mean and whitening of each cluster."""
        z, labels = unit(data.train.features), data.train.labels
        transforms, means = [], []
        groups = [labels == k for k in labels.unique()] if self.clusters == "classes" else [torch.ones_like(labels) > 0]
        for group in groups:
            own = z[group]
            means.append(own.mean(dim=0))
            centred = own - means[-1]
            transforms.append(whitening(centred.T @ centred / len(own), means[-1], self.cutoff, self.name))
        ranks = [transform.shape[1] for transform in transforms]
        if min(ranks) < max(ranks):
            worst = ranks.index(min(ranks))
            raise DataError(
                f"The features of class {int(labels.unique()[worst])} vary in {ranks[worst]} directions, those of "
                f"others in up to {max(ranks)}, so that their distances do not compare; use ssd[clusters=one]."
            )
        self.means_, self.transforms_ = means, transforms

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest cluster's mean."""
        z = unit(batch.features)
        pairs = zip(self.means_, self.transforms_, strict=True)
        return torch.cat([squared_distances(z, mean[None], w) for mean, w in pairs], dim=1).amin(dim=1)
