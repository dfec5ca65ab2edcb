"""Maximum softmax probability, the standard baseline."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors._softmax import margins


def log_one_minus_max(logits: Tensor) -> Tensor:
    """log(1 - max_k p_k) of each row, (N, K) -> (N,), where p = softmax(logits).

    Computed from the log odds of all other classes against the argmax: 1 - p_max itself rounds to zero from a margin of
    37 on in float64 (17 in float32), which would tie the most confident images.
    """
    return logsigmoid(margins(logits).log_odds[:, 0])


@detector(
    "msp",
    title="Maximum softmax probability",
    paper="Hendrycks & Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples, ICLR 2017",
    display_name="MSP",
    cite="hendrycks2017msp",
)
class MSP(Detector):
    """log(1 - max_k p_k), p the softmax: the order of -max_k p_k, without saturation."""

    def score(self, batch: Batch) -> Tensor:
        """log(1 - p_max), in nats, at most 0."""
        return log_one_minus_max(batch.logits)

    def confidence_of(self, scores: np.ndarray) -> np.ndarray:
        """max_k p_k as a float32 softmax computes it, 1 / (1 + rest): exactly 1 if the rest is below 2^-24."""
        rest = np.exp(scores) / -np.expm1(scores)  # (1 - p_max) / p_max
        confidence: np.ndarray = 1 / (1 + rest.astype(np.float32))
        return confidence
