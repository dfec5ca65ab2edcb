"""Mahalanobis distance to the nearest class mean, plain and relative to that of all training images."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._gaussian import (
    CUTOFF,
    Whitening,
    class_means,
    covariance,
    mean_of,
    nearest,
    require_cutoff,
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

    All is fitted in float64. Features minus the mean of the class means are whitened in float32 where a bound on what
    that does to the score, 2^-23 sqrt(condition) relative, is below 8.5e-5, and in float64 elsewhere. The condition is
    the largest variance, plus the largest squared distance of a class mean from the mean of them, over the smallest
    variance kept; float32 serves up to 5e5.

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
        self.space_ = whitening(covariance(data.train, means), means[counts > 0], self.cutoff, self.name)
        self.means_ = (means[counts > 0] - self.space_.origin) @ self.space_.root

    def score(self, batch: Batch) -> Tensor:
        """Squared Mahalanobis distance to the nearest class mean."""
        return nearest(batch.features, Whitening(*self.space_), self.means_)


@detector(
    "relative_mahalanobis",
    title="Relative Mahalanobis",
    paper="Ren, Fort, Liu, Roy, Padhy & Lakshminarayanan, A Simple Fix to Mahalanobis Distance for Improving Near-OOD "
    "Detection, arXiv:2106.09022, 2021",
)
class RelativeMahalanobis(Mahalanobis):
    """min_c MD_c(f) - MD_0(f): `mahalanobis`, less the squared distance to all training features' mean.

    MD_0 uses the covariance around that mean. Singular covariances and absent classes are treated as in `mahalanobis`.
    Both are measured in float64 whatever the condition: the difference of the two is much smaller than either.

    Differs: OpenOOD rounds the pseudo-inverses to float32, so that two large numbers are subtracted that have seven
    digits; its means and covariances are the same.
    """

    needs = frozenset({"features"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Those of `mahalanobis`, and mean and covariance of all training features."""
        super().fit(classifier, data)
        mean = mean_of(data.train)
        self.background_ = whitening(covariance(data.train, mean), mean, self.cutoff, self.name)
        self.mean_ = (mean - self.background_.origin)[None] @ self.background_.root

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest class mean, less that to the mean of all."""
        features = batch.features.double()
        own = nearest(features, Whitening(*self.space_), self.means_)
        return own - nearest(features, Whitening(*self.background_), self.mean_)
