"""Learned confidence: a branch beside the head that states how sure the network is of its prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import (
    Batch,
    Classifier,
    Detector,
    Task,
    TrainBatch,
    Training,
    WithOutputs,
    detector,
    recipe,
)
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head

PAPER = (
    "DeVries & Taylor, Learning Confidence for Out-of-Distribution Detection in Neural Networks, 2018 "
    "(arXiv:1802.04865)"
)

BLOCK = 256
"""Number of images per pass: the gradient keeps all activations in memory."""

FASTER, SLOWER = 0.99, 1.01
"""What lambda is divided by after a batch whose confidence loss is at or above the budget, or below it."""


def hinted_losses(logits: Tensor, raw: Tensor, labels: Tensor, hinted: Tensor) -> Tensor:
    """-log p'_y of each image, p' = c p + (1 - c) y with c replaced by 1 where no hint is given, (N,).

    Computed from logarithms, so that no probability rounds to 0. `logits` (N, K), `raw` (N,) the confidence before the
    sigmoid, `labels` (N,), `hinted` bool (N,).
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    with_hint = torch.logaddexp(F.logsigmoid(raw) + log_p, F.logsigmoid(-raw))
    return -torch.where(hinted, with_hint, log_p)


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cutout (DeVries & Taylor 2017): a square hole in each image (N, C, H, W), filled with the batch's mean colour.

    The centre of the hole is any pixel, so that a part of it may lie outside. Its height and width are `side`, or one
    less if that is odd. Draws N rows and N columns from `generator`, which is on the images' device.
    """
    count, _, height, width = images.shape

    def covered(length: int) -> Tensor:
        centre = torch.randint(0, length, (count, 1), generator=generator, device=images.device)
        place = torch.arange(length, device=images.device)
        return (place >= centre - side // 2) & (place < centre + side // 2)

    rows, columns = covered(height), covered(width)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], images.mean((0, 2, 3), keepdim=True), images)


@recipe(
    "learned_confidence",
    title="Learned confidence",
    paper=PAPER,
    display_name="Learned confidence",
    cite="devries2018confidence",
)
class LearnedConfidenceLoss(LossRecipe):
    """-log p'_y + lambda * mean(-log c), where a confidence c lets the network see a part of the label.

    c is the sigmoid of one linear unit beside the head. For a random half of a batch, the prediction p is replaced by
    p' = c p + (1 - c) y, so that a low confidence buys a hint at the label y, at the price of -log c. After each batch,
    lambda is divided by 1.01 if that price was below the `budget`, and by 0.99 otherwise: the price stays near it.
    `first_lambda`: lambda in the first step. `cutout`: side in pixels of a hole in each training image, 0 for none; the
    authors' are 16 on CIFAR-10 and 20 on SVHN. The network's named output "confidence" is c before the sigmoid.
    """

    outputs = {"confidence": 1}
    budget: float = 0.3
    first_lambda: float = 0.1
    hints: float = 0.5
    cutout: int = 0
    lambda_: Any = None

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        for name in ("budget", "first_lambda"):
            if not 0 < self.settings[name] < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {self.settings[name]}")
        if not 0 < self.hints <= 1:
            raise ValueError(f"hints is the share of images that get one, above 0 and at most 1; got {self.hints}")
        if self.cutout < 0:
            raise ValueError(f"cutout is the side of a hole in pixels, 0 for none; got {self.cutout}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier with its branch. Raises `DataError` if it has no linear head."""
        classifier = super().networks(task)["classifier"]
        head = linear_head(classifier, "Recipe 'learned_confidence' adds a unit beside a linear head")
        return {"classifier": WithOutputs(classifier, confidence=nn.Linear(head.in_features, 1))}

    def augmented(self, images: Tensor, training: Training) -> Tensor:
        """With cutout, if it is on."""
        return cut_out(images, self.cutout, training.generator) if self.cutout else images

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The loss at the present lambda, which is then adapted."""
        network = training.networks["classifier"]
        assert isinstance(network, WithOutputs)
        features = network.features(batch.images)
        raw = network.outputs(features)["confidence"][:, 0]
        draws = torch.rand(len(raw), generator=training.generator, device=training.generator.device)
        hinted = draws.to(raw.device) < self.hints
        logits = network.head(features)
        classified = hinted_losses(logits, raw, batch.labels, hinted).mean()
        price = F.softplus(-raw).mean()
        before = self.lambda_
        weight = price.new_tensor(self.first_lambda) if before is None else before.to(price)
        # A tensor on the device: reading it would wait for a GPU in every step.
        self.lambda_ = torch.where(price.detach() < self.budget, weight / SLOWER, weight / FASTER)
        parts = {"cross_entropy": classified, "confidence": price, "lambda": weight}
        return Losses(classified + weight * price, parts, logits)


@detector(
    "learned_confidence",
    title="Learned confidence",
    paper=PAPER,
    display_name="Learned confidence",
    cite="devries2018confidence",
)
class LearnedConfidence(Detector):
    """1 - c for the confidence c that the network states.

    Differs: cutout is off by default (`learned_confidence@learned_confidence[cutout=16]`), and fills holes with the
    mean colour of the batch, where the authors' have that of all training images. Optimizer, schedule and other
    augmentation are those of the recipe that the setting `like` names; the authors train by SGD for 160 to 300 epochs.
    Logarithms are exact where theirs are cut off at 1e-12. Budget 0.3, lambda from 0.1 and its two factors, and hints
    for half of a batch are theirs. In a training of few hundred steps, lambda cannot follow, and the confidence becomes
    1 on almost all training images.
    """

    needs = frozenset()
    reads = frozenset({"confidence"})
    in_all = False
    recipe = "learned_confidence"

    def score(self, batch: Batch) -> Tensor:
        """1 minus the confidence, in [0, 1]."""
        return torch.sigmoid(-batch.outputs["confidence"][:, 0])

    def confidence_of(self, scores: np.ndarray) -> np.ndarray:
        """The confidence."""
        confidence: np.ndarray = (1 - scores).astype(np.float32)
        return confidence


@detector(
    "learned_confidence_perturbed",
    title="Learned confidence on perturbed images",
    paper=f"{PAPER}, with its input preprocessing",
    display_name="Learned confidence (perturbed)",
    cite="devries2018confidence",
)
class PerturbedLearnedConfidence(LearnedConfidence):
    """1 - c(x~), x~ = x - epsilon sign(grad_x (-log c(x))): images are moved to where the network is more confident.

    `epsilon` is in units of pixels in [0, 1]; as in the authors' code, x~ may leave that range. Two passes per image.

    Differs: the authors' step, 0.001 by default, is in units of normalised images, and they choose it on OOD images. As
    `learned_confidence` otherwise.
    """

    needs = frozenset({"images", "network"})
    passes = 2
    grid = {"epsilon": (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01)}
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        """Check epsilon."""
        if not 0 <= self.epsilon < float("inf"):
            raise ValueError(
                f"epsilon is a step in units of pixels from 0 to 1 and must not be negative, got {self.epsilon}"
            )

    def score(self, batch: Batch) -> Tensor:
        """1 minus the confidence in the perturbed image."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def _score(self, batch: Batch) -> Tensor:
        images = batch.images.requires_grad_()
        with torch.enable_grad():
            doubt = F.softplus(-_raw(batch.classifier, images))
            (gradient,) = torch.autograd.grad(doubt.sum(), images)
        with torch.no_grad():
            return torch.sigmoid(-_raw(batch.classifier, images - self.epsilon * gradient.sign()))


def _raw(classifier: Classifier, images: Tensor) -> Tensor:
    """The confidence before the sigmoid, float64 (N,), of images (N, C, H, W)."""
    return classifier.outputs(classifier.features(images))["confidence"][:, 0].double()
