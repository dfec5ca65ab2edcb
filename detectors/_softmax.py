"""Softmax in the log domain, where scores of over-confident networks do not tie."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BOTTOM = torch.finfo(torch.float64).min
"""Used in place of the logarithm of 0, because it can be multiplied by 0."""


class Margins(NamedTuple):
    """The parts of p = softmax(logits), with the largest class separate from the others.

    Sums over the other classes have positive terms only, relative to the largest of them. They keep their relative
    precision at every margin, whereas 1 - p_max itself rounds to 0 in float64 from a margin of 37 on.
    """

    best: Tensor
    """Index of the largest logit (of one of them in a tie), (N, 1)."""
    below: Tensor
    """Logits minus the largest, (N, K), at most 0; `BOTTOM` at the argmax."""
    second: Tensor
    """The largest entry of `below`, (N, 1)."""
    others: Tensor
    """exp(below - second), (N, K), from 0 to 1; 0 at the argmax."""
    log_odds: Tensor
    """log sum_{k not best} exp(below), (N, 1): the log odds of all other classes against the argmax."""

    def odds(self) -> Tensor:
        """(1 - p_max) / p_max, (N, 1); may round to 0."""
        return self.log_odds.exp()

    def log_terms(self) -> Tensor:
        """log [ p_k (1 - p_k) (1 + odds)^2 ], (N, K), in nats."""
        odds = self.odds()
        rest = torch.addcmul(odds, self.others, self.second.exp(), value=-1)  # of all classes except this and the best
        return rest.clamp_min_(0).log1p_().add_(self.below).scatter_(1, self.best, self.log_odds)


def margins(logits: Tensor) -> Margins:
    """The `Margins` of logits (N, K), float64."""
    largest, best = logits.max(dim=1, keepdim=True)  # takes less time than argmax and gather
    distance = logits - largest
    below = distance.scatter(1, best, BOTTOM)
    second = below.amax(dim=1, keepdim=True)
    alone = float(logits.shape[1] == 1)  # with a single class, nothing is below it
    others = (distance - second).exp_().scatter_(1, best, alone)  # exp of `BOTTOM` would take eight times as long
    return Margins(best, below, second, others, others.sum(dim=1, keepdim=True).log_().add_(second))


def require_temperature(temperature: float) -> None:
    """Check that a temperature is positive and finite."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
