"""Fine-tuning: all weights are trained further from given ones, with a small learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training, recipe
from oodbench.detectors._augment import shifted
from oodbench.detectors.standard_training import cross_entropy_step


@recipe(
    "fine_tune",
    title="Fine-tuning of given weights: SGD with a small learning rate",
    paper="learning rate and momentum of the BiT-HyperRule, Kolesnikov et al., Big Transfer, ECCV 2020, section 3.3",
    display_name="Fine-tuning",
    cite="kolesnikov2020bit",
)
class FineTune(Recipe):
    """Cross-entropy by SGD from given weights, without weight decay; the learning rate follows half a cosine to 0.

    Learning rate 0.003 and momentum 0.9 are the BiT-HyperRule's. Its batches of 512, its warm-up and its steps of the
    rate are not: epochs and batch size are the suite's. Images are shifted by up to `shift` of their side, with black
    around them, and half of them are flipped, as in standard training (4 of 32 pixels).
    """

    starts_from_weights = True
    learning_rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 0.0
    shift: float = 0.125
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        if not 0 <= self.momentum < 1 or self.weight_decay < 0 or not 0 <= self.shift < 1:
            raise ValueError(
                "momentum and shift must be in [0, 1), weight_decay 0 or more, "
                f"got {self.momentum}, {self.shift} and {self.weight_decay}"
            )

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier only."""
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """SGD over all parameters."""
        return {"classifier": torch.optim.SGD(
            networks["classifier"].parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=True,
        )}  # fmt: skip

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the mean cross-entropy of the batch, shifted and flipped."""
        by = round(self.shift * min(batch.images.shape[2:]))
        images = shifted(batch.images, by, self.flip, training.generator)
        return cross_entropy_step(training, images, batch.labels, 0.0)
