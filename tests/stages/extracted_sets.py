"""Shared by tests of extraction and scoring: noise images, a small network in the store, and its stored outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from oodbench.benchmark import ImageSet
from oodbench.benchmark.backbones.small_cnn import SmallCNNNetwork
from oodbench.benchmark.plan.jobs import Checkpoint, ExtractJob, Outputs, SetRef
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.extract import extract
from oodbench.benchmark.store.store import Key
from tests.support import noise_images

CLASSES, SHAPE = 4, (3, 8, 8)
BACKBONE = "small_cnn[hidden=16,width=4]"
Register = Callable[[str, type[Plugin]], None]
ContextWith = Callable[[Mapping[str, ImageSet]], JobContext]


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Random images of the shape that the network takes."""
    return noise_images(count, seed, SHAPE)


def labelled(images: np.ndarray) -> ImageSet:
    return ImageSet(images, np.arange(len(images)) % CLASSES, tuple("abcd"))


def no_tick(images: int) -> None:
    """A progress callback that does nothing."""


def checkpoint(backbone: str = BACKBONE) -> Checkpoint:
    return Checkpoint(
        Key("checkpoint", ".safetensors", "c", {"b": backbone}), "cross_entropy", backbone, CLASSES, SHAPE
    )


def outputs(name: str, count: int) -> Outputs:
    keys = (Key(what, ".npy", name, {"set": name}) for what in ("logits", "features"))
    return Outputs(SetRef(name, "test", count), *keys)


def store_network(context: JobContext, network: nn.Module, trained: Checkpoint) -> None:
    """Store a network as a trained checkpoint."""
    weights = {f"classifier.{name}": weight for name, weight in network.state_dict().items()}
    context.store.save_tensors(trained.key, weights, {})


def stored_network(context: JobContext) -> SmallCNNNetwork:
    torch.manual_seed(0)
    network = SmallCNNNetwork(CLASSES, SHAPE, width=4, hidden=16)
    store_network(context, network, checkpoint())
    return network


def extracted(context: JobContext, name: str, tick: Callable[[int], None] = no_tick) -> tuple[np.ndarray, np.ndarray]:
    """Extract a set: its logits and features, as stored."""
    keys = outputs(name, len(context.images(SetRef(name, "test", 0))))
    job = ExtractJob(title="", makes=(keys.logits, keys.features), checkpoint=checkpoint(), outputs=keys)
    extract(context, job, tick)
    return np.array(context.store.load_array(keys.logits)), np.array(context.store.load_array(keys.features))
