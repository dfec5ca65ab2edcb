"""Joint training of a classifier and a GAN whose generator learns to draw images at the boundary of the ID data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training, detector, recipe
from oodbench.detectors import _dcgan
from oodbench.detectors._confidence_loss import confidence_losses, fixed_weights, frozen_batch_norm, kl_to_uniform
from oodbench.detectors.confidence import PAPER
from oodbench.detectors.gan_confidence import GAN
from oodbench.detectors.msp import MSP


@recipe(
    "joint",
    title="Joint confidence loss",
    paper=f"{PAPER}, eq. 4 and Algorithm 1",
    display_name="Joint confidence loss",
    cite="lee2018confidence",
)
class JointConfidenceLoss(GAN):
    """Per batch: discriminator; generator on GAN loss + beta KL(U || p); classifier on CE + beta KL on new samples.

    As in the released script, beta is the same in both losses, the GAN loss is the non-saturating one, there is no
    pull-away term (disabled in the script), and the classifier is always in training mode.
    """

    trains_classifier = True
    learning_rate: float = 0.001
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Check that beta is not negative: a negative penalty would reward confidence on samples."""
        if not self.beta >= 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Classifier, generator and discriminator."""
        return {"classifier": task.build_classifier(), **super().networks(task)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam for all three; default betas for the classifier."""
        classifier = torch.optim.Adam(networks["classifier"].parameters(), lr=self.learning_rate, fused=True)
        return {"classifier": classifier, **super().optimizers(networks)}

    def generator_penalty(self, training: Training, fake: Tensor) -> Tensor:
        """beta KL(U || p(fake)), which draws samples to where the prediction is uniform. Gradients reach only G."""
        classifier = training.networks["classifier"]
        with fixed_weights(classifier), frozen_batch_norm(classifier):
            return self.beta * kl_to_uniform(classifier(fake)).mean()

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One update of each of the three networks."""
        losses = super().step(training, batch)
        with torch.no_grad():
            fresh = training.networks["generator"](_dcgan.noise(len(batch.images), training.generator))
        own = confidence_losses(training.networks["classifier"], batch.images, batch.labels, fresh)
        optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        (own.cross_entropy + self.beta * own.kl_to_uniform).backward()
        optimizer.step()
        return {**own.logged(), **losses}


@detector(
    "joint",
    title="Joint confidence loss (GAN), MSP",
    paper=PAPER,
    display_name="Joint confidence loss",
    cite="lee2018confidence",
)
class Joint(MSP):
    """The MSP score on a classifier trained jointly with its GAN."""

    recipe = "joint"
