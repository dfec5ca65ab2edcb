"""Confidence loss on real outliers: cross-entropy on ID images plus KL to uniform on outliers."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors._confidence_loss import confidence_losses
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.detectors.msp import MSP

PAPER = "Lee, Lee, Lee & Shin, Training Confidence-calibrated Classifiers for Detecting OOD Samples, ICLR 2018"


@recipe(
    "confidence",
    title="Confidence loss on real outliers",
    paper=f"{PAPER}, eq. 1",
    display_name="Confidence loss (outliers)",
    cite="lee2018confidence",
)
class ConfidenceLoss(CrossEntropy):
    """CE + beta KL(U || p), the KL on as many outliers as there are ID images in the batch."""

    needs = frozenset({"outliers"})
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Check that beta is not negative: a negative penalty would reward confidence on outliers."""
        if not self.beta >= 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def outliers(self, training: Training, batch: TrainBatch) -> Tensor:
        """The images for which the prediction should be uniform."""
        if batch.outliers is None:
            raise ValueError("the confidence loss got a batch without outliers")
        return batch.outliers

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step of the classifier on CE + beta KL."""
        outliers = self.outliers(training, batch)
        losses = confidence_losses(training.networks["classifier"], batch.images, batch.labels, outliers)
        optimizer: torch.optim.Optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        (losses.cross_entropy + self.beta * losses.kl_to_uniform).backward()
        optimizer.step()
        return losses.logged()


@detector(
    "confidence",
    title="Confidence loss (real outliers), MSP",
    paper=PAPER,
    display_name="Confidence loss (outliers)",
    cite="lee2018confidence",
)
class Confidence(MSP):
    """The MSP score on a classifier trained with the confidence loss on real outliers."""

    recipe = "confidence"
