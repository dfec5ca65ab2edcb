"""Confidence loss on samples of a separately trained GAN, the paper's ablation of the joint loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training, detector, recipe
from oodbench.detectors import _dcgan
from oodbench.detectors._confidence_loss import fixed_weights
from oodbench.detectors.confidence import PAPER, ConfidenceLoss
from oodbench.detectors.msp import MSP


@recipe(
    "gan",
    title="Original GAN (no classifier)",
    paper="Goodfellow et al. 2014; DCGAN, Radford et al. 2016",
    display_name="GAN",
    cite="goodfellow2014gan,radford2016dcgan",
)
class GAN(Recipe):
    """A DCGAN trained on the ID images only. Other recipes build on its generator.

    Its samples of a grey ID set are grey, also where a network with three channels gets them.
    """

    trains_classifier = False
    retries = 1
    generator_learning_rate: float = 0.0002
    discriminator_learning_rate: float = 0.0002
    width: int = 128

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Generator and discriminator."""
        return _dcgan.gan_networks(self.width, task.image_shape, task.repeats_grey)

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam with betas (0.5, 0.999), as in DCGAN."""
        rates = {"generator": self.generator_learning_rate, "discriminator": self.discriminator_learning_rate}
        return {
            name: torch.optim.Adam(networks[name].parameters(), lr=rate, betas=(0.5, 0.999), fused=True)
            for name, rate in rates.items()
        }

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step of the discriminator and one of the generator, on the same samples."""
        networks, optimizers = training.networks, training.optimizers
        fake = networks["generator"](_dcgan.noise(len(batch.images), training.generator))

        real_logits = networks["discriminator"](batch.images)  # two passes, for separate batch-norm statistics
        fake_logits = networks["discriminator"](fake.detach())
        loss_d = _dcgan.loss_of_logits(real_logits, fake_logits)
        optimizers["discriminator"].zero_grad()
        loss_d.backward()
        optimizers["discriminator"].step()

        with fixed_weights(networks["discriminator"]):
            loss_g = _dcgan.generator_loss(networks["discriminator"], fake)
            penalty = self.generator_penalty(training, fake)
            optimizers["generator"].zero_grad()
            (loss_g if penalty is None else loss_g + penalty).backward()
        optimizers["generator"].step()
        health = _dcgan.health(real_logits, fake_logits, fake)
        return {"discriminator": loss_d.detach(), "generator": loss_g.detach(), **health}

    def diverged(self, losses: Mapping[str, float]) -> str | None:
        """Whether the samples are all alike, or the discriminator has said the same or been certain for an epoch."""
        return _dcgan.collapse(losses)

    def generator_penalty(self, training: Training, fake: Tensor) -> Tensor | None:
        """An additional loss of the generator; None by default."""
        return None

    def samples(self, training: Training) -> Tensor:
        """64 generated images."""
        return _dcgan.picture(training.networks["generator"], training.generator)


@recipe(
    "gan_confidence",
    title="Confidence loss on GAN samples",
    paper=f"{PAPER}, section 3 (ablation)",
    display_name="Confidence loss (original GAN)",
    cite="lee2018confidence",
)
class GANConfidenceLoss(ConfidenceLoss):
    """CE + beta KL(U || p), the KL on new samples of the trained, frozen original GAN."""

    needs = frozenset()
    builds_on = "gan"

    @torch.no_grad()
    def outliers(self, training: Training, batch: TrainBatch) -> Tensor:
        """As many new samples as there are ID images."""
        images: Tensor = training.given["generator"](_dcgan.noise(len(batch.images), training.generator))
        return images


@detector(
    "gan_confidence",
    title="Confidence loss (original GAN), MSP",
    paper=PAPER,
    display_name="Confidence loss (original GAN)",
    cite="lee2018confidence",
)
class GANConfidence(MSP):
    """The MSP score on a classifier trained with the confidence loss on samples of an original GAN."""

    recipe = "gan_confidence"
