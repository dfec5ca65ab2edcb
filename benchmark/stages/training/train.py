"""Trains the networks of one job: sets up data, networks and seeds, and stores checkpoint, losses and samples."""

from __future__ import annotations

import csv
import io
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
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals, Snapshots
from oodbench.benchmark.stages.training.train_loop import TrainLoop
from oodbench.benchmark.stages.training.training_images import training_images
from oodbench.benchmark.stats.seeds import derive, restored_rng
from oodbench.benchmark.store.atomic import write_atomically

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def train(context: JobContext, job: TrainJob, tick: Tick, every: SnapshotIntervals | None = None) -> dict[str, object]:
    """Train the networks of one job and store them; returns the training's entries of the side file.

    `every`: how often to take snapshots, by default as `snapshots.py` says. Raises `OodbenchError` if training
    diverges.
    """
    with restored_rng(context.device):
        loop = start(context, job)
        snapshots = Snapshots(context.store, job, loop, every)
        snapshots.resume()
        if loop.images:
            tick(loop.images)
        loop.run(tick, snapshots.pause)
        samples = loop.recipe.samples(loop.training)
    networks = loop.training.networks
    weights = {f"{name}.{k}": v for name, net in networks.items() for k, v in net.state_dict().items()}
    about = {
        "last_losses": loop.losses[-1],
        "parameters": {n: _count(net) for n, net in networks.items()},
        "precision": job.precision,
        "stops": snapshots.stops,
    }
    _write_by_products(context, job, loop.losses, samples)
    context.store.save_tensors(job.checkpoint.key, weights, context.about(job, earlier=snapshots.seconds, **about))
    snapshots.drop()
    return about


def start(context: JobContext, job: TrainJob) -> TrainLoop:
    """The training loop of a job before its first step: data on the device, networks initialised, generators seeded."""
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
    return TrainLoop(job, recipe, Training(networks, optimizers, given, generator), data, labels, outliers)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _write_by_products(
    context: JobContext, job: TrainJob, losses: list[dict[str, float]], samples: Tensor | None
) -> None:
    """Write the losses per epoch as CSV (and for TensorBoard, if installed) and a grid of samples as PNG."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["epoch", *losses[0]])
    writer.writerows([epoch + 1, *row.values()] for epoch, row in enumerate(losses))
    write_atomically(context.store.extra(job.checkpoint.key, ".losses.csv"), out.getvalue())
    _tensorboard(context.store.extra(job.checkpoint.key, ".tensorboard"), losses)
    if samples is not None:
        _save_grid(context.store.extra(job.checkpoint.key, ".samples.png"), samples)


def _save_grid(path: Path, samples: Tensor) -> None:
    from torchvision.utils import save_image

    buffer = io.BytesIO()
    save_image(samples.cpu(), buffer, format="png", nrow=8)
    write_atomically(path, buffer.getvalue())


def _tensorboard(folder: Path, losses: list[dict[str, float]]) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(str(folder)) as writer:
        for epoch, row in enumerate(losses):
            for name, value in row.items():
                writer.add_scalar(name, value, epoch + 1)
