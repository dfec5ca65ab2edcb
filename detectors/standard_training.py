"""The standard training of the OOD literature on CIFAR: SGD, cosine schedule, random crops and flips."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training, recipe
from oodbench.detectors._accuracy import share_correct
from oodbench.detectors._augment import shifted


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every learning rate to a share of its value in the suite's schedule for this epoch."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


def cosine(progress: float, end: float) -> float:
    """Factor of the learning rate, from 1 at the first step to `end`: end + (1 - end) (1 + cos(pi progress)) / 2."""
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def cross_entropy_step(training: Training, images: Tensor, labels: Tensor, end: float) -> dict[str, Tensor]:
    """One step on the mean cross-entropy of some images, at a learning rate on the way to `end` times the first."""
    logits = training.networks["classifier"](images)
    loss = F.cross_entropy(logits, labels)
    optimizer = training.optimizers["classifier"]
    set_rates(optimizer, cosine(training.progress, end))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"cross_entropy": loss.detach(), "accuracy": share_correct(logits, labels)}


@recipe(
    "standard",
    title="Standard training: SGD, cosine schedule, random crops and flips",
    paper="as in OpenOOD v1.5, Zhang et al. 2023 (arXiv:2306.09301); Loshchilov & Hutter, ICLR 2017",
    display_name="Standard training",
    cite="zhang2023openood,loshchilov2017sgdr",
)
class Standard(Recipe):
    """Cross-entropy by SGD with Nesterov momentum; the learning rate follows half a cosine from step to step.

    As OpenOOD's recipe for CIFAR (100 epochs, batches of 128): learning rate 0.1 -> 1e-6, momentum 0.9, weight decay
    5e-4 on all parameters, 4 pixels of black padding, a random crop, a flip with probability one half. Three things
    differ: the last epoch is kept (OpenOOD keeps the best on 1,000 images of the test split), training uses the
    harness's nine tenths of the training split, and the network normalises the pixels (`bench show resnet18`).
    """

    learning_rate: float = 0.1
    final_learning_rate: float = 1e-6
    momentum: float = 0.9
    weight_decay: float = 5e-4
    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        if not 0 < self.momentum < 1 or self.weight_decay < 0 or self.padding < 0:
            raise ValueError(
                "momentum must be in (0, 1), weight_decay and padding 0 or more, "
                f"got {self.momentum}, {self.weight_decay} and {self.padding}"
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
            nesterov=True,
            fused=True,
        )}  # fmt: skip

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the mean cross-entropy of the batch, shifted and flipped."""
        images = shifted(batch.images, self.padding, self.flip, training.generator)
        end = self.final_learning_rate / self.learning_rate if self.learning_rate else 0.0
        return cross_entropy_step(training, images, batch.labels, end)
