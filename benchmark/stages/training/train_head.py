"""Fits a head to the stored features of given weights, and stores the network with it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import HeadJob, Outputs
from oodbench.benchmark.plugins.recipe import Head, HeadData, Recipe
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stats.seeds import derive, restored_rng

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def train_head(context: JobContext, job: HeadJob, tick: Tick) -> None:
    """Fit the head of one job and store the networks: the given weights with the new head.

    Raises `PluginError` if the recipe returns anything but a finite head for the features and classes.
    """
    recipe: Recipe = create("recipe", parse_spec(job.checkpoint.recipe))
    classes = job.checkpoint.num_classes
    generator = torch.Generator().manual_seed(derive(job.seed, "training", "steps", recipe.name))
    features = _features(context, job.train)
    labels = torch.from_numpy(context.labels(job.train.data).astype(np.int64))
    outliers = _features(context, job.outliers) if job.outliers else None
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(derive(job.seed, "training", "layers"))
        head = recipe.fit_head(HeadData(features, labels, outliers, classes, generator))
    weight, bias = checked_head(recipe, head, classes, features.shape[1])
    weights = context.store.load_tensors(job.start.key)
    weights |= {"classifier.head.weight": weight, "classifier.head.bias": bias}
    losses = {name: float(value) for name, value in head.losses.items()}
    context.store.save_tensors(job.checkpoint.key, weights, context.about(job, last_losses=losses))
    tick(job.size)


def checked_head(recipe: Recipe, head: Head, classes: int, width: int) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of a fitted head, float32. Raises `PluginError` if they are not finite or fit not."""
    for what, value, shape in (("weight", head.weight, (classes, width)), ("bias", head.bias, (classes,))):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if found != shape:
            raise PluginError(f"fit_head() of recipe '{recipe.name}' returned a {what} of {found}, expected {shape}.")
    parts = [value.detach().cpu().float().contiguous() for value in (head.weight, head.bias)]
    if not all(torch.isfinite(value).all() for value in parts):
        raise PluginError(f"fit_head() of recipe '{recipe.name}' returned numbers that are not finite.")
    return parts[0], parts[1]


def _features(context: JobContext, outputs: Outputs) -> Tensor:
    """The stored features of a set, float32 (N, D); read from the file as they are needed."""
    stored = context.store.load_array(outputs.features)
    if stored.dtype != np.float32:
        return torch.from_numpy(stored.astype(np.float32))
    with warnings.catch_warnings():  # torch has no read-only tensors, and says so
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(stored)
