"""Recipes that train one classifier with a loss of their own, and are otherwise trained like another recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.detectors._accuracy import share_correct
from oodbench.detectors._augment import shifted
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.detectors.one_cycle import OneCycle, one_cycle
from oodbench.detectors.standard_training import Standard, cosine, set_rates


class Losses(NamedTuple):
    """What a step descends on, and what it logs."""

    total: Tensor
    """The scalar whose gradient is taken."""
    parts: dict[str, Tensor]
    """Scalars by name for the log."""
    logits: Tensor | None = None
    """Logits (N, K) of the batch's images, for their accuracy in the log; None if the step has none of them."""


class Regime(NamedTuple):
    """How a recipe trains, apart from its loss."""

    recipe: type[Recipe]
    """Its networks and optimizer are taken over, with the defaults of its settings."""
    shift: int = 0
    """Random shifts of each image by up to so many pixels."""
    flip: bool = False
    """Whether half of the images are mirrored."""
    pad: str = "constant"
    """What is outside of a shifted image: black, or its reflection."""
    share: Callable[[float, float], float] | None = None
    """The share of the learning rate by the training's progress and that rate; None: the suite's schedule alone."""


def _standard_share(progress: float, rate: float) -> float:
    return cosine(progress, min(1.0, Standard.final_learning_rate / rate))


def _one_cycle_share(progress: float, rate: float) -> float:
    return one_cycle(progress, OneCycle.warm_up, 0.2, OneCycle.end)


REGIMES: Mapping[str, Regime] = {
    "cross_entropy": Regime(CrossEntropy),
    "standard": Regime(Standard, Standard.padding, Standard.flip, share=_standard_share),
    "one_cycle": Regime(OneCycle, OneCycle.shift, OneCycle.flip, "reflect", _one_cycle_share),
}
"""Values of the setting `like`."""


class LossRecipe(Recipe):
    """Trains the classifier on `losses`. Networks, optimizer, learning rates and augmentation are those of `like`.

    `like` is "cross_entropy" (Adam, images as they are), "standard" (SGD, cosine schedule, crops and flips) or
    "one_cycle" (a short SGD cycle, small shifts and flips; labels are not smoothed), each with its defaults;
    `learning_rate` overrides its learning rate. `low_side` and `low_until` are those of "one_cycle": with `low_side`
    below 1, images, outliers included, are small at first and grow.
    """

    like: str = "cross_entropy"
    learning_rate: float | None = None
    low_side: float = OneCycle.low_side
    low_until: float = OneCycle.low_until

    def __post_init__(self) -> None:
        """Check the name of the other recipe and the learning rate."""
        if self.like not in REGIMES:
            raise ValueError(f"like must be one of {', '.join(REGIMES)}, got '{self.like}'")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if self.like == "one_cycle":
            OneCycle(**self._growth)  # checks the ranges
        elif self.low_side != OneCycle.low_side:
            raise ValueError(f"low_side is a setting of like=one_cycle, got {self.low_side} with like={self.like}")

    @property
    def _growth(self) -> dict[str, Any]:
        return {"low_side": self.low_side, "low_until": self.low_until} if self.like == "one_cycle" else {}

    @property
    def model(self) -> Recipe:
        """The recipe whose optimizer is used."""
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        return REGIMES[self.like].recipe(**rate, **self._growth)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier only. Raises `DataError` if it does not accept the small images of `low_side`."""
        return self.model.networks(task)

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """The optimizer of the other recipe."""
        return self.model.optimizers(networks)

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The loss of a batch, whose images, outliers included, are augmented already."""
        raise NotImplementedError

    def shifted(self, images: Tensor, training: Training) -> Tensor:
        """Images (N, C, H, W), ID images or outliers, after the shifts and flips of the other recipe."""
        regime = REGIMES[self.like]
        if not (regime.shift or regime.flip):
            return images
        return shifted(images, regime.shift, regime.flip, training.generator, regime.pad)

    def augmented(self, images: Tensor, training: Training) -> Tensor:
        """A method's own augmentation of ID images (N, C, H, W), after shifts and flips; by default none."""
        return images

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the loss."""
        regime, model, optimizers = REGIMES[self.like], self.model, training.optimizers.values()
        if regime.share is not None:
            for optimizer in optimizers:
                set_rates(optimizer, regime.share(training.progress, model.settings["learning_rate"]))
        images = self.shifted(batch.images, training)
        outliers = None if batch.outliers is None else self.shifted(batch.outliers, training)
        images = self.augmented(images, training)
        if isinstance(model, OneCycle):
            images = model.resized(images, training.progress)
            outliers = None if outliers is None else model.resized(outliers, training.progress)
        total, parts, logits = self.losses(training, batch._replace(images=images, outliers=outliers))
        for optimizer in optimizers:
            optimizer.zero_grad()
        total.backward()
        for optimizer in optimizers:
            optimizer.step()
        if logits is not None:
            parts = {**parts, "accuracy": share_correct(logits, batch.labels)}
        return {name: part.detach() for name, part in parts.items()}

    def outliers(self, batch: TrainBatch) -> Tensor:
        """The batch's outliers, (N, C, H, W). Raises `ValueError` if it has none."""
        if batch.outliers is None:
            raise ValueError(f"recipe '{self.name}' got a batch without outliers")
        return batch.outliers


def linear_head(network: nn.Module, what: str) -> nn.Linear:
    """The linear head of a network. Raises `DataError`, whose message begins with `what` a recipe does, without one."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        raise DataError(f"{what}, and this backbone has none.")
    return head


def require_not_negative(name: str, value: float) -> None:
    """Raise `ValueError` for a setting that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be 0 or more, and finite, got {value}")
