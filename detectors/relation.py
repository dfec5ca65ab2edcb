"""Neural relation graph: mean relation of an image to the training images."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._gaussian import SUMMED
from oodbench.detectors._rows import gathered
from oodbench.detectors._similarity import Banked, bank_blocks, bank_of


@detector(
    "relation",
    title="Neural relation graph",
    paper="Kim, Yun & Song, Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data, "
    "NeurIPS 2023",
    display_name="Relation",
    cite="kim2023relation",
)
class Relation(Banked):
    """-mean_i r(x, x_i)^t over the training images x_i, with r = max(0, cos(f, f_i)) sum_k p_k p_ik and p the softmax.

    Cosines come from the shared product, in float32.

    Differs: the authors' code, and OpenOOD following it, drops every r up to 0.03, a threshold that is not in the
    equation: with many classes, every image with a nearly uniform prediction then scores exactly 0. `threshold=0.03`
    does the same. The authors use 1 / sum and OpenOOD the sum, with the same ranking. t is the authors' 1 for OOD
    detection; OpenOOD tunes it on OOD validation images.
    """

    needs = frozenset({"logits", "similarities"})
    grid = {"power": (1.0, 2.0, 4.0, 8.0)}
    power: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings: a power must be positive, or it would reverse the order."""
        super().__post_init__()
        if not 0 < self.power < float("inf") or not 0 <= self.threshold < 1:
            raise ValueError(f"power must be positive and threshold in [0, 1), got {self.power} and {self.threshold}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the softmax outputs of the bank."""
        blocks = ((torch.softmax(part.logits[own], dim=1).float(),) for part, own in bank_blocks(data, SUMMED))
        (self.probabilities_,) = gathered(len(bank_of(data)), blocks)

    def score(self, batch: Batch) -> Tensor:
        """Negative mean relation, at most 0."""
        agreement = torch.softmax(batch.logits, dim=1).float() @ self.probabilities_.T
        related = agreement.mul_(batch.similarities.clamp_min(0))
        if self.threshold > 0:
            related = torch.where(related > self.threshold, related, 0)
        if self.power != 1:
            related = related**self.power
        return -related.mean(dim=1, dtype=torch.float64)
