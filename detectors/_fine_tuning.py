"""Recipes that train a classifier further which another recipe has trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.benchmark import TrainBatch, Training
from oodbench.detectors._loss_recipe import LossRecipe


class FineTuned(LossRecipe):
    """Starts from the classifier that the recipe `builds_on` trains, on the same images and with the same seed.

    Its learning rate is a small one: 0.001 of the authors' SGD, for both optimizers.
    """

    builds_on: str = "cross_entropy"  # type: ignore[misc]
    learning_rate: float | None = 0.001

    def pretrained(self, training: Training) -> nn.Module:
        """The classifier that training starts from, frozen. Raises `ValueError` if `builds_on` trains none."""
        if "classifier" not in training.given:
            raise ValueError(f"builds_on must be a recipe that trains a classifier, got '{self.builds_on}'")
        return training.given["classifier"]

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the loss; before the first one, the weights of the pretrained classifier are taken over."""
        if "started_" not in self.__dict__:
            with torch.no_grad():
                training.networks["classifier"].load_state_dict(self.pretrained(training).state_dict())
            self.started_ = True
        return super().step(training, batch)
