"""Contract checks of recipes that fit a head to features, on the toy world's features."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark.plugins.recipe import HeadData, Recipe
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.training.train_head import checked_head
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.toy_world import CLASSES, toy_world

LEARNT = 1.5 / CLASSES
"""Accuracy on the training images that a head must exceed; a constant guess has 1 / CLASSES."""


def _data(recipe: Recipe, seed: int = 0) -> HeadData:
    """The toy world's features as such a recipe gets them."""
    world = toy_world()
    labels = torch.from_numpy(world.train.labels).long()
    outliers = _features(world.ood.images) if "outliers" in recipe.needs else None
    return HeadData(_features(world.train.images), labels, outliers, CLASSES, torch.Generator().manual_seed(seed))


@torch.no_grad()
def _features(images: object) -> Tensor:
    return toy_world().classifier.features(torch.as_tensor(images).float() / 255)


def _fit(name: str, state: int = 0, seed: int = 0) -> tuple[HeadData, Tensor, Tensor]:
    """What a recipe gets, and the head that it returns; `state`: of random numbers that are not the generator's."""
    recipe: Recipe = create("recipe", parse_spec(name))
    data = _data(recipe, seed)
    with restored_rng(torch.device("cpu")):
        torch.manual_seed(state)
        return (data, *checked_head(recipe, recipe.fit_head(data), CLASSES, data.features.shape[1]))


def check_head_learns(name: str) -> None:
    """The head is finite, has a row for each class, classifies the training images, and leaves the features alone."""
    data, weight, bias = _fit(name)
    if not torch.equal(data.features, _data(create("recipe", parse_spec(name))).features):
        raise CheckError("fit_head() changes the features, which other recipes and detectors read")
    right = ((data.features @ weight.T + bias).argmax(dim=1) == data.labels).double().mean()
    if right <= LEARNT:
        raise CheckError(f"the head that fit_head() returns classifies {right:.0%} of its training images correctly")


def check_head_repeats(name: str) -> None:
    """Two fits with the same seed give the same head: random numbers come from `data.generator` alone."""
    first, again = _fit(name)[1:], _fit(name, state=1)[1:]
    if not all(map(torch.equal, first, again)):
        raise CheckError("fit_head() returns another head when it is called again with the same data and seed")
    uses_seed = create("recipe", parse_spec(name)).uses_seed
    if not uses_seed and not all(map(torch.equal, first, _fit(name, seed=1)[1:])):
        raise CheckError("fit_head() returns another head with another seed, and the recipe says uses_seed = False")
