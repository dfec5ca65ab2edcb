"""Largest cosine between the feature and a class vector."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._gaussian import class_means
from oodbench.detectors._head import head
from oodbench.detectors._similarity import unit


@detector(
    "cosine",
    title="Largest cosine",
    paper="Zhang & Xiang, Decoupling MaxLogit for Out-of-Distribution Detection, CVPR 2023 (MaxCosine)",
    display_name="MaxCosine",
    cite="zhang2023decoupling",
)
class Cosine(Detector):
    """-max_c cos(f, w_c), w_c the head's weights of class c: the maximum logit without the feature's norm and the bias.

    `to="means"` uses the class means of the training features instead of w_c, and leaves out classes without images. A
    feature of zeros scores 0. For the cosine to the nearest training image, use `knn[k=1]`.

    Differs: the paper also trains networks for this score and combines it with the norm; neither is implemented. As in
    the paper, no bias is added.
    """

    needs = frozenset({"features", "head"})
    to: str = "weights"

    def __post_init__(self) -> None:
        """Check `to`; class means need no head."""
        if self.to not in ("weights", "means"):
            raise ValueError(f"to must be 'weights' or 'means', got {self.to!r}")
        if self.to == "means":
            object.__setattr__(self, "needs", self.needs - {"head"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Normalise the weights, or the class means."""
        if self.to == "weights":
            self.classes_ = unit(head(classifier)[0])
        else:
            means, counts = data.train.once(class_means, classifier.num_classes)
            self.classes_ = unit(means[counts > 0])

    def score(self, batch: Batch) -> Tensor:
        """Negative largest cosine, from -1 to 1."""
        return -(unit(batch.features) @ self.classes_.T).amax(dim=1)
