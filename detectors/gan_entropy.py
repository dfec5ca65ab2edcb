"""Confident samples: a GAN draws images that the classifier is confident on, and the classifier learns not to be."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors import _dcgan
from oodbench.detectors._accuracy import share_correct
from oodbench.detectors._confidence_loss import fixed_weights, frozen_batch_norm, logits_of_both
from oodbench.detectors.gan_confidence import GAN
from oodbench.detectors.joint import JointConfidenceLoss
from oodbench.detectors.msp import MSP

PAPER = (
    "Sricharan & Srivastava, Building robust classifiers through generation of confident out of distribution examples, "
    "2018 (arXiv:1812.00239)"
)


def entropy(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k of each row, p = softmax(logits), (N, K) -> (N,), in nats."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


@recipe(
    "gan_entropy",
    title="Entropy on confident GAN samples",
    paper=PAPER,
    display_name="Confident samples (GAN)",
    cite="sricharan2018confident",
)
class EntropyLoss(JointConfidenceLoss):
    """Per batch: discriminator; generator on GAN loss + generator_beta H(p); classifier on CE + beta (log K - H(p)).

    H is the entropy of the K class probabilities of generated images, new ones for the classifier. The generator looks
    for images that the classifier is confident on, and the classifier learns not to be: in `joint`, both want uniform
    predictions. Networks and optimizers are those of `joint`.
    """

    generator_beta: float = 1.0

    def __post_init__(self) -> None:
        """Check that neither weight is negative: a negative one would exchange the roles."""
        super().__post_init__()
        if not 0 <= self.generator_beta < float("inf"):
            raise ValueError(f"generator_beta must be 0 or more, and finite, got {self.generator_beta}")

    def generator_penalty(self, training: Training, fake: Tensor) -> Tensor:
        """generator_beta H(p(fake)): it draws samples to where the prediction is confident. Gradients reach only G."""
        classifier = training.networks["classifier"]
        with fixed_weights(classifier), frozen_batch_norm(classifier):
            return self.generator_beta * entropy(classifier(fake)).mean()

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One update of each of the three networks."""
        losses = GAN.step(self, training, batch)
        with torch.no_grad():
            fresh = training.networks["generator"](_dcgan.noise(len(batch.images), training.generator))
        logits, others = logits_of_both(training.networks["classifier"], batch.images, fresh)
        ce, spread = F.cross_entropy(logits, batch.labels), entropy(others).mean()
        optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        (ce + self.beta * (math.log(logits.shape[1]) - spread)).backward()
        optimizer.step()
        own = {"cross_entropy": ce.detach(), "entropy": spread.detach()}
        return {**own, "accuracy": share_correct(logits, batch.labels), **losses}


@detector(
    "gan_entropy",
    title="Entropy on confident GAN samples, MSP",
    paper=PAPER,
    display_name="Confident samples (GAN)",
    cite="sricharan2018confident",
)
class GANEntropy(MSP):
    """The MSP score on a classifier that maximises the entropy of its predictions for images of a GAN, whose generator
    minimises it.

    Losses: generator, GAN loss + H(p); classifier, CE + (log K - H(p)), H in nats.

    Differs: our reading of the paper's abstract, which is all that we could read; no code was released. It says that a
    GAN generates out-of-distribution samples that the classifier is confident on (low entropy), and that the classifier
    maximises the entropy for them. The form of both losses, their weights of 1, the GAN loss that keeps samples near
    the ID data, as in `joint`, and the score are ours: MSP, to compare with `joint` (`entropy@gan_entropy` is the other
    choice).
    """

    in_all = False
    recipe = "gan_entropy"
