"""Contract checks of what recipes declare of their classifier: named outputs, and whether it tells classes apart."""

from __future__ import annotations

import torch

from oodbench.benchmark.plan.recipes.declared import declared_outputs
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.networks.with_outputs import joined_outputs
from oodbench.benchmark.plugins.recipe import Recipe, Task, fits_head
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.toy_world import CLASSES, SIDE, TrainableNetwork, toy_world

ROWS = 16
"""Images that outputs are computed of."""


def check_recipe_outputs(name: str) -> None:
    """The classifier returns the named outputs that are declared, finite, each image's from its own features alone."""
    recipe: Recipe = create("recipe", parse_spec(name))
    task = Task(CLASSES, (3, SIDE, SIDE), TrainableNetwork)
    declared = recipe.named_outputs(task)
    if not declared and recipe.gives_logits():
        return
    if fits_head(recipe):
        raise CheckError("a recipe that defines fit_head() trains no network that could have named outputs")
    if declared and not recipe.trains_classifier:
        raise CheckError("it declares named outputs, and says trains_classifier = False")
    with restored_rng(torch.device("cpu")), torch.no_grad():
        torch.manual_seed(0)
        classifier = Classifier(recipe.networks(task)["classifier"], CLASSES)
        features = classifier.features(torch.from_numpy(toy_world().test.images[:ROWS]).float() / 255)
        if features.ndim != 2 or len(features) != ROWS or not torch.isfinite(features).all():
            raise CheckError(f"features {tuple(features.shape)} of {ROWS} images are not finite and of shape (N, D)")
        if not declared:
            return
        widths = declared_outputs(recipe, task)
        together = joined_outputs(classifier.outputs(features), widths, ROWS)
        alone = torch.cat([joined_outputs(classifier.outputs(row), widths, 1) for row in features.split(1)])
    if not torch.allclose(together, alone, rtol=1e-4, atol=1e-5):
        raise CheckError("outputs(features) depend on the other images of a batch")
