"""A small network, its image sets and detectors fitted on its outputs, for perf/detectors.py and perf/agreement.py.

The network is a fixed random layer of ReLU units, some of them never active, and a head that predicts the nearest class
mean. Images are 3 x 8 x 8 float32 in [0, 1]: ID images are a class pattern plus noise; OOD sets are blends of two
patterns, other patterns, weaker patterns, more noise, and uniform noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.plugins.detector import compares
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank
from oodbench.benchmark.stages.detecting.fit_score import images_per_call
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays
from oodbench.benchmark.stages.detecting.similarities import score_with_bank

CLASSES, SHAPE = 10, (3, 8, 8)
PIXELS = 3 * 8 * 8
DEAD = 0.04
"""Share of units that are never active."""
OOD = ("blends", "others", "weak", "noisy", "uniform")


class Network(nn.Module):
    """Features: rectified random projections of the pixels. Head: linear."""

    def __init__(self, units: int, generator: torch.Generator) -> None:
        super().__init__()
        self.flatten, self.layer, self.rectify = nn.Flatten(), nn.Linear(PIXELS, units), nn.ReLU()
        self.head = nn.Linear(units, CLASSES)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(units, PIXELS, generator=generator) / PIXELS**0.5)
            self.layer.bias.copy_(-0.5 * self.layer.weight.sum(dim=1) + 0.2)
            self.layer.bias[: int(DEAD * units)] = -100

    def features(self, images: Tensor) -> Tensor:
        """(N, D)."""
        features: Tensor = self.rectify(self.layer(self.flatten(images)))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Outputs(NamedTuple):
    """A set: images, labels, and the network's outputs for them, float32."""

    images: Tensor
    labels: Tensor
    features: Tensor
    logits: Tensor


class World(NamedTuple):
    """A network and its sets; `fit` is the training split."""

    network: Network
    fit: Outputs
    validation: Outputs
    test: Outputs
    ood: dict[str, Outputs]

    @property
    def classifier(self) -> Classifier:
        """The network as given to detectors."""
        return Classifier(self.network, CLASSES, lambda network: [network.rectify])


def make_world(fit: int, test: int, units: int = 512, seed: int = 0) -> World:
    """Draw a world with `fit` images to fit on and `test` images in each set that is scored."""
    generator = torch.Generator().manual_seed(seed)
    patterns, others = (torch.randn(CLASSES, *SHAPE, generator=generator) for _ in range(2))
    network = Network(units, generator).eval().requires_grad_(False)

    def drawn(count: int, kind: str = "") -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        second = (labels + torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
        known = {"blends": (patterns[labels] + patterns[second]) / 2, "others": others[labels]}
        shown = (0.4 if kind == "weak" else 1) * known.get(kind, patterns[labels])
        noise = torch.randn(count, *SHAPE, generator=generator) * (2.0 if kind == "noisy" else 1.0)
        uniform = torch.rand(count, *SHAPE, generator=generator)
        return (uniform if kind == "uniform" else 0.5 + 0.1 * shown + 0.1 * noise).clamp(0, 1), labels

    images, labels = drawn(fit)
    _set_head(network, network.features(images), labels)

    def outputs(images: Tensor, labels: Tensor) -> Outputs:
        features = network.features(images)
        return Outputs(images, labels, features, network.head(features))

    known = outputs(images, labels), outputs(*drawn(max(fit // 10, 50))), outputs(*drawn(test))
    return World(network, *known, {kind: outputs(*drawn(test, kind)) for kind in OOD})


def _set_head(network: Network, features: Tensor, labels: Tensor) -> None:
    """Set the head's weights to predict the nearest class mean, scaled so that the softmax does not saturate."""
    means = torch.stack([features[labels == k].mean(dim=0) for k in range(CLASSES)])
    lengths = (means**2).sum(dim=1) / 2
    network.head.weight.copy_(means)
    network.head.bias.copy_(lengths.max() - lengths)
    scale = 5 / network.head(features).std()
    network.head.weight.mul_(scale)
    network.head.bias.mul_(scale)


def batch(detector: Detector, outputs: Outputs, world: World, labelled: bool = False) -> Batch:
    """A set as given to a detector, without `similarities`."""
    parts = {
        "logits": lambda rows: outputs.logits[rows].double(),
        "features": outputs.features.__getitem__,
        "images": outputs.images.__getitem__,
    }
    shown = {name: part for name, part in parts.items() if name in detector.needs}
    if labelled:
        shown["labels"] = outputs.labels.__getitem__
    network = world.classifier if "network" in detector.needs else None
    return Batch(len(outputs.images), shown, detector.name, network)


def fitted(spec: str, world: World) -> Detector:
    """A detector fitted on a world."""
    detector: Detector = create("detector", parse_spec(spec))
    train, validation = (batch(detector, part, world, True) for part in (world.fit, world.validation))
    detector.fit(world.classifier, FitData(train, validation))
    return detector


def scores(detectors: list[Detector], outputs: Outputs, world: World) -> list[np.ndarray]:
    """The scores of a set by one detector, or by several that compare with training images, together, as in a run."""
    if not compares(detectors[0]):
        (alone,) = detectors
        parts = batch(alone, outputs, world).batches(images_per_call(alone, CLASSES))
        return [np.concatenate([alone.score(part).numpy() for part in parts])]

    def with_bank(detector: Detector, bank: TrainingBank, product: SharedBlock) -> Batch:
        parts = {**batch(detector, outputs, world)._parts, "similarities": product}
        return Batch(len(outputs.images), parts, detector.name, bank=bank)

    images = SetArrays(len(outputs.images), features=outputs.features.numpy())
    found = score_with_bank(detectors, TrainingBank(world.fit.features.numpy()), images, with_bank, seed=0, probe=False)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome.scores for outcome in found if not isinstance(outcome, Exception)]
