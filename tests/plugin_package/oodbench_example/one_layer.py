"""A backbone: one hidden layer."""

from __future__ import annotations

import math

from torch import Tensor, nn

from oodbench.benchmark import Backbone, backbone


class OneLayerNetwork(nn.Module):
    """Pixels, one hidden layer, a linear head."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Hidden activations (N, hidden)."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


@backbone("one_layer", title="One hidden layer")
class OneLayer(Backbone):
    """For images so small that convolutions do not pay."""

    hidden: int = 32

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """A fresh network for images of any size."""
        return OneLayerNetwork(num_classes, image_shape, self.hidden)
