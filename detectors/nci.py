"""NCI: proximity of the centred feature to the weight vector of the predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._gaussian import mean_of
from oodbench.detectors._head import head
from oodbench.detectors._rows import by_rows


@detector(
    "nci",
    title="NCI (neural collapse inspired)",
    paper="Liu & Qin, Detecting Out-of-Distribution through the Lens of Neural Collapse, CVPR 2025",
    display_name="NCI",
    cite="liu2025nci",
)
class NCI(Detector):
    """-( w_c . (z - mu) / |z - mu| + alpha |z|_1 ): c the predicted class, w_c its weights, mu the training mean.

    A feature equal to mu has no direction: its first term is 0.

    Differs: the formula is that of the authors' code (in OpenOOD). They choose alpha from 1e-4 to 0.1 on OOD validation
    images; here it is a setting, whose default is the first of those values and OpenOOD's.
    """

    needs = frozenset({"features", "head", "logits"})
    grid = {"alpha": (1e-4, 1e-3, 1e-2, 1e-1)}
    alpha: float = 1e-4

    def __post_init__(self) -> None:
        """Check that alpha is not negative: that would reverse the effect of the norm."""
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be 0 or positive and finite, got {self.alpha}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the mean training feature and the head's weights."""
        self.mean_, self.weight_ = data.train.once(mean_of), head(classifier)[0]

    def score(self, batch: Batch) -> Tensor:
        """Negative sum of proximity and weighted norm."""
        kind = batch.features.dtype
        mean, weight = self.mean_.to(kind), self.weight_.to(kind)

        def scores(features: Tensor, predicted: Tensor) -> Tensor:
            centred = features - mean
            norms = torch.linalg.vector_norm(centred, dim=1, dtype=torch.float64)
            along = weight.index_select(0, predicted).mul_(centred).sum(dim=1, dtype=torch.float64)
            size = features.abs().sum(dim=1, dtype=torch.float64)
            return (along / torch.where(norms > 0, norms, 1.0)).add_(size, alpha=self.alpha).neg_()

        return by_rows(scores, batch.features, batch.logits.argmax(dim=1))
