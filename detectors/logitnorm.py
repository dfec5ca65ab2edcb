"""LogitNorm: cross-entropy of logits of a constant norm, so that training cannot lower the loss by larger logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors._loss_recipe import Losses, LossRecipe
from oodbench.detectors.msp import MSP

PAPER = "Wei, Xie, Cheng, Feng, An & Li, Mitigating Neural Network Overconfidence with Logit Normalization, ICML 2022"


def normalised(logits: Tensor, tau: float) -> Tensor:
    """f / (tau (|f| + 1e-7)) of each row, (N, K) -> (N, K)."""
    lengths: Tensor = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
    return logits / ((lengths + 1e-7) * tau)


@recipe("logitnorm", title="LogitNorm", paper=PAPER, display_name="LogitNorm", cite="wei2022logitnorm")
class LogitNormLoss(LossRecipe):
    """Cross-entropy of f / (tau |f|) for logits f, with tau 0.04, the authors' for CIFAR-10."""

    tau: float = 0.04

    def __post_init__(self) -> None:
        """Check that the temperature is positive."""
        super().__post_init__()
        if not 0 < self.tau < float("inf"):
            raise ValueError(f"tau must be positive and finite, got {self.tau}")

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy of the normalised logits."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(normalised(logits, self.tau), batch.labels)
        return Losses(loss, {"logit_norm": loss}, logits)


@detector("logitnorm", title="LogitNorm, MSP", paper=PAPER, display_name="LogitNorm", cite="wei2022logitnorm")
class LogitNorm(MSP):
    """The MSP score, of the logits as they are, on a classifier trained with cross-entropy of f / (tau |f|), tau 0.04.

    Differs: optimizer, schedule and augmentation are those of the recipe that its setting `like` names, which a suite
    chooses to fit its own; the authors and OpenOOD train by SGD for 200 and 100 epochs. The loss is theirs.
    """

    in_all = False
    recipe = "logitnorm"
