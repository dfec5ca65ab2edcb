"""fDBD: distance of the feature from the decision boundaries."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import mean_of
from oodbench.detectors._head import head
from oodbench.detectors._rows import by_rows

SMALLEST = 1e-12
"""Smallest denominator: keeps the score finite for a feature at the mean (or at 0)."""


@detector(
    "fdbd",
    title="fDBD",
    paper="Liu & Qin, Fast Decision Boundary based Out-of-Distribution Detector, ICML 2024",
    display_name="fDBD",
    cite="liu2024fdbd",
)
class FDBD(Detector):
    """-mean over classes k other than the predicted c of [ (f_c - f_k) / |w_c - w_k| ] / |z - mu|.

    f are the logits, w the head's weights, z the feature and mu the mean of the training features. This is the distance
    from z to the boundary between c and k, exact because the head is linear, relative to the distance from the mean.
    `normalizer="norm"` divides by |z| instead.

    Differs: the authors' code sums over all classes instead of averaging over K - 1, with the same ranking. OpenOOD
    chooses the normaliser on OOD validation images.
    """

    needs = frozenset({"features", "head", "logits"})
    normalizer: str = "distance"

    def __post_init__(self) -> None:
        """Check the normaliser."""
        if self.normalizer not in ("distance", "norm"):
            raise ValueError(f"normalizer must be 'distance' or 'norm', got {self.normalizer!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Compute the mean training feature and the distances between the head's weight vectors."""
        weight, _ = head(classifier)
        apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(1)
        if (apart == 0).any():
            one, other = (apart == 0).nonzero()[0].tolist()
            raise DataError(
                f"Classes {one} and {other} have the same weights in the head: no boundary lies between them."
            )
        self.apart_, mean = apart, data.train.once(mean_of)
        self.mean_ = mean if self.normalizer == "distance" else torch.zeros_like(mean)

    def _away(self, features: Tensor) -> Tensor:
        """Distance of features (N, D) from the mean, or from 0; float64 (N,)."""
        apart = features - self.mean_.to(features.dtype)
        return torch.linalg.vector_norm(apart, dim=1, dtype=torch.float64)  # type: ignore[no-any-return]

    def score(self, batch: Batch) -> Tensor:
        """Negative normalised mean distance to the boundaries."""
        best, predicted = batch.logits.max(dim=1)
        distances = ((best[:, None] - batch.logits) / self.apart_[predicted]).sum(dim=1) / (len(self.apart_) - 1)
        away = by_rows(self._away, batch.features)
        return -distances / away.clamp_min(SMALLEST)
