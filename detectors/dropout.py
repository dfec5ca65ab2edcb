"""Networks trained with dropout before their last layer, so that masks can be sampled at test time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head
from oodbench.detectors.mc_dropout import MCDropout

PAPER = "Gal & Ghahramani, Dropout as a Bayesian Approximation, ICML 2016"


def _drop(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Passes the features (N, D) that a head gets through its dropout layer."""
    return (head.dropout(inputs[0]), *inputs[1:])  # type: ignore[operator]


@recipe("dropout", title="Cross-entropy with dropout", paper=PAPER, display_name="Dropout", cite="gal2016dropout")
class DropoutTraining(LossRecipe):
    """Cross-entropy of a network whose penultimate features are set to 0 with probability `rate`, and otherwise divided
    by 1 - `rate`, in training; at test time the network is the plain one, and `mc_dropout` samples the masks."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        """Check that some features are set to 0, and not all of them."""
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must be above 0 and below 1, got {self.rate}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier, with dropout before its head. Raises `DataError` if it has no linear head."""
        networks = super().networks(task)
        head = linear_head(networks["classifier"], "Recipe 'dropout' drops inputs of a linear head")
        head.add_module("dropout", nn.Dropout(self.rate))
        head.register_forward_pre_hook(_drop)
        return networks

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy under one draw of the masks, a mask for each image."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        return Losses(loss, {"cross_entropy": loss}, logits)


@detector(
    "dropout",
    title="Monte Carlo dropout, trained with it",
    paper=PAPER,
    display_name="MC dropout (trained)",
    cite="gal2016dropout",
)
class Dropout(MCDropout):
    """The score of `mc_dropout` on a network that was trained with dropout before its last layer, with probability 0.5.

    Differs: Gal and Ghahramani have dropout before every layer with weights; here it is before the last one, as in
    OpenOOD, whatever the backbone. Optimizer, schedule and augmentation are those of the recipe that the setting `like`
    names.
    """

    in_all = False
    recipe = "dropout"
