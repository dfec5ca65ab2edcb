"""Trains the networks of one job: sets up data, networks and seeds, and stores checkpoint, losses and samples."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark.data.channels import are_convertible
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.plan.precision import train_in
from oodbench.benchmark.plugins.recipe import Training
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.networks import build_networks, load_networks, load_start
from oodbench.benchmark.stages.training.curves import Curves
from oodbench.benchmark.stages.training.divergence import DivergedError
from oodbench.benchmark.stages.training.epoch_values import Show, show_nothing
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals, Snapshots
from oodbench.benchmark.stages.training.train_loop import TrainLoop
from oodbench.benchmark.stages.training.training_images import training_images
from oodbench.benchmark.stats.seeds import derive, restored_rng
from oodbench.benchmark.store.atomic import write_atomically

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext

logger = logging.getLogger(__name__)


SHOW_EVERY = 0.5
"""Seconds between two looks at the losses of a running epoch, for a display."""


def train(
    context: JobContext,
    job: TrainJob,
    tick: Tick,
    every: SnapshotIntervals | None = None,
    show: Show = show_nothing,
) -> dict[str, object]:
    """Train the networks of one job and store them; returns the training's entries of the side file.

    A training that diverges is started again, from a seed that follows from the job's and the number of the attempt, as
    often as its recipe says.

    Args:
        context: Store, data and device.
        job: What to train.
        tick: Called with the number of images after every step.
        every: How often to take snapshots, by default as `snapshots.py` says.
        show: Called now and then with the losses of the running epoch.

    Raises:
        DivergedError: If the last attempt diverges.
    """
    curves = Curves(context.store, job.checkpoint.key, bool(context.config and context.config.tensorboard))
    with restored_rng(context.device), closing(curves):
        loop = start(context, job)
        snapshots = Snapshots(context.store, job, loop, every)
        snapshots.resume()
        if loop.images:
            tick(loop.images)
        while diverged := _attempt(loop, tick, _Pauses(loop, snapshots, curves, show), curves):
            logger.warning(f"{job.title}: it diverged, because {diverged[-1]}, and starts again from another seed.")
            tick(-loop.images)
            del loop  # before the networks of the next attempt are built
            loop = start(context, job, diverged)
            snapshots.restart(loop)
            curves.restart()
        samples = loop.recipe.samples(loop.training)
    networks = loop.training.networks
    weights = {f"{name}.{k}": v for name, net in networks.items() for k, v in net.state_dict().items()}
    about = {
        "last_losses": loop.losses[-1],
        "parameters": {n: _count(net) for n, net in networks.items()},
        "precision": job.precision,
        "stops": snapshots.stops,
        **({"attempt": 1 + len(loop.diverged), "diverged": list(loop.diverged)} if loop.diverged else {}),
    }
    if samples is not None:
        _save_grid(context.store.extra(job.checkpoint.key, ".samples.png"), samples)
    context.store.save_tensors(job.checkpoint.key, weights, context.about(job, earlier=snapshots.seconds, **about))
    snapshots.drop()
    return about


def _attempt(loop: TrainLoop, tick: Tick, pause: Callable[[bool], None], curves: Curves) -> tuple[str, ...]:
    """Train to the end; or why this attempt and those before it diverged, if the recipe allows for another one."""
    try:
        loop.run(tick, pause)
    except DivergedError as error:
        if len(error.reasons) > loop.recipe.retries:
            raise
        return error.reasons
    finally:
        curves.finish(loop.losses)
    return ()


class _Pauses:
    """What is done between two steps: a snapshot, and what a display and files show of the losses."""

    def __init__(self, loop: TrainLoop, snapshots: Snapshots, curves: Curves, show: Show) -> None:
        self._loop, self._snapshots, self._curves, self._show = loop, snapshots, curves, show
        self._shown = time.monotonic()

    def __call__(self, epoch_ended: bool) -> None:
        self._snapshots.pause(epoch_ended)
        if epoch_ended:
            self._curves.add(self._loop.losses)
        if time.monotonic() - self._shown >= SHOW_EVERY:
            values = self._loop.values
            if values is not None:
                self._show(values)
            self._shown = time.monotonic()


def seed_of_attempt(job: TrainJob, attempt: int) -> int:
    """The seed of a training's first attempt, which is the job's, or of a later one (from 2)."""
    return job.seed if attempt == 1 else derive(job.seed, "training", "attempt", attempt)


def start(context: JobContext, job: TrainJob, diverged: Sequence[str] = ()) -> TrainLoop:
    """The training loop of a job before its first step: data on the device, networks initialised, generators seeded.

    `diverged`: why earlier attempts ended; what is random follows from their number.
    """
    job = replace(job, seed=seed_of_attempt(job, 1 + len(diverged)))
    channels = job.checkpoint.image_shape[0]
    in_memory = context.library.files.view.pixel_cache
    data = training_images(context.images(job.train), channels, context.device, in_memory)
    labels = torch.from_numpy(context.labels(job.train).astype(np.int64)).to(context.device)
    outliers = None
    if job.outliers:
        stored, own = (context.images(ref).image_shape for ref in (job.outliers, job.train))
        if stored[1:] != own[1:] or not are_convertible(stored[0], channels):
            raise DataError(
                f"The outliers {job.outliers} are {stored} images, '{job.train.set}' {own}; they must have the same "
                "channels and size, or the same size in grey and in colour."
            )
        outliers = training_images(context.images(job.outliers), channels, context.device, in_memory)
    # One seed per component, so that every recipe starts from the same weights and sees batches in the same order.
    torch.manual_seed(derive(job.seed, "initial weights"))
    recipe, networks = build_networks(job.checkpoint, context.device)
    if job.start:
        load_start(context.store, networks["classifier"], job.start, job.keeps_head)
    torch.manual_seed(derive(job.seed, "training", "layers"))
    # With the recipe's name, so that a recipe that builds on another one draws other random numbers.
    steps = derive(job.seed, "training", "steps", recipe.name)
    generator = torch.Generator(context.device).manual_seed(steps)
    given = load_networks(context.store, context.device, job.given) if job.given else {}
    optimizers = recipe.optimizers(networks)
    train_in(job.precision, [*networks.values(), *given.values()], context.device)
    loop = TrainLoop(job, recipe, Training(networks, optimizers, given, generator), data, labels, outliers)
    loop.diverged = tuple(diverged)
    return loop


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _save_grid(path: Path, samples: Tensor) -> None:
    from torchvision.utils import save_image

    buffer = io.BytesIO()
    save_image(samples.cpu(), buffer, format="png", nrow=8)
    write_atomically(path, buffer.getvalue())
