"""Mahalanobis distance to the nearest class mean, plain and relative to the distance from all training images."""

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
    display_name="Mahalanobis",
    cite="lee2018mahalanobis",
)
class Mahalanobis(Detector):
    """min_c (f - mu_c)^T S^+ (f - mu_c), with the class means and within-class covariance S of training features.

    S is normalised by the number of images. S^+ is its pseudo-inverse: directions with at most `cutoff` times the
    largest variance are ignored. A class without training images has no mean and is left out; a class with one image
    has it as its mean. There is no input perturbation, and only the penultimate layer is used.

    All fitting is in float64. Features minus the mean of the class means are whitened in float32 if a bound on the
    relative error of the score, 2^-23 sqrt(condition), is below 8.5e-5, and in float64 otherwise. The condition is the
    sum of the largest variance and the largest squared distance of a class mean from the mean of them, divided by the
    smallest variance kept; float32 is used up to 5e5.

    Differs: OpenOOD rounds the pseudo-inverse to float32 and multiplies in float32. pytorch-ood adds 1e-6 to the
    diagonal instead, so that its ranking depends on the features' unit. The authors' detector combines five layers and
    input perturbation by a regression on OOD samples.
    """

    needs = frozenset({"features"})
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Check the cutoff."""
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the class means and the square root of the covariance's pseudo-inverse."""
        means, counts = data.train.once(class_means, classifier.num_classes)
        spread = data.train.once(covariance, means)
        self.space_ = whitening(spread, means[counts > 0], self.cutoff, self.name)
        self.means_ = (means[counts > 0] - self.space_.origin) @ self.space_.root

    def score(self, batch: Batch) -> Tensor:
        """Squared Mahalanobis distance to the nearest class mean."""
        return nearest(batch.features, Whitening(*self.space_), self.means_)


@detector(
    "relative_mahalanobis",
    title="Relative Mahalanobis",
    paper="Ren, Fort, Liu, Roy, Padhy & Lakshminarayanan, A Simple Fix to Mahalanobis Distance for Improving Near-OOD "
    "Detection, arXiv:2106.09022, 2021",
    display_name="Relative Mahalanobis",
    cite="ren2021relative",
)
class RelativeMahalanobis(Mahalanobis):
    """min_c MD_c(f) - MD_0(f): `mahalanobis` minus the squared distance from the mean of all training features.

    MD_0 uses the covariance around that mean. Singular covariances and classes without images are treated as in
    `mahalanobis`. Both distances are always computed in float64, because their difference is much smaller than either.

    Differs: OpenOOD rounds the pseudo-inverses to float32, so that it subtracts two large numbers with seven digits
    each; its means and covariances are the same.
    """

    needs = frozenset({"features"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit `mahalanobis`, and the mean and covariance of all training features."""
        super().fit(classifier, data)
        mean = data.train.once(mean_of)
        self.background_ = whitening(data.train.once(covariance, mean), mean, self.cutoff, self.name)
        self.mean_ = (mean - self.background_.origin)[None] @ self.background_.root

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest class mean minus the squared distance to the overall mean."""
        features = batch.features.double()
        own = nearest(features, Whitening(*self.space_), self.means_)
        return own - nearest(features, Whitening(*self.background_), self.mean_)
