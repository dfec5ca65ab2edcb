"""Generalised entropy of the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import margins


@detector(
    "gen",
    title="GEN",
    paper="Liu, Lochman & Zach, GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection, CVPR 2023",
    display_name="GEN",
    cite="liu2023gen",
)
class GEN(Detector):
    """log G, with G = sum_j p_j^gamma (1 - p_j)^gamma over the M largest p_j; the logarithm keeps the order.

    M is limited to the number of classes: with 10 classes, every M >= 10 gives the same detector.

    Differs: OpenOOD tunes gamma and M on OOD validation images; here they are the paper's 0.1 and 100. OpenOOD computes
    1 - p in float32, where it is 0 from a margin of 17 on.
    """

    grid = {"gamma": (0.01, 0.1, 0.5, 0.9), "top": (10, 50, 100)}
    gamma: float = 0.1
    top: int = 100

    def __post_init__(self) -> None:
        """Check that gamma is in (0, 1] and that the sum has a term."""
        if not 0 < self.gamma <= 1 or self.top < 1:
            raise ValueError(f"gamma must lie in (0, 1] and top be at least 1, got {self.gamma} and {self.top}")

    def score(self, batch: Batch) -> Tensor:
        """log G."""
        found = margins(batch.logits)
        terms = found.log_terms()
        if self.top < terms.shape[1]:
            terms = terms.gather(1, batch.logits.topk(self.top, dim=1).indices)
        shared = found.odds()[:, 0].log1p_().mul_(2 * self.gamma)
        return torch.logsumexp(terms.mul_(self.gamma), dim=1).sub_(shared)
