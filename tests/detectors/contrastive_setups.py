"""A small network, and the supervised contrastive loss as a loop, for several test files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 3


class Net(nn.Module):
    """A small network whose features may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(4 * 9, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


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
