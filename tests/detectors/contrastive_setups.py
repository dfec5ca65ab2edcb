"""The supervised contrastive loss as a loop, for several test files."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    return vector / torch.sqrt((vector * vector).sum())


def supervised(z: list[Tensor], labels: list[int], t: float) -> Tensor:
    """Khosla et al., eq. 2, anchor by anchor."""
    total = torch.zeros(())
    for i, anchor in enumerate(z):
        below = sum(torch.exp(anchor @ z[a] / t) for a in range(len(z)) if a != i)
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        terms = [torch.log(torch.exp(anchor @ z[p] / t) / below) for p in positives]
        total = total - torch.stack(terms).sum() / len(positives)
    return total / len(z)
