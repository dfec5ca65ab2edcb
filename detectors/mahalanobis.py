"""Mahalanobis distance to the nearest class mean, plain and relative to all training images; also normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._directions import Directions
from oodbench.detectors._gaussian import (
    CUTOFF,
    SINGLE,
    Whitening,
    class_means,
    covariance,
    eigen,
    nearest,
    require_cutoff,
    whitening,
)
from oodbench.detectors._moments import spread_of_all


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

    `normalise=true` does all this with z = f / |f|^power instead of f: `mahalanobis_pp`.

    Differs: OpenOOD rounds the pseudo-inverse to float32 and multiplies in float32. pytorch-ood adds 1e-6 to the
    diagonal instead, so that its ranking depends on the features' unit. The authors' detector combines five layers and
    input perturbation by a regression on OOD samples.
    """

    needs = frozenset({"features"})
    cutoff: float = CUTOFF
    normalise: bool = False
    power: float = 1.0

    def __post_init__(self) -> None:
        """Check the cutoff and the power, which only normalised features have."""
        require_cutoff(self.cutoff)
        if not math.isfinite(self.power):
            raise ValueError(f"power is the exponent of the norm and must be finite, got {self.power}")
        if self.power != 1 and not self.normalise:
            raise ValueError(f"power is the exponent of the norm; set normalise=true with it (power is {self.power})")

    @property
    def vectors(self) -> Sequence[Callable[[Batch], Tensor]]:
        """The argument that makes functions of `_gaussian` read normalised features; none for features as they are."""
        return [Directions(self.power)] if self.normalise else []

    def read(self, features: Tensor) -> Tensor:
        """Features (N, D) as they are, or normalised: float32 only where distances are computed in float32."""
        if not self.normalise:
            return features
        directions = Directions(self.power)
        single = Whitening(*self.space_).condition <= SINGLE
        return directions.rounded(features) if single else directions.of(features)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the class means and the square root of the covariance's pseudo-inverse."""
        self._fit_classes(classifier.num_classes, data)

    def _fit_classes(self, classes: int, data: FitData) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `fit` does; return covariance (D, D), means (K, D) and sizes (K,) of the classes."""
        means, counts = data.train.once(class_means, classes, *self.vectors)
        spread = data.train.once(covariance, means, *self.vectors)
        self.space_ = whitening(eigen(data.train, spread), means[counts > 0], self.cutoff, self.name)
        self.means_ = (means[counts > 0] - self.space_.origin) @ self.space_.root
        return spread, means, counts

    def score(self, batch: Batch) -> Tensor:
        """Squared Mahalanobis distance to the nearest class mean."""
        return nearest(self.read(batch.features), Whitening(*self.space_), self.means_)


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

    `normalise=true` does all this with z = f / |f|^power instead of f: `rmds_pp`.

    Differs: OpenOOD rounds the pseudo-inverses to float32, so that it subtracts two large numbers with seven digits
    each; its means and covariances are the same.
    """

    needs = frozenset({"features"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit `mahalanobis`, and the mean and covariance of all training features."""
        mean, spread = spread_of_all(*self._fit_classes(classifier.num_classes, data))
        self.background_ = whitening(eigen(data.train, spread), mean, self.cutoff, self.name)
        self.mean_ = (mean - self.background_.origin)[None] @ self.background_.root

    def score(self, batch: Batch) -> Tensor:
        """Squared distance to the nearest class mean minus the squared distance to the overall mean."""
        features = self.read(batch.features.double())
        own = nearest(features, Whitening(*self.space_), self.means_)
        return own - nearest(features, Whitening(*self.background_), self.mean_)


def _require_normalise(one: Mahalanobis, plain: str) -> None:
    """Refuse to switch off the normalisation that a detector is named after."""
    if not one.normalise:
        raise ValueError(f"normalise=false makes {one.name} plain `{plain}`; ask for `{plain}` instead")


@detector(
    "mahalanobis_pp",
    title="Mahalanobis++",
    paper="Mueller & Hein, Mahalanobis++: Improving OOD Detection via Feature Normalization, ICML 2025",
    display_name="Mahalanobis++",
    cite="muller2025mahalanobis",
)
class MahalanobisPP(Mahalanobis):
    """min_c (z - mu_c)^T S^+ (z - mu_c) with z = f / |f|, and class means and within-class covariance S of z.

    `mahalanobis` on the directions of features. Norms that differ much between images violate its assumption that
    all classes have one covariance. A feature of zeros stays zero.

    z is computed in float64 and rounded to float32 where `mahalanobis` would multiply in float32. `power` generalises
    it to z = f / |f|^power (Janiak, Binkowski & Kajdanowicz, arXiv:2510.15202, 2025): 0 leaves features as they are,
    values above 1 turn long features into short ones.

    Differs: none from the authors' code, whose pseudo-inverse comes from scikit-learn. `power` is 1 in the paper; its
    candidates surround that.
    """

    needs = frozenset({"features"})
    grid = {"power": (1.0, 0.5, 0.75, 1.25, 1.5)}
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the settings, and that the features are normalised."""
        super().__post_init__()
        _require_normalise(self, "mahalanobis")


@detector(
    "rmds_pp",
    title="Relative Mahalanobis++",
    paper="Mueller & Hein, Mahalanobis++: Improving OOD Detection via Feature Normalization, ICML 2025",
    display_name="Relative Mahalanobis++",
    cite="muller2025mahalanobis",
)
class RelativeMahalanobisPP(RelativeMahalanobis):
    """min_c MD_c(z) - MD_0(z) with z = f / |f|: `relative_mahalanobis` on the directions of features.

    `power` is that of `mahalanobis_pp`. Both distances are computed in float64.

    Differs: none from the authors' code, whose pseudo-inverses come from scikit-learn.
    """

    needs = frozenset({"features"})
    grid = {"power": (1.0, 0.5, 0.75, 1.25, 1.5)}
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the settings, and that the features are normalised."""
        super().__post_init__()
        _require_normalise(self, "relative_mahalanobis")
