"""RotPred: a second head tells by how much an image was rotated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Batch, DataError, Detector, Task, TrainBatch, Training, WithOutputs, detector, recipe
from oodbench.detectors._confidence_loss import kl_to_uniform
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head, require_not_negative

PAPER = (
    "Hendrycks, Mazeika, Kadavath & Song, Using Self-Supervised Learning Can Improve Model Robustness and Uncertainty, "
    "NeurIPS 2019"
)
BLOCK = 256
"""Number of images in a pass of the detector's own."""


def rotated(images: Tensor, turns: int) -> Tensor:
    """Square images (N, C, H, H) turned by `turns` quarters, in channels-last memory."""
    return torch.rot90(images, turns, (2, 3)).contiguous(memory_format=torch.channels_last)


@recipe("rotpred", title="Rotation prediction", paper=PAPER, display_name="RotPred", cite="hendrycks2019selfsupervised")
class RotPredLoss(LossRecipe):
    """CE of the classes of images + weight CE of their rotation, by 0, 1, 2 and 3 quarters.

    Both heads are linear, on the same features; the logits of the second are the named output `rotation`. Classes are
    learned on images that are not rotated. All four turns go through one pass, and batch norm sees them together.
    """

    outputs = {"rotation": 4}
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the weight."""
        super().__post_init__()
        require_not_negative("weight", self.weight)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier with a second head. Raises `DataError` if images are not square, or the head not linear."""
        height, width = task.image_shape[1:]
        if height != width:
            raise DataError(
                f"Recipe 'rotpred' needs square images, because it turns them; these are {height} x {width}."
            )
        classifier = super().networks(task)["classifier"]
        head = linear_head(classifier, "Recipe 'rotpred' puts a second head beside a linear one")
        return {"classifier": WithOutputs(classifier, rotation=nn.Linear(head.in_features, 4))}

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropies of the classes and of the turns."""
        network, count = training.networks["classifier"], len(batch.images)
        assert isinstance(network, WithOutputs)
        features = network.features(torch.cat([rotated(batch.images, turns) for turns in range(4)]))
        turns = torch.arange(4, device=features.device).repeat_interleave(count)
        logits = network.head(features[:count])
        ce = F.cross_entropy(logits, batch.labels)
        of_turns = F.cross_entropy(network.outputs(features)["rotation"], turns)
        parts = {"cross_entropy": ce, "cross_entropy_of_rotations": of_turns}
        return Losses(ce + self.weight * of_turns, parts, logits)


@detector(
    "rotpred", title="Rotation prediction", paper=PAPER, display_name="RotPred", cite="hendrycks2019selfsupervised"
)
class RotPred(Detector):
    """mean_r [-log q_r(x turned by r quarters)] - KL(U || p(x)), in nats: how badly rotations are recognised, and how
    uniform
    class probabilities p are.

    q_r is the probability that the second head gives to the turn by r quarters. Three passes per image, beside the one
    that all detectors share.

    Differs: the score is that of the authors' code and of OpenOOD, which take base-2 logarithms, with the same ranking.
    The weight of the rotation's cross-entropy is OpenOOD's 1; the authors' code divides it by 3, because it also
    predicts translations, with a weight that can be 0. Optimizer, schedule and augmentation are those of the recipe
    that the setting `like` names.
    """

    needs = frozenset({"logits", "images", "network"})
    reads = frozenset({"rotation"})
    passes = 3
    in_all = False
    recipe = "rotpred"

    def score(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of the four turns minus the divergence of the class probabilities from uniform."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def _score(self, batch: Batch) -> Tensor:
        logits = batch.logits
        untold = -torch.log_softmax(batch.outputs["rotation"], dim=1)[:, 0]
        for turns in range(1, 4):
            with torch.no_grad():
                features = batch.classifier.features(rotated(batch.images, turns))
                outputs = batch.classifier.outputs(features)["rotation"].double()
            untold = untold - torch.log_softmax(outputs, dim=1)[:, turns].to(untold.device)
        return untold / 4 - kl_to_uniform(logits)
