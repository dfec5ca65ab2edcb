"""SSD: Mahalanobis distance on normalised features."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._directions import Directions
from oodbench.detectors._gaussian import (
    CUTOFF,
    Whitening,
    class_covariances,
    class_means,
    eigen,
    nearest,
    require_cutoff,
    whitening,
)
from oodbench.detectors._moments import shared_moments


@detector(
    "ssd",
    title="SSD",
    paper="Sehwag, Chiang & Mittal, SSD: A Unified Framework for Self-Supervised Outlier Detection, ICLR 2021",
    display_name="SSD",
    cite="sehwag2021ssd",
)
class SSD(Detector):
    """min_m (z - mu_m)^T S_m^+ (z - mu_m), z = f / |f|, with the mean mu_m and covariance S_m of each cluster's z.

    `clusters="one"`: one cluster of all training images; `clusters="classes"`: one cluster per class. Each class must
    then have more images than there are directions in which z varies: the pseudo-inverse of a smaller class's
    covariance ignores most directions, and its distance is near 0 for every image. The method is designed for features
    of contrastive training.

    Differs: the authors first standardise z per unit, which changes no distance if S_m is not singular. They also offer
    k-means clusters, which are not implemented. OpenOOD's SSD cannot be run through its API.
    """

    needs = frozenset({"features"})
    clusters: str = "one"
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Check the clustering and the cutoff."""
        if self.clusters not in ("one", "classes"):
            raise ValueError(f"clusters must be 'one' or 'classes', got {self.clusters!r}")
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the mean and whitening of each cluster."""
        if self.clusters == "classes":
            means, counts = data.train.once(class_means, classifier.num_classes, Directions())
            spreads = data.train.once(class_covariances, means, counts, Directions())
            labels = counts.nonzero()[:, 0].tolist()
            found = [torch.linalg.eigh(spreads[k]) for k in labels]
        else:
            mean, spread = shared_moments(data.train, classifier.num_classes, Directions())
            means, labels, found = mean[None], [0], [eigen(data.train, spread)]
        self.spaces_ = [whitening(one, means[k], self.cutoff, self.name) for k, one in zip(labels, found, strict=True)]
        self.means_ = [
            (means[k] - space.origin)[None] @ space.root for k, space in zip(labels, self.spaces_, strict=True)
        ]
        ranks = [mean.shape[1] for mean in self.means_]
        if min(ranks) < max(ranks):
            worst = ranks.index(min(ranks))
            raise DataError(
                f"The features of class {labels[worst]} vary in {ranks[worst]} directions, those of "
                f"others in up to {max(ranks)}, so that their distances do not compare; use ssd[clusters=one]."
            )

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest cluster's mean."""
        z = Directions().of(batch.features)
        pairs = zip(self.spaces_, self.means_, strict=True)
        return torch.stack([nearest(z, Whitening(*space), mean) for space, mean in pairs]).amin(dim=0)
