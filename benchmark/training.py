"""The training loop, one for all recipes: data on the device, order, schedule, losses, and the final checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark.contract import ImageSet, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.errors import DataError, OodbenchError
from oodbench.benchmark.jobs import Checkpoint, TrainJob
from oodbench.benchmark.records import write_atomically
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.specs import create, parse_spec

if TYPE_CHECKING:
    from oodbench.benchmark.work import Bench

TRAINING_VERSION = "1"
"""Part of every checkpoint's key; raise it when a change of this loop changes weights."""

PRECISION = "float32"
Tick = Callable[[int], None]
"""Told how many images have passed since the last call."""


def task_of(checkpoint: Checkpoint) -> Task:
    """What the recipe of a checkpoint builds its networks for."""
    backbone = create("backbone", parse_spec(checkpoint.backbone))
    build = lambda: backbone.build(checkpoint.num_classes, checkpoint.image_shape)  # noqa: E731
    return Task(checkpoint.num_classes, checkpoint.image_shape, build)


def build_networks(checkpoint: Checkpoint, device: torch.device) -> tuple[Recipe, dict[str, nn.Module]]:
    """The recipe of a checkpoint and its networks, freshly initialised, on the device."""
    recipe: Recipe = create("recipe", parse_spec(checkpoint.recipe))
    networks = recipe.networks(task_of(checkpoint))
    return recipe, {
        name: network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in networks.items()
    }


def load_networks(bench: Bench, checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The trained networks of a checkpoint, in evaluation mode, frozen."""
    weights = bench.store.load_tensors(checkpoint.key)
    with torch.random.fork_rng():
        _, networks = build_networks(checkpoint, bench.device)
    for name, network in networks.items():
        prefix = f"{name}."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        network.eval().requires_grad_(False)
    return networks


def train(bench: Bench, job: TrainJob, tick: Tick) -> dict[str, object]:
    """Train the networks of one job and store them; returns what the side file is to say."""
    data = _on_device(bench.images(job.train), bench.device)
    labels = torch.from_numpy(bench.labels(job.train).astype(np.int64)).to(bench.device)
    outliers = _on_device(bench.images(job.outliers), bench.device) if job.outliers else None
    if outliers is not None and outliers.shape[1:] != data.shape[1:]:
        raise DataError(
            f"The outliers {job.outliers} are {tuple(outliers.shape[1:])} images, "
            f"'{job.train.set}' {tuple(data.shape[1:])}; they must be alike in channels and size."
        )
    with torch.random.fork_rng(devices=[bench.device] if bench.device.type == "cuda" else []):
        # One stream a component: initial weights are the same for every recipe, and so is the order of the batches.
        torch.manual_seed(derive(job.seed, "initial weights"))
        recipe, networks = build_networks(job.checkpoint, bench.device)
        torch.manual_seed(derive(job.seed, "training", "layers"))
        generator = torch.Generator(bench.device).manual_seed(derive(job.seed, "training", "steps"))
        given = load_networks(bench, job.given) if job.given else {}
        training = Training(networks, recipe.optimizers(networks), given, generator)
        losses = _epochs(job, recipe, training, data, labels, outliers, tick)
        samples = recipe.samples(training)
    weights = {f"{name}.{k}": v for name, net in networks.items() for k, v in net.state_dict().items()}
    about = {"last_losses": losses[-1], "parameters": {n: _count(net) for n, net in networks.items()}}
    _leave_by_products(bench, job, losses, samples)
    bench.store.save_tensors(job.checkpoint.key, weights, bench.about(job, **about))
    return about


def _epochs(
    job: TrainJob,
    recipe: Recipe,
    training: Training,
    data: Tensor,
    labels: Tensor,
    outliers: Tensor | None,
    tick: Tick,
) -> list[dict[str, float]]:
    order = torch.Generator().manual_seed(derive(job.seed, "training", "order"))
    outlier_order = torch.Generator().manual_seed(derive(job.seed, "training", "outlier order"))
    draws = _endless(len(outliers), outlier_order) if outliers is not None else None
    rates = {n: [group["lr"] for group in o.param_groups] for n, o in training.optimizers.items()}
    log = []
    for epoch in range(job.schedule.epochs):
        _set_rates(training, rates, _factor(job, epoch))
        for network in training.networks.values():
            network.train()
        sums: dict[str, Tensor] = {}
        for rows in torch.randperm(len(data), generator=order).split(job.schedule.batch_size):
            drawn = None if outliers is None or draws is None else _floats(outliers, next_rows(draws, len(rows)))
            batch = TrainBatch(_floats(data, rows), labels[rows.to(labels.device)], drawn)
            for name, loss in recipe.step(training, batch).items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss.detach() * len(rows)
            tick(len(rows))
        log.append({name: float(total) / len(data) for name, total in sums.items()})
        _refuse_divergence(job, epoch, log[-1])
    return log


def _factor(job: TrainJob, epoch: int) -> float:
    # Rounded, because 0.28 * 25 is a little more than 7.
    passed = sum(epoch >= round(milestone * job.schedule.epochs, 6) for milestone in job.schedule.milestones)
    return float(job.schedule.decay**passed)


def _set_rates(training: Training, rates: dict[str, list[float]], factor: float) -> None:
    for name, optimizer in training.optimizers.items():
        for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
            group["lr"] = rate * factor


def _endless(count: int, order: torch.Generator) -> Iterator[int]:
    """Indices of `count` images, shuffled anew each time all have been used."""
    while True:
        yield from torch.randperm(count, generator=order).tolist()


def next_rows(draws: Iterator[int], count: int) -> Tensor:
    """The next `count` indices of an endless draw."""
    return torch.tensor([next(draws) for _ in range(count)])


def _floats(images: Tensor, rows: Tensor) -> Tensor:
    chosen = images[rows.to(images.device)].float().div_(255)
    return chosen.contiguous(memory_format=torch.channels_last)


def _on_device(images: ImageSet, device: torch.device) -> Tensor:
    # A data set may hand over a read-only or mirrored array; torch takes neither.
    return torch.from_numpy(np.require(images.images, requirements=["C", "W"])).to(device)


def _refuse_divergence(job: TrainJob, epoch: int, losses: dict[str, float]) -> None:
    bad = [name for name, value in losses.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise OodbenchError(
            f"Training diverged: the loss '{bad[0]}' of recipe '{job.checkpoint.recipe}' is {losses[bad[0]]} in epoch "
            f"{epoch + 1}. Lower its learning rate or its beta."
        )


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _leave_by_products(bench: Bench, job: TrainJob, losses: list[dict[str, float]], samples: Tensor | None) -> None:
    """Losses an epoch as CSV (and for TensorBoard, if it is installed), and a grid of samples as PNG."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["epoch", *losses[0]])
    writer.writerows([epoch + 1, *row.values()] for epoch, row in enumerate(losses))
    write_atomically(bench.store.extra(job.checkpoint.key, ".losses.csv"), out.getvalue())
    _tensorboard(bench.store.extra(job.checkpoint.key, ".tensorboard"), losses)
    if samples is not None:
        _save_grid(bench.store.extra(job.checkpoint.key, ".samples.png"), samples)


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
