"""Entropy of the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import log_probabilities


@detector(
    "entropy",
    title="Entropy",
    paper="Softmax entropy as an OOD score, e.g. Malinin & Gales, Predictive Uncertainty Estimation via Prior "
    "Networks, NeurIPS 2018",
)
class Entropy(Detector):
    """Ranks by H(p) = -sum_k p_k log p_k, given as log H: the same order, without saturation."""

    def score(self, batch: Batch) -> Tensor:
        """log H, H in nats."""
        log_p, log_rest = log_probabilities(batch.logits)
        # -log p is 1 - p where that is tiny, and as a number it is lost only there
        surprise = torch.where(log_rest < -40, log_rest, (-log_p).log())
        return torch.logsumexp(log_p + surprise, dim=1)
