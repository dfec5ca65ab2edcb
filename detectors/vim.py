"""ViM: a virtual logit from the feature's residual outside the principal space; and the residual alone."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import BLOCK, CUTOFF, covariance, product, trapezoidal
from oodbench.detectors._head import head

SINGLE = 100.0
"""Largest ratio of |f - u| to the residual for which the residual is computed in float32. The ratio amplifies float32
rounding, to a relative error of 1e-5."""


def usual_dim(features: int) -> int:
    """The paper's number of principal directions, or half of the features where the paper has none."""
    return 1000 if features > 1500 else 512 if features >= 768 else features // 2


def mean_largest_logit(train: Batch) -> float:
    """The mean over images of the largest logit, computed in pieces."""
    return sum(float(part.logits.amax(dim=1).sum()) for part in train.batches(BLOCK)) / len(train)


@detector(
    "residual",
    title="Residual (of ViM)",
    paper="Wang, Li, Feng & Zhang, ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022",
)
class Residual(Detector):
    """|R^T (f - u)|: the part of f - u outside the `dim` principal directions of the training features around u.

    u = -W^+ b is the point where the logits of the head (W, b) are 0. The directions are eigenvectors of the mean outer
    product of f - u. `dim=0` chooses the number: 1000 for more than 1500 features and 512 for 768 to 1500, as in the
    paper, and half of the features below that. If the training features do not span more directions than that (ReLU
    units that are never active), it is half of the number that they span. A `dim` that leaves no residual of the
    training features is an error: all of them would score 0.

    All fitting is in float64. Residuals are computed in float32 if |f - u| is at most 100 times the residual in the
    training features (root mean squares), which gives a relative error of about 2^-23 times that ratio, and in float64
    otherwise.

    Differs: with 512 features OpenOOD's `residual` (dim 512) is constant, and its `vim` fails on the dim 1000 of its
    sweep. OpenOOD fits `residual` on validation images from the test set; here it is fitted on training images. The
    paper has no default for networks with few features.
    """

    needs = frozenset({"features"})
    grid = {"dim": (64, 256, 512, 1000)}
    dim: int = 0

    def __post_init__(self) -> None:
        """Check that `dim` is not negative."""
        if self.dim < 0:
            raise ValueError(f"dim is a number of directions, or 0 to choose, got {self.dim}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the origin u and the residual directions. Raises `DataError` if `dim` leaves no residual."""
        weight, bias = head(classifier)
        self.origin_ = -torch.linalg.pinv(weight) @ bias
        values, vectors = torch.linalg.eigh(covariance(data.train, self.origin_))
        features, spanned = len(values), int((values > CUTOFF * values[-1]).sum())
        dim = self.dim or usual_dim(features)
        if not self.dim and dim >= spanned:
            dim = spanned // 2
        if not 0 < dim < spanned:
            raise DataError(
                f"{self.name} needs a principal space smaller than what training features span: {dim} of {features} "
                f"directions were asked for, and they span {spanned}. Choose a dim from 1 to {spanned - 1}."
            )
        self.residual_ = trapezoidal(vectors[:, : features - dim])
        self.ratio_ = float((values.sum() / values[: features - dim].sum()).sqrt())

    def residual_of(self, features: Tensor) -> Tensor:
        """Length of the residual of features (N, D): float64 (N,)."""
        single = features.dtype == torch.float32 and self.ratio_ <= SINGLE
        kind = torch.float32 if single else torch.float64
        residual = product(features.to(kind) - self.origin_.to(kind), self.residual_)
        lengths: Tensor = torch.linalg.vector_norm(residual, dim=1, dtype=torch.float64)
        return lengths

    def score(self, batch: Batch) -> Tensor:
        """Length of the residual."""
        return self.residual_of(batch.features)


@detector(
    "vim",
    title="ViM",
    paper="Wang, Li, Feng & Zhang, ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022",
)
class ViM(Residual):
    """alpha |R^T (f - u)| - logsumexp(logits): the log odds of a virtual logit in a softmax with the others.

    R, u and `dim` are those of `residual`; alpha is the mean largest logit of the training images divided by their mean
    residual. The probability of the virtual logit, the paper's score, has the same order but saturates.

    Differs: no further difference from the authors' code, which also ranks by this difference. OpenOOD's default dim is
    256, which is also the choice here for its 512 features.
    """

    needs = frozenset({"features", "logits"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit `residual` and alpha. Raises `DataError` if the mean largest logit is not positive."""
        super().fit(classifier, data)
        largest = mean_largest_logit(data.train)
        if largest <= 0:
            raise DataError(
                f"ViM scales the residual by the mean largest logit of the training images, which is "
                f"{largest:.3g}; it must be positive."
            )
        total = sum(float(self.residual_of(part.features.double()).sum()) for part in data.train.batches(BLOCK))
        self.alpha_ = largest * len(data.train) / total

    def score(self, batch: Batch) -> Tensor:
        """Virtual logit minus logsumexp of the logits."""
        return self.alpha_ * self.residual_of(batch.features) - torch.logsumexp(batch.logits, dim=1)
