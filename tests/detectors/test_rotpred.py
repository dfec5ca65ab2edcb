"""RotPred: its loss and its score, from their definitions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Task
from oodbench.benchmark.plugins.inputs import NAMED
from oodbench.benchmark.plugins.registry import registry
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet16
from tests.detectors.test_loss_recipes import batch, cross_entropy, one_hot, start
from tests.support import softmax

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


def make(**settings: Any) -> Any:
    return registry.get("recipe", "rotpred")(**settings)


def turned(image: np.ndarray, quarters: int) -> np.ndarray:
    """(C, H, H), turned by quarters: the last column becomes the first row."""
    for _ in range(quarters):
        image = image.transpose(0, 2, 1)[:, ::-1]
    return image


def all_turns(images: Tensor) -> list[Tensor]:
    turns = [np.stack([turned(image, quarters) for image in images.numpy()]) for quarters in range(4)]
    return [torch.from_numpy(one.copy()) for one in turns]


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_step_descends_on_both_cross_entropies(weight: float) -> None:
    recipe = make(weight=weight)
    training = start(recipe)
    network: Any = training.networks["classifier"]
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(3):
        plain, given = copy.deepcopy(network), batch(step)
        loss = cross_entropy(plain(given.images), one_hot(given.labels))
        for quarters, images in enumerate(all_turns(given.images)):
            logits = plain.branches["rotation"](plain.features(images))
            loss = loss + weight / 4 * cross_entropy(logits, torch.eye(4)[[quarters] * BATCH])
        gradients = torch.autograd.grad(loss, tuple(plain.parameters()))
        logged = recipe.step(training, given)
        correct = plain(given.images).argmax(dim=1) == given.labels  # of images that are not rotated
        assert float(logged["accuracy"]) == float(correct.double().mean())
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.1 * gradient, rtol=0, atol=1e-12)
            assert gradient.abs().max() > 1e-6


def test_batch_norm_sees_all_four_turns_together() -> None:
    recipe = make()
    training = start(recipe, lambda: SmallNet16(normalised=True))
    plain: Any = copy.deepcopy(training.networks["classifier"])
    recipe.step(training, batch())
    plain.features(torch.cat(all_turns(batch().images)))
    for key, buffer in plain.named_buffers():
        assert torch.allclose(training.networks["classifier"].get_buffer(key), buffer, rtol=0, atol=1e-12), key


def test_the_score_is_the_authors() -> None:
    """Higher for images whose rotations are not recognised, and whose class probabilities are uniform."""
    recipe = make()
    training = start(recipe)
    for step in range(5):
        recipe.step(training, batch(step))
    network: Any = training.networks["classifier"].eval()
    images = batch(9).images
    features = network.features(images)
    logits, rotation = network.head(features).detach(), network.outputs(features)["rotation"].detach()
    parts = {
        "images": lambda rows: images[rows],
        "logits": lambda rows: logits[rows],
        f"{NAMED}rotation": lambda rows: rotation[rows],
    }
    found = registry.get("detector", "rotpred")().score(Batch(BATCH, parts, "rotpred", Classifier(network, CLASSES)))
    expected = np.zeros(BATCH)
    for quarters, turns in enumerate(all_turns(images)):
        q = softmax(network.outputs(network.features(turns))["rotation"].detach().numpy())
        expected -= np.log(q[:, quarters]) / 4
    p = softmax(logits.numpy())
    expected -= (np.log(1 / CLASSES) - np.log(p)).mean(axis=1)
    assert found.numpy() == pytest.approx(expected, abs=1e-10)
    assert expected.std() > 1e-3


def test_images_must_be_square_and_the_head_linear() -> None:
    with pytest.raises(DataError, match="needs square images, because it turns them; these are 16 x 12"):
        make().networks(Task(CLASSES, (3, 16, 12), SmallNet16))
    with pytest.raises(DataError, match="puts a second head beside a linear one, and this backbone has none"):
        start(make(), lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_the_weight_is_checked(value: float) -> None:
    with pytest.raises(ValueError, match="weight must be 0 or more, and finite, got"):
        make(weight=value)
