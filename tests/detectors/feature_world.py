"""Features, labels and a linear head for tests of post-hoc detectors, without images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.training_bank import TrainingBank


class FeatureWorld:
    """Features, labels and a linear head: what post-hoc detectors read. Tests change it before `fit`."""

    def __init__(self, classes: int = 3, units: int = 5, images: int = 42, seed: int = 0) -> None:
        random = np.random.RandomState(seed)
        centres = 2 * abs(random.randn(classes, units))
        lengths = (centres**2).sum(axis=1)  # the head finds the nearest centre
        self.weight, self.bias = centres - centres.mean(axis=0), (lengths.max() - lengths) / 2 + 1
        self.labels = np.arange(images) % classes
        self.features: np.ndarray = abs(centres[self.labels] + 0.7 * random.randn(images, units)).astype(np.float32)
        self.validation_labels = np.arange(3 * classes) % classes
        noise = random.randn(3 * classes, units)
        self.validation: np.ndarray = abs(centres[self.validation_labels] + noise).astype(np.float32)
        self.test: np.ndarray = abs(1.5 * random.randn(9, units)).astype(np.float32)

    def reorder(self) -> None:
        """Put training images, units and classes into another order, which no score may depend on."""
        random = np.random.RandomState(1)
        images, units, classes = (random.permutation(n) for n in (len(self.labels), *self.weight.T.shape))
        for field in ("features", "validation", "test"):
            setattr(self, field, getattr(self, field)[:, units])
        self.features, self.labels = self.features[images], np.argsort(classes)[self.labels[images]]
        self.validation_labels = np.argsort(classes)[self.validation_labels]
        self.weight, self.bias = self.weight[classes][:, units], self.bias[classes]

    def logits(self, features: np.ndarray) -> np.ndarray:
        logits: np.ndarray = features.astype(np.float64) @ self.weight.T + self.bias
        return logits

    def classifier(self) -> Classifier:
        network = nn.Module()
        network.head = nn.Linear(*self.weight.T.shape).double()
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(self.weight))
            network.head.bias.copy_(torch.from_numpy(self.bias))
        return Classifier(network, len(self.weight))

    def batch(self, detector: Detector, features: np.ndarray, labels: np.ndarray | None = None) -> Batch:
        """What the detector declares of these features, and labels where given."""
        parts = {"features": torch.from_numpy(features).__getitem__} if "features" in detector.needs else {}
        if "logits" in detector.needs:
            parts["logits"] = torch.from_numpy(self.logits(features)).__getitem__
        if labels is not None:
            parts["labels"] = torch.from_numpy(labels).__getitem__
            return Batch(len(features), parts, detector.name)
        bank = None
        if "similarities" in detector.needs:
            bank = TrainingBank(self.features, self.bank_rows(detector))
            parts["similarities"] = bank.similarities(torch.from_numpy(features)).__getitem__
        return Batch(len(features), parts, detector.name, bank=bank)

    def bank_rows(self, detector: Detector) -> Tensor | None:
        """The training images that a detector compares with, chosen as in a run."""
        values = {"features": self.features, "labels": self.labels}
        parts = {name: torch.from_numpy(value).__getitem__ for name, value in values.items()}
        return detector.bank_rows(Batch(len(self.labels), parts, detector.name))

    def fit(self, name: str, **settings: Any) -> Any:
        """A detector fitted on the training features; tests read what it has learned from its attributes."""
        detector: Detector = registry.get("detector", name)(**settings)
        train = self.batch(detector, self.features, self.labels)
        validation = self.batch(detector, self.validation, self.validation_labels)
        detector.fit(self.classifier(), FitData(train, validation, bank=self.bank_rows(detector)))
        return detector

    def score(self, name: str, **settings: Any) -> np.ndarray:
        """Scores of `test` by a detector fitted on the training features."""
        detector = self.fit(name, **settings)
        scores: np.ndarray = detector.score(self.batch(detector, self.test)).numpy()
        assert scores.shape == (len(self.test),)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        return scores


def signed_world(units: int = 12, classes: int = 3, images: int = 60) -> FeatureWorld:
    """Features of both signs; those to score are float64, in which every formula is exact."""
    world = FeatureWorld(units=units, classes=classes, images=images)
    world.features, world.validation = world.features - 1, world.validation - 1
    world.test = world.test.astype(np.float64) - 1
    return world
