"""ViM: a virtual logit from the feature's residual outside the principal space; and the residual alone."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import BLOCK, CUTOFF, SUMMED, eigen, product, trapezoidal
from oodbench.detectors._head import head
from oodbench.detectors._moments import shared_moments
from oodbench.detectors._rules import principal_dim

SINGLE = 100.0
"""Largest ratio of |f - u| to the residual for which the residual is computed in float32. The ratio amplifies float32
rounding, to a relative error of 1e-5."""


def _residuals(features: Tensor, origin: Tensor, directions: Tensor, single: bool) -> Tensor:
    """|R^T (f - u)| of features f, (N, D), origin u, (D,), and directions R, (D, R); float64 (N,).

    `single`: of float32 features, the difference and its product are computed in float32; otherwise in float64.
    """
    kind = torch.float32 if single and features.dtype == torch.float32 else torch.float64
    away = product(features.to(kind) - origin.to(kind), directions)
    lengths: Tensor = torch.linalg.vector_norm(away, dim=1, dtype=torch.float64)
    return lengths


def sum_of_residuals(train: Batch, origin: Tensor, directions: Tensor, single: bool) -> float:
    """The sum over images of |R^T (f - u)|, added up in float64; arguments as in `_residuals`."""
    blocks = train.batches(SUMMED)
    return sum(float(_residuals(block.features, origin, directions, single).sum()) for block in blocks)


def mean_largest_logit(train: Batch) -> float:
    """The mean over images of the largest logit, computed in pieces."""
    return sum(float(part.logits.amax(dim=1).sum()) for part in train.batches(BLOCK)) / len(train)


@detector(
    "residual",
    title="Residual (of ViM)",
    paper="Wang, Li, Feng & Zhang, ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022",
    display_name="Residual",
    cite="wang2022vim",
)
class Residual(Detector):
    """|R^T (f - u)|: the part of f - u outside the `dim` principal directions of the training features around u.

    u = -W^+ b is the point where the logits of the head (W, b) are 0. The directions are eigenvectors of the mean outer
    product of f - u. A `dim` that leaves no residual of the training features is an error: all of them would score 0.

    Directions are computed in float64. Residuals are computed in float32 if |f - u| is at most 100 times the residual
    in the training features (root mean squares), which gives a relative error of about 2^-23 times that ratio, and in
    float64 otherwise.

    Default of `dim`: below 768 features half of the directions that the training features span (ReLU units that are
    never active span none); from 768 on the paper's number, but at most two thirds of the spanned directions, the
    largest share in the paper. Authors: 512 of 768 features, 1000 of 2048. Default suite: 35 to 38 of 128 features,
    which span 71 to 77.

    Differs: with 512 features OpenOOD's `residual` (dim 512) is constant, and its `vim` fails on the dim 1000 of its
    sweep. OpenOOD fits `residual` on validation images from the test set; here it is fitted on training images. The
    paper has no default for networks with few features.
    """

    needs = frozenset({"features", "head"})
    grid = {"dim": (None, 16, 32, 64, 128, 256, 512, 1000)}
    dim: int | None = None

    def __post_init__(self) -> None:
        """Check that `dim` is positive."""
        if self.dim is not None and self.dim < 1:
            raise ValueError(f"dim is a number of directions from 1, or none for the default's rule, got {self.dim}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the origin u and the residual directions. Raises `DataError` if `dim` leaves no residual."""
        weight, bias = head(classifier)
        self.origin_ = -torch.linalg.pinv(weight) @ bias
        values, vectors = eigen(data.train, shared_moments(data.train, classifier.num_classes).about(self.origin_))
        features, spanned = len(values), int((values > CUTOFF * values[-1]).sum())
        if spanned < 2:
            raise DataError(
                f"{self.name} measures what lies outside the principal directions of the training features, which span "
                f"{spanned} of {features}, and need to span two; look at the network and its training."
            )
        dim = self.dim or principal_dim(features, spanned)
        if dim >= spanned:
            raise DataError(
                f"{self.name} needs a principal space smaller than what training features span: {dim} of {features} "
                f"directions were asked for, and they span {spanned}. Choose a dim from 1 to {spanned - 1}."
            )
        if self.dim is None:
            self.chosen_ = {"dim": dim}
        self.residual_ = trapezoidal(vectors[:, : features - dim])
        self.ratio_ = float((values.sum() / values[: features - dim].sum()).sqrt())

    def residual_of(self, features: Tensor) -> Tensor:
        """Length of the residual of features (N, D): float64 (N,)."""
        return _residuals(features, self.origin_, self.residual_, self._single)

    @property
    def _single(self) -> bool:
        """Whether float32 is accurate enough for the residuals of float32 features."""
        return self.ratio_ <= SINGLE

    def score(self, batch: Batch) -> Tensor:
        """Length of the residual."""
        return self.residual_of(batch.features)


@detector(
    "vim",
    title="ViM",
    paper="Wang, Li, Feng & Zhang, ViM: Out-Of-Distribution with Virtual-logit Matching, CVPR 2022",
    display_name="ViM",
    cite="wang2022vim",
)
class ViM(Residual):
    """alpha |R^T (f - u)| - logsumexp(logits): the log odds of a virtual logit in a softmax with the others.

    R, u and `dim` are those of `residual`; alpha is the mean largest logit of the training images divided by their mean
    residual, in the precision of scores. The probability of the virtual logit, the paper's score, has the same order
    but saturates.

    Default of `dim`: that of `residual`. Authors: 512 of 768 features, 1000 of 2048. Default suite: 35 to 38 of 128
    features, which span 71 to 77.

    Differs: no further difference from the authors' code, which also ranks by this difference. OpenOOD's default dim is
    256, which is also the choice here for its 512 features, if they are all active.
    """

    needs = frozenset({"features", "head", "logits"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit `residual` and alpha. Raises `DataError` if the mean largest logit is not positive."""
        super().fit(classifier, data)
        largest = data.train.once(mean_largest_logit)
        if largest <= 0:
            raise DataError(
                f"ViM scales the residual by the mean largest logit of the training images, which is "
                f"{largest:.3g}; it must be positive."
            )
        residuals = data.train.once(sum_of_residuals, self.origin_, self.residual_, self._single)
        self.alpha_ = largest * len(data.train) / residuals

    def score(self, batch: Batch) -> Tensor:
        """Virtual logit minus logsumexp of the logits."""
        return self.alpha_ * self.residual_of(batch.features) - torch.logsumexp(batch.logits, dim=1)
