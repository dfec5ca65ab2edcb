"""Short training for machines without a GPU: a one-cycle learning rate, and small images first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training, recipe
from oodbench.detectors._accuracy import share_correct
from oodbench.detectors._augment import shifted
from oodbench.detectors.standard_training import set_rates


def one_cycle(progress: float, warm_up: float, start: float, end: float) -> float:
    """Factor of the learning rate: linear from `start` to 1 at `warm_up`, then linear to `end` at progress 1."""
    if progress < warm_up:
        return start + (1 - start) * progress / warm_up
    return 1 + (end - 1) * (progress - warm_up) / (1 - warm_up)


@recipe(
    "one_cycle",
    title="Short training: one-cycle SGD, label smoothing, small images first",
    paper="Smith & Topin, Super-Convergence, 2018 (arXiv:1708.07120); ideas of Jordan 2024 (arXiv:2404.00498)",
    display_name="One-cycle",
    cite="smith2018superconvergence,jordan2024airbench",
)
class OneCycle(Recipe):
    """Cross-entropy with label smoothing by SGD with Nesterov momentum, for about ten epochs.

    The learning rate rises linearly from a fifth to all of `learning_rate` at the share `warm_up` of all steps, and
    falls linearly to the share `end` of it. Weight decay acts on the weights of convolutions and linear layers, not on
    biases and batch norms. Images are shifted by up to `shift` pixels with reflection padding, and half of them are
    flipped. Label smoothing changes confidence scores; 0 is the plain cross-entropy.

    With `low_side` below 1, images are first resized to that share of their height and width. They grow, in steps of
    four pixels, to their original size at the share `low_until` of all steps (0.5 of 32 pixels: 16, 20, 24, 28, 32).
    This requires a network that accepts images of any size. The default, 1, is off.

    Schedule, small shifts and smoothing follow the short recipe cited; its network, whitening, optimiser, test-time
    averaging and derandomised flips are not implemented, and no published number is claimed.
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
        """Check the ranges of the settings."""
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
        """The classifier only. Raises `DataError` if it does not accept the small images of `low_side`."""
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
        except torch.cuda.OutOfMemoryError:  # a RuntimeError too, which says nothing about the backbone
            raise
        except RuntimeError as error:
            told = " x ".join(map(str, sides))
            raise DataError(
                f"Recipe 'one_cycle' with low_side={self.low_side} trains on images of {told} pixels first, which this "
                "backbone does not take. Set low_side=1, or choose a backbone that takes any size, such as resnet18."
            ) from error
        network.train()

    def _side(self, side: int, progress: float) -> int:
        """Side length in pixels at `progress`: a multiple of 4 while it grows, and at least 1."""
        if progress >= self.low_until:
            return side
        share = self.low_side + (1 - self.low_side) * progress / self.low_until
        return min(side, max(1, 4 * round(side * share / 4)))

    def resized(self, images: Tensor, progress: float) -> Tensor:
        """Images (N, C, H, W) at their size at `progress`."""
        sides = [self._side(side, progress) for side in images.shape[2:]] if self.low_side < 1 else None
        if sides is None or sides == list(images.shape[2:]):
            return images
        small = F.interpolate(images, sides, mode="bilinear", antialias=True)
        return small.contiguous(memory_format=torch.channels_last)

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """SGD, with weight decay on parameters with two or more dimensions."""
        parameters = list(networks["classifier"].parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        sgd = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=True, fused=True)
        return {"classifier": sgd}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the smoothed cross-entropy of the batch, after shifts, flips and, early in training, resizing."""
        images = shifted(batch.images, self.shift, self.flip, training.generator, "reflect")
        images = self.resized(images, training.progress)
        logits = training.networks["classifier"](images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        optimizer = training.optimizers["classifier"]
        set_rates(optimizer, one_cycle(training.progress, self.warm_up, 0.2, self.end))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"smoothed_cross_entropy": loss.detach(), "accuracy": share_correct(logits, batch.labels)}
