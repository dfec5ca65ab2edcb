"""The classifier's last layer, for detectors that apply it to changed features."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Classifier


def head(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the linear head, float64, copies on the CPU."""
    weight, bias = (part.detach().to("cpu", torch.float64, copy=True) for part in (classifier.weight, classifier.bias))
    return weight, bias


def energy(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """-logsumexp of the logits that the head gives features (N, D); float64 (N,), higher = more OOD.

    The product is computed in the features' precision, which is float32 for features from the harness, and everything
    after it in float64. Like the network's own logits, a float32 logit is accurate to about 1e-7 |f| |w|.
    """
    logits = (weight.to(features.dtype) @ features.T).double().add_(bias[:, None])
    return torch.logsumexp(logits, dim=0).neg_()
