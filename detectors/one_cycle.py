"""Short training, for machines without a GPU: one cycle of the learning rate, and small images first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training, recipe
from oodbench.detectors._augment import shifted
from oodbench.detectors.standard_training import set_rates


def one_cycle(progress: float, warm_up: float, start: float, end: float) -> float:
    """Linearly from `start` to 1 at `warm_up`, and on to `end` at 1."""
    if progress < warm_up:
        return start + (1 - start) * progress / warm_up
    return 1 + (end - 1) * (progress - warm_up) / (1 - warm_up)


@recipe(
    "one_cycle",
    title="Short training: one-cycle SGD, label smoothing, small images first",
    paper="Smith & Topin, Super-Convergence, 2018 (arXiv:1708.07120); ideas of Jordan 2024 (arXiv:2404.00498)",
)
class OneCycle(Recipe):
    """Cross-entropy with smoothed labels by SGD with Nesterov's momentum, for about ten epochs.

    The rate rises linearly from a fifth to `learning_rate` at `warm_up` of all steps, and falls linearly to `end` of
    it. Weight decay acts on weights of convolutions and linear layers, not on biases and batch norms. Images are moved
    by up to `shift` pixels, what is missing mirrored, and flipped in half the cases. They are shrunk to `low_side` of
    their height and width at first and grow, in steps of four pixels, to their own size at `low_until` of all steps
    (0.5 of 32 pixels: 16, 20, 24, 28, 32), which needs a network that takes images of any size; 1, the default, is
    off. Smoothed labels change what confidence scores see: 0 is the plain cross-entropy.

    Of the short recipe cited, the schedule, the small shifts and the smoothing; its network, whitening, optimiser,
    test-time averaging and derandomised flips are not here. No number is claimed for it.
    """

    learning_rate: float = 0.2
    warm_up: float = 0.25
    end: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    shift: int = 2
    flip: bool = True
    low_side: float = 1.0
    low_until: float = 0.6

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.momentum < 1 or self.weight_decay < 0 or self.shift < 0:
            raise ValueError(
                "momentum must be in (0, 1), weight_decay and shift 0 or more, "
                f"got {self.momentum}, {self.weight_decay} and {self.shift}"
            )
        for name in ("warm_up", "end", "label_smoothing", "low_until"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.low_side <= 1:
            raise ValueError(f"low_side must be in (0, 1], got {self.low_side}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier alone. Raises `DataError` if it is to see small images and takes none."""
        network = task.build_classifier()
        if self.low_side < 1:
            self._try(network, task.image_shape)
        return {"classifier": network}

    def _try(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        sides = [self._side(side, 0.0) for side in image_shape[1:]]
        weight = next(network.parameters())
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, image_shape[0], *sides, device=weight.device, dtype=weight.dtype))
        except RuntimeError as error:
            told = " x ".join(map(str, sides))
            raise DataError(
                f"Recipe 'one_cycle' with low_side={self.low_side} trains on images of {told} pixels first, which this "
                "backbone does not take. Set low_side=1, or choose a backbone that takes any size, such as resnet18."
            ) from error
        network.train()

    def _side(self, side: int, progress: float) -> int:
        """Pixels of a side at `progress`: a multiple of 4 while it grows, and never none."""
        if progress >= self.low_until:
            return side
        share = self.low_side + (1 - self.low_side) * progress / self.low_until
        return min(side, max(1, 4 * round(side * share / 4)))

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """SGD; weight decay on whatever has two dimensions or more."""
        parameters = list(networks["classifier"].parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        sgd = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=True, fused=True)
        return {"classifier": sgd}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the smoothed cross-entropy of the batch, shifted, flipped and, early on, shrunk."""
        images = shifted(batch.images, self.shift, self.flip, training.generator, "reflect")
        sides = [self._side(side, training.progress) for side in images.shape[2:]] if self.low_side < 1 else None
        if sides is not None and sides != list(images.shape[2:]):
            images = F.interpolate(images, sides, mode="bilinear", antialias=True)
            images = images.contiguous(memory_format=torch.channels_last)
        logits = training.networks["classifier"](images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        optimizer = training.optimizers["classifier"]
        set_rates(optimizer, one_cycle(training.progress, self.warm_up, 0.2, self.end))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"smoothed_cross_entropy": loss.detach()}
