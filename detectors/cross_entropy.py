"""Plain cross-entropy training, the base recipe of several suites."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training, recipe
from oodbench.detectors._accuracy import share_correct


@recipe("cross_entropy", title="Cross-entropy", display_name="Cross-entropy")
class CrossEntropy(Recipe):
    """Adam on the cross-entropy loss, without outliers or weight decay: the confidence-loss paper's baseline."""

    learning_rate: float = 0.001

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier only."""
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam with its default betas."""
        return {"classifier": torch.optim.Adam(networks["classifier"].parameters(), lr=self.learning_rate, fused=True)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the mean cross-entropy."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"cross_entropy": loss.detach(), "accuracy": share_correct(logits, batch.labels)}
