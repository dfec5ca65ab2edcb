"""The training loop that serves every recipe, and its state, from which a stopped training resumes bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.plugins.recipe import Recipe, TrainBatch, Training
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.training.divergence import CHECK_EVERY, DivergedError, divergence, unfit_loss
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from oodbench.benchmark.stages.training.training_images import Images, rows_of
from oodbench.benchmark.stats.seeds import derive


class ShuffledIndices:
    """An endless sequence of the indices of `count` images, shuffled again each time all have been used."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._random = torch.Generator().manual_seed(seed)
        self._shuffle()

    def take(self, count: int) -> Tensor:
        """The next indices, int64 (count,)."""
        pieces = []
        while count:
            piece = self._indices[self._used : self._used + count]
            self._used += len(piece)
            count -= len(piece)
            pieces.append(piece)
            if self._used == self._count:
                self._shuffle()
        return torch.cat(pieces)

    def _shuffle(self) -> None:
        self._before = self._random.get_state()
        self._indices = torch.randperm(self._count, generator=self._random)
        self._used = 0

    def state(self) -> dict[str, Any]:
        """The position in the sequence, to be restored with `load_state`."""
        return {"before": self._before, "used": self._used}

    def load_state(self, state: dict[str, Any]) -> None:
        """Return to a position."""
        self._random.set_state(state["before"])
        self._shuffle()
        self._used = state["used"]


class TrainLoop:
    """Trains one job's networks.

    `data`, images (N, C, H, W), `labels`, int64 (N,), and `outliers`, images (M, C, H, W), if the recipe declares them.
    What is a tensor is uint8, on the training device; `training_images.ReadImages` are decoded batch by batch.
    """

    def __init__(
        self, job: TrainJob, recipe: Recipe, training: Training, data: Images, labels: Tensor, outliers: Images | None
    ) -> None:
        self.job, self.recipe, self.training = job, recipe, training._replace(epoch_images=len(data))
        self.data, self.labels, self.outliers = data, labels, outliers
        self._order = ShuffledIndices(len(data), derive(job.seed, "training", "order"))
        seed = derive(job.seed, "training", "outlier order")
        self._draws = None if outliers is None else ShuffledIndices(len(outliers), seed)
        self._rates = {n: [group["lr"] for group in o.param_groups] for n, o in training.optimizers.items()}
        self._device = labels.device
        self._sums: dict[str, Tensor] = {}
        self.epoch = 0
        """Epochs completed."""
        self.passed = 0
        """Images of the current epoch that have been processed."""
        self.losses: list[dict[str, float]] = []
        """For each completed epoch, the mean of every loss over its images."""
        self.diverged: tuple[str, ...] = ()
        """Why earlier attempts of the same training diverged."""

    def run(self, tick: Tick, pause: Callable[[bool], None]) -> None:
        """Train until the schedule ends; `pause` is called between steps, with whether an epoch has just ended.

        Raises `DivergedError`.
        """
        while self.epoch < self.job.schedule.epochs:
            self._begin()
            while self.passed < len(self.data):
                self._step(tick)
                if self.passed < len(self.data):
                    pause(False)
            self._end()
            if self.epoch < self.job.schedule.epochs:
                pause(True)

    def _begin(self) -> None:
        factor = _factor(self.job, self.epoch)
        for name, optimizer in self.training.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self._rates[name], strict=True):
                group["lr"] = group["initial_lr"] = rate * factor
        for network in self.training.networks.values():
            network.train()

    def _step(self, tick: Tick) -> None:
        rows = self._order.take(min(self.job.schedule.batch_size, len(self.data) - self.passed))
        drawn = None
        if self.outliers is not None and self._draws is not None:
            drawn = floats(rows_of(self.outliers, self._draws.take(len(rows))))
        batch = TrainBatch(floats(rows_of(self.data, rows)), rows_of(self.labels, rows), drawn)
        for name, loss in self.recipe.step(self.training._replace(progress=self.progress), batch).items():
            # Summed on the device: reading a loss would wait for the GPU in every step.
            self._sums[name] = self._sums.get(name, torch.zeros((), device=loss.device)) + loss.detach() * len(rows)
        self.passed += len(rows)
        tick(len(rows))
        is_time = self.passed % (CHECK_EVERY * self.job.schedule.batch_size) == 0
        if is_time and (reason := unfit_loss(self.recipe, self._means())):
            self.losses.append(self._means())
            self._refuse(reason)

    def _end(self) -> None:
        self.losses.append(self._means())
        self._refuse(divergence(self.recipe, self.losses[-1], self.training.networks))
        self._sums, self.passed = {}, 0
        self.epoch += 1

    def _means(self) -> dict[str, float]:
        """The mean of every loss over the images of the running epoch so far."""
        return {name: float(total) / self.passed for name, total in self._sums.items()}

    def _refuse(self, reason: str) -> None:
        if reason:
            raise DivergedError(*self.diverged, f"{reason} in epoch {self.epoch + 1}")

    @property
    def values(self) -> EpochValues | None:
        """The values of the running epoch, or of the last one between two epochs; None before the first step."""
        attempt, epochs = 1 + len(self.diverged), self.job.schedule.epochs
        if self.passed:
            return EpochValues(self.epoch + 1, epochs, self._means(), attempt)
        return EpochValues(self.epoch, epochs, self.losses[-1], attempt) if self.losses else None

    @property
    def progress(self) -> float:
        """Fraction of all steps that are done; a function of what a snapshot contains."""
        size = self.job.schedule.batch_size
        steps = -(-len(self.data) // size)
        return (self.epoch * steps + self.passed // size) / (self.job.schedule.epochs * steps)

    @property
    def images(self) -> int:
        """Images processed so far, in all epochs."""
        return self.epoch * len(self.data) + self.passed

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain data."""
        training = self.training
        return {
            "epoch": self.epoch,
            "passed": self.passed,
            "losses": self.losses,
            "diverged": list(self.diverged),
            "sums": self._sums,
            "order": self._order.state(),
            "draws": self._draws.state() if self._draws else None,
            "networks": {name: dict(network.state_dict()) for name, network in training.networks.items()},
            "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in training.optimizers.items()},
            "recipe": self.recipe.state(),
            "steps": training.generator.get_state(),
            "layers": torch.get_rng_state(),
            "device layers": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        training = self.training
        for name, weights in state["networks"].items():
            training.networks[name].load_state_dict(weights)
        for name, optimizer in training.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]  # rates follow from the schedule, the rest from the recipe
            optimizer.load_state_dict({"state": state["optimizers"][name], "param_groups": groups})
            _match_strides_of_weights(optimizer)
        self.recipe.load_state(state["recipe"])
        self._order.load_state(state["order"])
        if self._draws is not None:
            self._draws.load_state(state["draws"])
        training.generator.set_state(state["steps"])
        torch.set_rng_state(state["layers"])
        if state["device layers"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["device layers"], self._device)
        self.epoch, self.passed, self.losses = state["epoch"], state["passed"], state["losses"]
        self.diverged = tuple(state.get("diverged", ()))  # missing in snapshots of older versions
        self._sums = {name: total.to(self._device) for name, total in state["sums"].items()}


def _match_strides_of_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the strides of their weights: files do not store strides, and fused optimizers rely on them."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _factor(job: TrainJob, epoch: int) -> float:
    # Rounded, because 0.28 * 25 is slightly more than 7 in floating point.
    passed = sum(epoch >= round(milestone * job.schedule.epochs, 6) for milestone in job.schedule.milestones)
    return float(job.schedule.decay**passed)


def floats(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1] with channels-last strides, as networks train and are evaluated."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)
