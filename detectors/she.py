"""SHE: inner product with the stored pattern of the predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import SUMMED
from oodbench.detectors._rows import add_by_label, by_rows
from oodbench.detectors._similarity import unit

METRICS = ("inner_product", "euclidean", "cosine")


@detector(
    "she",
    title="SHE (simplified Hopfield energy)",
    paper="Zhang et al., Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern "
    "Hopfield Energy, ICLR 2023",
    display_name="SHE",
    cite="zhang2023she",
)
class SHE(Detector):
    """-f . m_c, where c is the predicted class and m_c the mean feature of its correctly classified training images.

    `metric="euclidean"` and `"cosine"` use the distance and the negative cosine instead, as OpenOOD offers. A class
    without correctly classified training images has no pattern; images predicted as such a class are compared with the
    nearest pattern of the others.

    Differs: OpenOOD's patterns of such classes are NaN, and so are its scores. The optional input perturbation of the
    authors' code is not implemented.
    """

    needs = frozenset({"features", "logits"})
    metric: str = "inner_product"

    def __post_init__(self) -> None:
        """Check the metric."""
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average the features of the correctly classified training images of each class."""
        width = next(data.train.batches(1)).features.shape[1]
        sums = torch.zeros(classifier.num_classes, width, dtype=torch.float64)
        counts = torch.zeros(classifier.num_classes, dtype=torch.int64)
        for part in data.train.batches(SUMMED):
            correct = part.logits.argmax(dim=1) == part.labels
            labels = part.labels[correct]
            add_by_label(sums, labels, part.features[correct])
            counts += torch.bincount(labels, minlength=len(counts))
        found = counts.nonzero()[:, 0]
        if not len(found):
            raise DataError("SHE needs training images that are classified correctly; the network gets none right.")
        self.place_ = torch.full((classifier.num_classes,), -1)
        self.place_[found] = torch.arange(len(found))
        self.patterns_ = sums[found] / counts[found, None]

    def score(self, batch: Batch) -> Tensor:
        """Negative inner product, distance, or negative cosine."""
        kind = batch.features.dtype if self.metric == "inner_product" else torch.float64
        features, patterns = batch.features, self.patterns_.to(kind)
        place = self.place_[batch.logits.argmax(dim=1)]

        def scores_of(rows: Tensor, own: Tensor) -> Tensor:
            return self._measured(rows.to(kind), patterns.index_select(0, own))

        scores = by_rows(scores_of, features, place.clamp_min(0))
        for image in (place < 0).nonzero()[:, 0].tolist():
            scores[image] = self._measured(features[image].to(kind), patterns).amin()
        return scores

    def _measured(self, features: Tensor, patterns: Tensor) -> Tensor:
        """The metric between features (N, D) and one pattern each, or one feature (D,) and all patterns; float64 (N,).

        The inner product multiplies in the features' precision, with terms accurate to 1e-7, and sums in float64.
        """
        if self.metric == "euclidean":
            distances: Tensor = torch.linalg.vector_norm(features - patterns, dim=1)
            return distances
        if self.metric == "cosine":
            return -(unit(features.expand_as(patterns)) * unit(patterns)).sum(dim=1)
        return (features * patterns).sum(dim=1, dtype=torch.float64).neg_()
