"""Free energy of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector


@detector(
    "energy",
    title="Energy",
    paper="Liu, Wang, Owens & Li, Energy-based Out-of-distribution Detection, NeurIPS 2020, eq. 4",
    display_name="Energy",
    cite="liu2020energy",
)
class Energy(Detector):
    """E(x; T) = -T log sum_k exp(f_k / T); a higher energy means more OOD."""

    grid = {"temperature": (0.5, 1.0, 2.0, 10.0, 100.0)}
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def score(self, batch: Batch) -> Tensor:
        """The energy at temperature T."""
        scaled = batch.logits if self.temperature == 1 else batch.logits / self.temperature
        return torch.logsumexp(scaled, dim=1).mul_(-self.temperature)
