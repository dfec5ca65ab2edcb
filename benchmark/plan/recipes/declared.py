"""What a recipe says of its classifier before it is trained: its named outputs, and whether it tells classes apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import Checkpoint, Outputs, SetRef
from oodbench.benchmark.plugins.guarded import CallError, asked
from oodbench.benchmark.plugins.networks.outline import outlines
from oodbench.benchmark.plugins.networks.with_outputs import checked_widths
from oodbench.benchmark.plugins.recipe import Recipe, Task, fits_head
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from torch import nn

CLASSIFIER = "classifier"
"""Name of the network that detectors score with."""

NAMED_OUTPUTS = "named_outputs"
"""Kind of the artifact with a set's named outputs."""


def task_of(checkpoint: Checkpoint) -> Task:
    """What a checkpoint's recipe builds networks for: number of classes, image shape and backbone."""
    backbone = create("backbone", parse_spec(checkpoint.backbone))
    build = lambda: backbone.build(checkpoint.num_classes, checkpoint.image_shape)  # noqa: E731
    return Task(checkpoint.num_classes, checkpoint.image_shape, build, checkpoint.repeats_grey)


def declared_outputs(recipe: Recipe, task: Task) -> dict[str, int]:
    """The named outputs of a recipe's classifier with their widths; none where it fits a head to stored features.

    Raises `CallError` if the recipe cannot say them.
    """
    if fits_head(recipe):
        return {}
    declared = asked(recipe, "named_outputs", task)
    try:
        return checked_widths(recipe.name, declared)
    except PluginError as error:
        raise CallError(str(error)) from error


def untrained_classifier(recipe: Recipe, task: Task) -> nn.Module | None:
    """The classifier that a recipe builds, without memory for its numbers, to inspect only.

    None if that is the backbone's own network, or if it cannot be built so: recipes may compute while they build.
    """
    if fits_head(recipe) or type(recipe).networks is Recipe.networks:
        return None
    try:
        with outlines():
            return recipe.networks(task).get(CLASSIFIER)
    except Exception:  # a plug-in that is only asked; an error that matters is raised when it trains
        return None


def of_recipe(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """A checkpoint with what its recipe declares. Raises `CallError` if the recipe cannot say its named outputs."""
    named = declared_outputs(recipe, task_of(checkpoint))
    return replace(checkpoint, named=tuple(named.items()), gives_logits=recipe.gives_logits())


def outputs_of_pass(
    data: SetRef, checkpoint: Checkpoint, title: str, content: Mapping[str, Any], stored: Mapping[str, str]
) -> Outputs:
    """The arrays that a pass of a set through a classifier makes; `stored`: what features are stored as."""
    named = {**content, "named": [list(one) for one in checkpoint.named]}
    return Outputs(
        data,
        Key("logits", ".npy", title, content),
        Key("features", ".npy", title, {**content, **stored}),
        named=Key(NAMED_OUTPUTS, ".npy", title, named) if checkpoint.named else None,
        absent=frozenset() if checkpoint.gives_logits else frozenset({"logits"}),
    )
