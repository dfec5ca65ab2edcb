"""Shared by tests of named outputs and of networks without logits: recipes as third parties write them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData, Recipe, Task, TrainBatch, Training, WithOutputs


class Length(nn.Module):
    """The length of features, (N, D) -> (N, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return length


class Measured(Recipe):
    """Cross-entropy, with the length of features and a linear map of them as named outputs."""

    version = "1"
    outputs = {"length": 1, "turned": 3}

    def networks(self, task: Task) -> dict[str, nn.Module]:
        network = task.build_classifier()
        width = network.head.in_features  # type: ignore[union-attr]
        return {"classifier": WithOutputs(network, turned=nn.Linear(width, 3), length=Length())}  # type: ignore[arg-type]

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {"classifier": torch.optim.Adam(networks["classifier"].parameters(), lr=0.01)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        network = training.networks["classifier"]
        assert isinstance(network, WithOutputs)
        features = network.features(batch.images)
        loss = (
            F.cross_entropy(network.head(features), batch.labels) + network.outputs(features)["turned"].square().mean()
        )
        training.optimizers["classifier"].zero_grad()
        loss.backward()
        training.optimizers["classifier"].step()
        return {"loss": loss.detach()}


class Short(Detector):
    """Minus the length that the network gives, less the mean one of training images."""

    version = "1"
    needs = frozenset()
    reads = frozenset({"length"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.mean_ = float(data.train.outputs["length"].mean())

    def score(self, batch: Batch) -> Tensor:
        return self.mean_ - batch.outputs["length"][:, 0]


class OwnShort(Short):
    """The same with a recipe of its own."""

    recipe = "measured"


class Centred(Recipe):
    """Pulls features a little to a point; no classes are learnt. The distance from the point is a named output."""

    version = "1"
    classifies = False
    outputs = {"distance": 1}

    def networks(self, task: Task) -> dict[str, nn.Module]:
        network = task.build_classifier()
        network.head = nn.Identity()  # no logits are computed from it
        return {"classifier": WithOutputs(network, distance=Length())}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {"classifier": torch.optim.Adam(networks["classifier"].parameters(), lr=1e-6)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        network = training.networks["classifier"]
        assert isinstance(network, WithOutputs)
        loss = network.outputs(network.features(batch.images))["distance"].square().mean()
        training.optimizers["classifier"].zero_grad()
        loss.backward()
        training.optimizers["classifier"].step()
        return {"loss": loss.detach()}


class Distance(Detector):
    """The distance that the network gives."""

    version = "1"
    recipe = "centred"
    needs = frozenset()
    reads = frozenset({"distance"})

    def score(self, batch: Batch) -> Tensor:
        return batch.outputs["distance"][:, 0]
