"""NECO: the share of a feature that lies in the principal directions of the training features."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._directions import principal
from oodbench.detectors._gaussian import BLOCK, eigen
from oodbench.detectors._moments import shared_moments
from oodbench.detectors._rows import by_rows
from oodbench.detectors._rules import collapsed_dim

RATIO = 0.9
"""Share of the variance that the principal directions hold by default."""
CONSTANT = 1e-10
"""Largest variance of a unit, as a share of its squared mean, that rounding of float32 features explains."""


def ever_negative(train: Batch) -> bool:
    """Whether any training feature is below 0, as on ViT, Swin and ConvNeXt and not after a ReLU."""
    return any(bool((part.features < 0).any()) for part in train.batches(BLOCK))


@detector(
    "neco",
    title="NECO",
    paper="Ben Ammar, Belkhir, Popescu, Manzanera & Franchi, NECO: Neural Collapse Based Out-of-distribution "
    "Detection, ICLR 2024, eq. 6",
    display_name="NECO",
    cite="benammar2024neco",
)
class NECO(Detector):
    """-|P^T h| / |h|, times the largest logit on networks with signed features, for standardised features h.

    h = (f - mean) / standard deviation, per unit, over the training features; P are the `dim` leading eigenvectors of
    the covariance of h. A unit that is constant in training is centred and not scaled. An image at the mean of the
    training features has no direction: its ratio is 0. Largest logits below 0 reverse the order of the images that have
    them, as in the paper's formula.

    Default of `dim`: as many directions as hold 90% of the variance of h, but at most one less than training features
    vary in, and below 768 features at most K - 1 for K classes, the dimension of collapsed features. Authors: 100 of
    768 features (ViT-B) in their code, and 90% of the variance as a rule. Default suite: 8 of 128 features.

    Default of `max_logit`: true where a training feature is negative, as on transformers, and false otherwise. Authors:
    true for ViT, Swin and DeiT, false for ResNet. Default suite: false.

    Differs: the authors' code divides by the length of the unscaled feature on DeiT and Swin, and does not centre
    there; here h is the same on every network, as for their ViT and ResNet.
    """

    needs = frozenset({"features", "logits"})
    grid = {"dim": (None, 8, 16, 32, 64, 100, 128, 256, 512)}
    dim: int | None = None
    max_logit: bool | None = None

    def __post_init__(self) -> None:
        """Check that `dim` is positive; without the largest logit, logits are not needed."""
        if self.dim is not None and self.dim < 1:
            raise ValueError(f"dim is a number of directions from 1, or none for the default's rule, got {self.dim}")
        if self.max_logit is False:
            self.__dict__["needs"] = frozenset({"features"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit mean, scale and P. Raises `DataError` if `dim` holds all that training features vary in."""
        self.mean_, spread = shared_moments(data.train, classifier.num_classes)
        variances = spread.diagonal()
        varies = variances > CONSTANT * self.mean_.square()
        self.scale_ = torch.where(varies, variances, 1.0).sqrt()
        correlation = eigen(data.train, spread / self.scale_ / self.scale_[:, None])
        found = principal(correlation, 1.0 if varies.any() else 1e30, self.name)
        if self.dim is not None and self.dim >= found.spanned:
            raise DataError(
                f"{self.name} needs a principal space smaller than what training features span: {self.dim} directions "
                f"were asked for, and they span {found.spanned}. Choose a dim from 1 to {found.spanned - 1}."
            )
        chosen: dict[str, int | bool] = {}
        if self.dim is None:
            explained = found.dim_of(RATIO)
            chosen["dim"] = collapsed_dim(len(spread), classifier.num_classes, explained, found.spanned)
        if self.max_logit is None:
            chosen["max_logit"] = data.train.once(ever_negative)
        self.chosen_ = chosen
        self.directions_ = found.vectors[:, : chosen.get("dim", self.dim)].contiguous()
        self.times_logit_ = bool(chosen.get("max_logit", self.max_logit))

    def _ratio(self, features: Tensor) -> Tensor:
        """|P^T h| / |h| of features (N, D), float64 (N,), from 0 to 1."""
        h = (features.double() - self.mean_).div_(self.scale_)
        lengths = torch.linalg.vector_norm(h, dim=1)
        inside: Tensor = torch.linalg.vector_norm(h @ self.directions_, dim=1)
        return inside / torch.where(lengths > 0, lengths, 1.0)

    def score(self, batch: Batch) -> Tensor:
        """Negative share in the principal directions, times the largest logit where that belongs to it."""
        confidence = by_rows(self._ratio, batch.features)
        if self.max_logit is not False:
            largest = batch.logits.amax(dim=1)
            confidence = confidence * largest if self.times_logit_ else confidence
        return -confidence
