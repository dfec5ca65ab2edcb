"""The classifier's last layer, for detectors that run it again."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Classifier


def head(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the linear head, float64, copies on the CPU."""
    weight, bias = (part.detach().to("cpu", torch.float64, copy=True) for part in (classifier.weight, classifier.bias))
    return weight, bias


def energy(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """-logsumexp of the logits that the head gives features (N, D); (N,), higher = more OOD."""
    return -torch.logsumexp(features @ weight.T + bias, dim=1)
