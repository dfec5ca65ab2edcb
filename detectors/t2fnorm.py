"""T2FNorm: features are normalised to unit length in training, and not at test time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oodbench.benchmark import Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head
from oodbench.detectors.msp import MSP

PAPER = (
    "Regmi, Panthi, Dotel, Gyawali, Stoyanov & Bhattarai, T2FNorm: Train-time Feature Normalization for OOD Detection "
    "in Image Classification, CVPR Workshops 2024"
)


class _Divided(nn.Module):
    """The weight of a head is a trained one, divided by tau."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, weight: Tensor) -> Tensor:
        return weight / self.tau


def _unit_length(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Normalises the features (N, D) that a head gets in training."""
    return (F.normalize(inputs[0], dim=1), *inputs[1:]) if head.training else None


@recipe("t2fnorm", title="T2FNorm", paper=PAPER, display_name="T2FNorm", cite="regmi2024t2fnorm")
class T2FNormLoss(LossRecipe):
    """Cross-entropy of the logits W f / (tau |f|) + b for features f; at test time the logits are W f / tau + b.

    The head's weight is W / tau, so that head(features) = logits.
    """

    tau: float = 0.1

    def __post_init__(self) -> None:
        """Check that the temperature is positive."""
        super().__post_init__()
        if not 0 < self.tau < float("inf"):
            raise ValueError(f"tau must be positive and finite, got {self.tau}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier, whose head normalises in training. Raises `DataError` if it has no linear head."""
        networks = super().networks(task)
        head = linear_head(networks["classifier"], "Recipe 't2fnorm' normalises the input of a linear head")
        parametrize.register_parametrization(head, "weight", _Divided(self.tau), unsafe=True)
        head.register_forward_pre_hook(_unit_length)
        return networks

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy on normalised features."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        return Losses(loss, {"cross_entropy": loss}, logits)


@detector("t2fnorm", title="T2FNorm, MSP", paper=PAPER, display_name="T2FNorm", cite="regmi2024t2fnorm")
class T2FNorm(MSP):
    """The MSP score of the logits W f / tau + b on a classifier trained with f / |f| in place of f, tau 0.1.

    Differs: the head's weight is W / tau, and features are f, so that head(features) = logits for all detectors.
    Optimizer, schedule and augmentation are those of the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "t2fnorm"
