"""Mahalanobis distance to the nearest class mean, plain and relative to that of all training images."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._gaussian import (
    CUTOFF,
    class_means,
    covariance,
    mean_of,
    require_cutoff,
    squared_distances,
    whitening,
)


@detector(
    "mahalanobis",
    title="Mahalanobis",
    paper="Lee, Lee, Lee & Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
    "Attacks, NeurIPS 2018, eq. 2, on the penultimate features",
)
class Mahalanobis(Detector):
    """min_c (f - mu_c)^T S^+ (f - mu_c): class means and one covariance S, that within classes, of training features.

    S is divided by the number of images. S^+ is its pseudo-inverse: directions with at most `cutoff` times the largest
    variance are not looked at. A class without training images has no mean and is left out; a class with one image has
    that image as its mean. No step on the input and no other layers.

    Differs: OpenOOD rounds the pseudo-inverse to float32 and multiplies in it. pytorch-ood adds 1e-6 to the diagonal
    instead, so that its ranking changes with the features' unit. The authors' detector combines five layers and an
    input step by a regression on OOD samples.
    """

    needs = frozenset({"features"})
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Refuse cut-offs outside (0, 1)."""
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Class means, and the square root of the covariance's pseudo-inverse."""
        means, counts = class_means(data.train, classifier.num_classes)
        self.transform_ = whitening(covariance(data.train, means), means, self.cutoff, self.name)
        self.means_ = means[counts > 0]

    def score(self, batch: Batch) -> Tensor:
        """Squared Mahalanobis distance to the nearest class mean."""
        return squared_distances(batch.features, self.means_, self.transform_).amin(dim=1)


@detector(
    "relative_mahalanobis",
    title="Relative Mahalanobis",
    paper="Ren, Fort, Liu, Roy, Padhy & Lakshminarayanan, A Simple Fix to Mahalanobis Distance for Improving Near-OOD "
    "Detection, arXiv:2106.09022, 2021",
)
class RelativeMahalanobis(Mahalanobis):
    """min_c MD_c(f) - MD_0(f): `mahalanobis`, less the squared distance to all training features' mean.

    MD_0 uses the covariance around that mean. Singular covariances and absent classes are treated as in `mahalanobis`.

    Differs: OpenOOD rounds the pseudo-inverses to float32, so that two large numbers are subtracted that have seven
    digits; its means and covariances are the same.
    """

    needs = frozenset({"features"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Those of `mahalanobis`, and mean and covariance of all training features."""
        super().fit(classifier, data)
        self.mean_ = mean_of(data.train)
        self.background_ = whitening(covariance(data.train, self.mean_), self.mean_, self.cutoff, self.name)

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest class mean, less that to the mean of all."""
        background = squared_distances(batch.features, self.mean_[None], self.background_)[:, 0]
        return super().score(batch) - background
