"""`Recipe`: how a classifier is trained, and what a training step is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from oodbench.benchmark.plugins.base import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Recipe(Plugin):
    """How a classifier is trained: networks, optimisers, one step. The harness owns the loop around them.

    `networks()` returns the networks by name; the one called "classifier" is what detectors score with. A recipe
    without it (a GAN, say) serves only as what another recipe `builds_on`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    builds_on: ClassVar[str | None] = None
    """Another recipe, trained before this one on the same data and seed; its networks arrive in `training.given`."""
    trains_classifier: ClassVar[bool] = True
    """False where `networks` has none called "classifier"."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Return freshly initialised networks by name; random numbers come seeded from the harness."""
        raise NotImplementedError

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name; the harness's schedule scales their learning rates."""
        raise NotImplementedError

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """Make one update of every network and return the named losses, detached scalars."""
        raise NotImplementedError

    def samples(self, training: Training) -> Tensor | None:
        """Images in [0, 1] to keep as a picture at the end of training, (N, C, H, W); none by default."""
        return None


class Task(NamedTuple):
    """What a recipe builds its networks for."""

    num_classes: int
    image_shape: tuple[int, int, int]
    build_classifier: Callable[[], nn.Module]
    """Returns a freshly initialised network of the run's backbone."""


class TrainBatch(NamedTuple):
    """One training batch on the device."""

    images: Tensor
    """float32 in [0, 1], (N, C, H, W)."""
    labels: Tensor
    """int64 (N,)."""
    outliers: Tensor | None
    """As many outlier images, for recipes that declare them."""


class Training(NamedTuple):
    """A training in progress, as a recipe's step sees it."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    given: dict[str, nn.Module]
    """The networks of the recipe it builds on, in evaluation mode, frozen."""
    generator: torch.Generator
    """The only source of random numbers for a step's own draws, on the training device."""
    progress: float = 0.0
    """Share of all the training's steps that are done, 0 in the first and 1 - 1/steps in the last.

    For what changes from step to step. A learning rate that does is to be a share of the parameter group's
    "initial_lr", which holds the rate of the suite's schedule (`milestones`, `decay`).
    """
