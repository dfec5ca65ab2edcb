"""GradNorm in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import require_temperature


@detector(
    "gradnorm",
    title="GradNorm",
    paper="Huang, Geng & Li, On the Importance of Gradients for Detecting Distributional Shifts in the Wild, "
    "NeurIPS 2021",
    display_name="GradNorm",
    cite="huang2021gradnorm",
)
class GradNorm(Detector):
    """-|z|_1 sum_k |p_k - 1/K|: the L1 norm of a gradient, p = softmax(f / T) and z the penultimate feature.

    The gradient of KL(uniform || p) with respect to the head's weights is the outer product (p - 1/K) z^T / T, whose L1
    norm is the product of two norms; no backward pass is needed. This holds for features of either sign.

    Differs: the authors' code makes one backward pass per image and has an additional factor K, and so does OpenOOD;
    the ranking is the same.
    """

    needs = frozenset({"features", "logits"})
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        require_temperature(self.temperature)

    def score(self, batch: Batch) -> Tensor:
        """Negative norm of the gradient, at most 0."""
        p = torch.softmax(batch.logits / self.temperature, dim=1)
        outer = (p - 1 / p.shape[1]).abs().sum(dim=1) / self.temperature
        return -batch.features.double().abs().sum(dim=1) * outer
