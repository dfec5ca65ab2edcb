"""CARef and CADRef: how far a feature is from the mean feature of its predicted class, relative to its own size."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import SUMMED
from oodbench.detectors._head import head
from oodbench.detectors._rows import add_by_label, by_rows
from oodbench.detectors._softmax import margins
from oodbench.detectors.gen import GEN

SMALLEST = 1e-12
"""Smallest |f|_1: keeps the score finite for a feature of zeros."""
FAINT = 1e-6
"""Smallest confidence of an image, as a share of the mean confidence of the training images."""
CONFIDENCES = ("energy", "max_logit", "msp", "gen")
PAPER = (
    "Ling, Chang, Zhao, Zhao, Chow & Deng, CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled "
    "Relative Feature Leveraging, CVPR 2025"
)


def means_by_prediction(train: Batch, classes: int) -> Tensor:
    """Mean feature of the images predicted as each class, float64 (K, D); the mean of all where there is none."""
    sums, counts = torch.zeros(1), torch.zeros(classes, dtype=torch.int64)
    for part in train.batches(SUMMED):
        features, predicted = part.features, part.logits.argmax(dim=1)
        if sums.ndim == 1:
            sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        add_by_label(sums, predicted, features)
        counts += torch.bincount(predicted, minlength=classes)
    means = sums / counts.clamp_min(1)[:, None]
    means[counts == 0] = sums.sum(dim=0) / counts.sum()
    return means


def confidence_of(batch: Batch, kind: str) -> Tensor:
    """The confidence in the predicted class, one of `CONFIDENCES`, float64 (N,); higher = more in-distribution."""
    logits = batch.logits
    if kind == "max_logit":
        return logits.amax(dim=1)
    if kind == "msp":
        return 1 / (1 + margins(logits).odds()[:, 0])
    if kind == "gen":
        return GEN(top=max(10, logits.shape[1] // 10)).score(batch).neg_().exp_()
    return torch.logsumexp(logits, dim=1)


def mean_confidence(train: Batch, kind: str) -> float:
    """The mean over images of `confidence_of`, computed in pieces."""
    return sum(float(confidence_of(part, kind).sum()) for part in train.batches(SUMMED)) / len(train)


@detector("caref", title="CARef", paper=PAPER, display_name="CARef", cite="ling2025cadref")
class CARef(Detector):
    """|f - mu_c|_1 / |f|_1, where mu_c is the mean feature of the training images that are predicted as c.

    f is the feature and c its predicted class. A class that is predicted for no training image has the mean of all.
    |f|_1 counts as at least 1e-12, so that a feature of zeros has a finite and very large score. Features may have
    either sign, as those of ViT, Swin and ConvNeXt have.

    Differs: in the authors' code the mean of a class without predictions, and with it the score, is NaN; pytorch-ood
    uses the mean of all, as here. On the same arrays the authors' code gives our order (Spearman above 0.9999).
    """

    needs = frozenset({"features", "logits"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average the features by predicted class."""
        self.means_ = data.train.once(means_by_prediction, classifier.num_classes)

    def score(self, batch: Batch) -> Tensor:
        """The relative distance from the class mean, at least 0."""
        return by_rows(self._error, batch.features, batch.logits.argmax(dim=1))

    def _error(self, features: Tensor, predicted: Tensor) -> Tensor:
        """Of features (N, D): float64 (N,). Differences are in their precision, sums in float64."""
        away = features - self.means_.to(features.dtype)[predicted]
        return away.abs_().sum(dim=1, dtype=torch.float64) / _size(features)


@detector("cadref", title="CADRef", paper=PAPER, display_name="CADRef", cite="ling2025cadref")
class CADRef(Detector):
    """E_p / S + E_n / mean S: `caref` split by whether a unit raises or lowers the logit of the predicted class c.

    With r = f - mu_c and the head's weights w_c, E_p = sum_i max(sign(w_ci) r_i, 0) / |f|_1 and E_n = sum_i
    max(-sign(w_ci) r_i, 0) / |f|_1; their sum is the score of `caref`, without units of weight 0. S is a `confidence`
    of the logits: "energy", logsumexp; "max_logit"; "msp", the largest softmax; "gen", 1 over the sum of `gen` with its
    max(10, K / 10) largest terms. Its mean is that over training images; the image's own counts as at least a millionth
    of that, since an energy or a logit may be negative. mu and |f|_1 are those of `caref`. Features may have either
    sign, as those of ViT, Swin and ConvNeXt have.

    Differs: the printed equations 7 and 8 split by the sign of w_ci f_i and take the norm of a sum; the text, figure 2
    and the authors' code split r and sum its parts, as pytorch-ood does, and as here. On the same arrays with
    positive S the authors' code gives our order for every confidence (Spearman above 0.9999).
    """

    needs = frozenset({"features", "logits", "head"})
    grid = {"confidence": CONFIDENCES}
    confidence: str = "energy"

    def __post_init__(self) -> None:
        """Check the confidence."""
        if self.confidence not in CONFIDENCES:
            raise ValueError(f"confidence must be one of {', '.join(CONFIDENCES)}, got {self.confidence!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average the features by predicted class, and the confidence. Raises `DataError` if that is not positive."""
        self.signs_ = head(classifier)[0].sign()
        self.means_ = data.train.once(means_by_prediction, classifier.num_classes)
        self.confidence_ = data.train.once(mean_confidence, self.confidence)
        if not self.confidence_ > 0:
            raise DataError(
                f"CADRef divides by the confidence '{self.confidence}', whose mean over the training images is "
                f"{self.confidence_:.3g} and must be positive; use cadref[confidence=msp], which always is."
            )

    def score(self, batch: Batch) -> Tensor:
        """The sum of both relative distances, each divided by a confidence; at least 0."""
        errors = by_rows(self._errors, batch.features, batch.logits.argmax(dim=1))
        own = confidence_of(batch, self.confidence).clamp_min(FAINT * self.confidence_)
        return errors[:, 0] / own + errors[:, 1] / self.confidence_

    def _errors(self, features: Tensor, predicted: Tensor) -> Tensor:
        """E_p and E_n of features (N, D): float64 (N, 2). Differences are in their precision, sums in float64."""
        kind = features.dtype
        aligned = (features - self.means_.to(kind)[predicted]).mul_(self.signs_.to(kind)[predicted])
        raising = aligned.clamp_min(0)
        parts = [raising.sum(dim=1, dtype=torch.float64), (raising - aligned).sum(dim=1, dtype=torch.float64)]
        return torch.stack(parts, dim=1) / _size(features)[:, None]


def _size(features: Tensor) -> Tensor:
    """|f|_1 of features (N, D), at least `SMALLEST`: float64 (N,)."""
    return features.abs().sum(dim=1, dtype=torch.float64).clamp_min_(SMALLEST)
