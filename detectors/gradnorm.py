"""GradNorm, in closed form."""

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
)
class GradNorm(Detector):
    """-|z|_1 sum_k |p_k - 1/K|: the L1 norm of a gradient, p = softmax(f / T) and z the penultimate feature.

    The gradient, with respect to the head's weights, of KL(uniform || p) is (p - 1/K) z^T / T, an outer product, so
    that its norm is the product of two; no backward pass is made. It holds for features of either sign.

    Differs: the authors' code makes a backward pass an image and has the factor K, OpenOOD's the same: both rank alike.
    """

    needs = frozenset({"features", "logits"})
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse temperatures for which the softmax is not defined."""
        require_temperature(self.temperature)

    def score(self, batch: Batch) -> Tensor:
        """Negative norm of the gradient, at most 0."""
        p = torch.softmax(batch.logits / self.temperature, dim=1)
        outer = (p - 1 / p.shape[1]).abs().sum(dim=1) / self.temperature
        return -batch.features.double().abs().sum(dim=1) * outer
