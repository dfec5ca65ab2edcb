"""A small network with two blocks, and batches of its images, for tests of detectors of feature maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector

K, SIDE = 3, 6
Array = np.ndarray


class Net(nn.Module):
    """A float64 network: two convolutions, ReLU and tanh, pooling, and a linear head."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, min(3, side), stride=2), nn.Tanh())
        self.head = nn.Linear(5, K)

    def features(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.second(self.first(images)).mean(dim=(2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def blocks_of(network: nn.Module) -> list[nn.Module]:
    return [network.get_submodule("first"), network.get_submodule("second")]


def classifier(side: int = SIDE, scale: float = 6.0) -> Classifier:
    torch.manual_seed(1)
    network = Net(side).double()
    with torch.no_grad():
        network.head.weight.mul_(scale)
        features = network.features(images_of(50, 9, side))
        network.head.bias.copy_(-(features @ network.head.weight.T).mean(dim=0))
    return Classifier(network, K, blocks_of)


def images_of(count: int, seed: int, side: int = SIDE) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).rand(count, 3, side, side))


def batch(
    detector: Detector, net: Classifier, images: Tensor, labels: Tensor | None = None, keep: bool = True
) -> Batch:
    """A batch as the harness would build it."""
    parts = {"images": lambda rows: images[rows].clone()} if "images" in detector.needs else {}
    if keep and type(detector).reduce is not Detector.reduce:
        with torch.no_grad():
            reduced = detector.reduce(*net.forward_with_maps(images))
        parts["maps"] = lambda rows: reduced[rows]
    if labels is not None:
        parts["labels"] = lambda rows: labels[rows]
    return Batch(len(images), parts, detector.name, net if "network" in detector.needs else None)


def maps_of(net: Classifier, images: Tensor) -> list[Array]:
    with torch.no_grad():
        first = net.network.get_submodule("first")(images)
        return [first.numpy(), net.network.get_submodule("second")(first).numpy()]


def predicted(net: Classifier, images: Tensor) -> list[int]:
    found: list[int] = net(images).argmax(dim=1).tolist()
    return found
