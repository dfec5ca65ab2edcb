"""DOCTOR: the odds that the prediction is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import margins, require_temperature


@detector(
    "doctor",
    title="DOCTOR (alpha)",
    paper="Granese, Romanelli, Gorla, Palamidessi & Piantanida, DOCTOR: A Simple Method for Detecting "
    "Misclassification Errors, NeurIPS 2021, discriminator D_alpha",
    display_name="DOCTOR",
    cite="granese2021doctor",
)
class Doctor(Detector):
    """log of g / (1 - g), with g = 1 - sum_k p_k^2 and p = softmax(f / T); the logarithm keeps the order.

    Differs: the paper's other form, D_beta, has the odds (1 - p_max) / p_max and ranks exactly as `msp`, so it is not
    implemented; neither is the input perturbation that the paper adds if gradients are available. T is 1 by default;
    the paper tunes it.
    """

    grid = {"temperature": (0.5, 1.0, 1.5, 2.0)}
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        require_temperature(self.temperature)

    def score(self, batch: Batch) -> Tensor:
        """log of the odds g / (1 - g); g is computed as the sum of p_k (1 - p_k), which does not round to 0."""
        found = margins(batch.logits / self.temperature)
        squares = found.others.square().sum(dim=1) * (2 * found.second[:, 0]).exp_()  # sum over k not best
        return torch.logsumexp(found.log_terms(), dim=1) - squares.log1p_()
