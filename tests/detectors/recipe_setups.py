"""Small recipes, ready to train, for several test files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._dcgan import gan_networks

CLASSES, BATCH, STEPS = 3, 6, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "confidence": {"beta": 0.7},
    "gan": {"width": 4},
    "gan_confidence": {"beta": 0.7},
    "joint": {"width": 4, "beta": 0.7},
    "gan_entropy": {"width": 4, "beta": 0.7, "generator_beta": 1.3},
}
HEALTH = ("p_real", "p_fake", "sample_deviation")
LOSSES = {
    "cross_entropy": {"cross_entropy", "accuracy"},
    "confidence": {"cross_entropy", "kl_to_uniform", "accuracy"},
    "gan": {"discriminator", "generator", *HEALTH},
    "gan_confidence": {"cross_entropy", "kl_to_uniform", "accuracy"},
    "joint": {"discriminator", "generator", *HEALTH, "cross_entropy", "kl_to_uniform", "accuracy"},
    "gan_entropy": {"discriminator", "generator", *HEALTH, "cross_entropy", "entropy", "accuracy"},
}
Networks = dict[str, nn.Module]


def classifier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, CLASSES))


def normalised_classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, CLASSES)
    )


class SmallNet(nn.Module):
    """A network with `features` and a linear `head` for images of `side` pixels, perhaps with batch norm, dropout."""

    def __init__(self, side: int = 32, normalised: bool = False, drop: float = 0.0) -> None:
        super().__init__()
        norm: list[nn.Module] = [nn.BatchNorm2d(4)] if normalised else []
        dropout: list[nn.Module] = [nn.Dropout(drop)] if drop else []
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), *norm, nn.Tanh(), nn.Flatten(), *dropout)
        self.head: nn.Module = nn.Linear(4 * ((side - 5) // 4 + 1) ** 2, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class SmallNet16(SmallNet):
    """The same for images of 16 pixels."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__(16, normalised)


def check_batch_statistics(recipe: Recipe, training: Training, given: TrainBatch) -> None:
    """A step changes the statistics of batch norm as one pass over its ID images and as many others does.

    It leaves all layers in training.
    """
    network: Any = training.networks["classifier"]
    plain, passed, features = copy.deepcopy(network), list[Tensor](), network.features

    def watched(images: Tensor) -> Tensor:
        passed.append(images.detach())
        found: Tensor = features(images)
        return found

    network.features = watched
    recipe.step(training, given)
    (both,) = [images for images in passed if len(images) > len(given.images)]
    assert len(both) == 2 * len(given.images)
    assert torch.equal(both[: len(given.images)], given.images)
    plain.features(both)
    for (key, value), other in zip(network.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(value, other), key
    assert all(module.training for module in network.modules())


def make(name: str, **settings: Any) -> Recipe:
    plugin: Recipe = registry.get("recipe", name)(**{**SETTINGS[name], **settings})
    return plugin


def batch(outliers: bool = False, seed: int = 1) -> TrainBatch:
    random = torch.Generator().manual_seed(seed)
    images, others = torch.rand(2, BATCH, 3, 32, 32, generator=random)
    return TrainBatch(images, torch.arange(BATCH) % CLASSES, 1 - others.square() if outliers else None)


class Setup(NamedTuple):
    """A recipe ready to train, and copies of its networks for a plain implementation."""

    recipe: Recipe
    training: Training
    copies: Networks


def set_up(recipe: Recipe, sgd: bool = False, build: Callable[[], nn.Module] = classifier) -> Setup:
    networks = recipe.networks(Task(CLASSES, (3, 32, 32), build))
    given = {name: network.eval().requires_grad_(False) for name, network in given_networks(recipe).items()}
    optimizers = recipe.optimizers(networks)
    if sgd:
        optimizers = {name: torch.optim.SGD(networks[name].parameters(), lr=0.1) for name in optimizers}
    copies = copy.deepcopy({**networks, **given})
    return Setup(recipe, Training(networks, optimizers, given, torch.Generator().manual_seed(5)), copies)


def given_networks(recipe: Recipe) -> Networks:
    if recipe.builds_on is None:
        return {}
    networks = gan_networks(4, (3, 32, 32))
    with torch.no_grad():
        for module in networks["generator"].modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.mul_(8)  # so that samples differ, as those of a trained generator do
    return networks


def batch_for(recipe: Recipe, seed: int = 1) -> TrainBatch:
    return batch("outliers" in recipe.needs, seed)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])


def gradient(network: nn.Module) -> Tensor | None:
    parts = [weight.grad for weight in network.parameters()]
    if all(part is None for part in parts):
        return None
    return torch.cat([part.flatten().clone() for part in parts if part is not None])
