"""Softmax in the log domain, where over-confident networks do not tie."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.detectors.msp import log_one_minus_max


def log_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p), each (N, K), of p = softmax(logits), in nats.

    Both keep their relative precision at every margin: the largest class's come from the sum over all others, because
    1 - p itself rounds to 0 in float64 from a margin of 37.
    """
    best, rest = logits.argmax(dim=1, keepdim=True), log_one_minus_max(logits)[:, None]
    log_best = torch.log1p(-rest.exp())
    log_p = (logits - logits.gather(1, best)).add_(log_best).scatter_(1, best, log_best)
    return log_p, torch.log1p(-log_p.exp()).scatter_(1, best, rest)


def require_temperature(temperature: float) -> None:
    """Refuse temperatures for which a softmax is not defined."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
