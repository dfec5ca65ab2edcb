"""SHE: inner product with a stored pattern of the predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import BLOCK
from oodbench.detectors._similarity import unit

METRICS = ("inner_product", "euclidean", "cosine")


@detector(
    "she",
    title="SHE (simplified Hopfield energy)",
    paper="Zhang et al., Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern "
    "Hopfield Energy, ICLR 2023",
)
class SHE(Detector):
    """-f . m_c: c the predicted class, m_c the mean feature of its correctly classified training images.

    `metric="euclidean"` and `"cosine"` measure by distance and by cosine instead, as OpenOOD offers. A class
    of which no training image is classified right has no pattern: images predicted as it are compared with the nearest
    pattern of the others.

    Differs: OpenOOD's patterns of such classes are NaN, and so are its scores. The authors' code applies an input step
    where it is set; it is not offered.
    """

    needs = frozenset({"features", "logits"})
    metric: str = "inner_product"

    def __post_init__(self) -> None:
        """Refuse metrics there are not."""
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average the features of the correctly classified training images of each class."""
        sums = torch.zeros(classifier.num_classes, classifier.weight.shape[1], dtype=torch.float64)
        counts = torch.zeros(classifier.num_classes, dtype=torch.int64)
        for part in data.train.batches(BLOCK):
            correct = part.logits.argmax(dim=1) == part.labels
            labels = part.labels[correct]
            sums.index_add_(0, labels, part.features[correct].double())
            counts += torch.bincount(labels, minlength=len(counts))
        found = counts.nonzero()[:, 0]
        if not len(found):
            raise DataError("SHE needs training images that are classified correctly; the network gets none right.")
        self.place_ = torch.full((classifier.num_classes,), -1)
        self.place_[found] = torch.arange(len(found))
        self.patterns_ = sums[found] / counts[found, None]

    def score(self, batch: Batch) -> Tensor:
        """Negative inner product, distance, or negative cosine."""
        features = batch.features.double()
        if self.metric == "euclidean":
            all_scores = torch.cdist(features, self.patterns_, compute_mode="donot_use_mm_for_euclid_dist")
        elif self.metric == "cosine":
            all_scores = -unit(features) @ unit(self.patterns_).T
        else:
            all_scores = -features @ self.patterns_.T
        place = self.place_[batch.logits.argmax(dim=1)]
        own = all_scores.gather(1, place.clamp_min(0)[:, None])[:, 0]
        return torch.where(place >= 0, own, all_scores.amin(dim=1))
