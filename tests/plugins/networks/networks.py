"""Tiny networks as people write them, for tests that find their head and features."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import torch
from torch import Tensor, nn

K, D = 3, 6
SHAPE = (3, 8, 8)


class Plain(nn.Module):
    """Convolutions, average pooling, one linear layer, as torchvision's ResNets."""

    def __init__(self, classes: int = K, bias: bool = True) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, D, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(D, classes, bias=bias)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.drop(self.pool(self.layer2(self.layer1(images))).flatten(1))
        return features

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.features(images))


class Tuple(Plain):
    """Returns logits and features."""

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return self.fc(features), features


class ModelOutput(UserDict[str, Tensor]):
    """As in Hugging Face's transformers: a mapping whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


class HuggingFace(Plain):
    """Returns an object with logits."""

    def forward(self, pixel_values: Tensor) -> Any:
        features = self.features(pixel_values)
        return ModelOutput(logits=self.fc(input=features), hidden=features)


class Probabilities(Plain):
    """Ends in a softmax."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).softmax(dim=1)


class TwoHeads(Plain):
    """The mean of two heads, as distilled transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(D, K)

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return (self.fc(features) + self.fc2(features)) / 2


class Twice(Plain):
    """Calls its head on an image and on its mirror image, and returns the second result."""

    def forward(self, images: Tensor) -> Any:
        super().forward(images)
        return super().forward(images.flip(3))


class ConvHead(Plain):
    """Ends in a convolution and a mean, as SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(D, K, 1)

    def forward(self, images: Tensor) -> Any:
        return self.last(self.layer2(self.layer1(images))).mean(dim=(2, 3))


class Tokens(Plain):
    """A linear layer on every token; logits are those of the first."""

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.layer2(self.layer1(images)).flatten(2).transpose(1, 2))


class Noisy(Plain):
    """Dropout that evaluation mode does not switch off."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.5, training=True)


class Scaled(Plain):
    """Changes the output of its head in place."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).mul_(3)


class BatchStatistics(nn.Module):
    """Batch norm without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        self.fc = nn.Linear(192, K)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.norm(images * images).flatten(1))


def made(kind: type[nn.Module], *arguments: Any, **options: Any) -> Any:
    """A network with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*arguments, **options)


def some_images(count: int = 5, seed: int = 1) -> Tensor:
    """Random images, (N, 3, 8, 8)."""
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
