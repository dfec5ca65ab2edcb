"""A small convolutional network without batch norm, for CPU-sized suites."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, backbone


class SmallCNNNetwork(nn.Module):
    """Three strided convolutions, one hidden layer, a linear head."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int], width: int, hidden: int) -> None:
        super().__init__()
        channels, height, side = image_shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * -(-height // 8) * -(-side // 8), hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, hidden), non-negative."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


@backbone("small_cnn", title="Small CNN (3 conv, 1 hidden layer, no batch norm)", display_name="Small CNN")
class SmallCNN(Backbone):
    """Convolutions 5x5/2, 3x3/2 and 3x3/2 with ReLU, then a hidden layer; PyTorch's default initialisation."""

    width: int = 32
    hidden: int = 128

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> torch.nn.Module:
        """Build a network for images of at least 8 x 8 pixels."""
        return SmallCNNNetwork(num_classes, image_shape, self.width, self.hidden)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The ReLU after each convolution."""
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ReLU)]
        return [one for before, one in pairwise(layers) if isinstance(before, nn.Conv2d)]
