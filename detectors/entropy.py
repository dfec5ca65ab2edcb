"""Entropy of the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import margins


@detector(
    "entropy",
    title="Entropy",
    paper="Softmax entropy as an OOD score, e.g. Malinin & Gales, Predictive Uncertainty Estimation via Prior "
    "Networks, NeurIPS 2018",
    display_name="Entropy",
    cite="malinin2018prior",
)
class Entropy(Detector):
    """log H(p), with H(p) = -sum_k p_k log p_k: the order of the entropy, without saturation."""

    def score(self, batch: Batch) -> Tensor:
        """log H, where H is in nats."""
        found = margins(batch.logits)
        odds = found.odds()[:, 0]
        # H = log(1 + odds) + sum_{k not best} exp(below) (-below) / (1 + odds), divided by exp(second)
        ratio = torch.where(odds > 0, odds.log1p() / odds, 1.0)
        weighted = (found.others * found.below).sum(dim=1)
        inside = (found.log_odds - found.second)[:, 0].exp_().mul_(ratio).sub_(weighted / (1 + odds))
        return inside.log_().add_(found.second[:, 0])
