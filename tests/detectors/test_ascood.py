"""ASCOOD: which pixels of an image become an outlier, and how. Its loss is in `test_loss_recipes`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oodbench.benchmark import DataError, Task, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors.ascood import along_gradient, attributions, shuffled, standardised
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet, batch, check_batch_statistics

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

SHAPE = (3, 32, 32)


Net = partial(SmallNet, normalised=True, drop=0.5)
"""Whose modes matter."""


def make(**settings: Any) -> Any:
    return registry.get("recipe", "ascood")(**settings)


def start(recipe: Any) -> Training:
    torch.manual_seed(0)
    networks = recipe.networks(Task(CLASSES, SHAPE, Net))
    return Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5))


def test_features_have_mean_zero_and_standard_deviation_sigma() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=(7, 40))
    found = standardised(torch.from_numpy(values), 0.5).numpy()
    deviation = values.std(axis=1, ddof=1, keepdims=True)
    assert found == pytest.approx(0.5 * (values - values.mean(axis=1, keepdims=True)) / (deviation + 1e-6), rel=1e-12)


def test_features_without_spread_are_zero() -> None:
    assert standardised(torch.full((2, 5), 3.0), 0.5).abs().max() == 0


def test_head_of_features_gives_the_logits_in_both_modes() -> None:
    network: Any = start(make()).networks["classifier"]
    for mode in (True, False):
        network.train(mode)
        images = batch().images
        torch.manual_seed(3)  # the same dropout in both calls
        features = network.features(images)
        torch.manual_seed(3)
        assert torch.allclose(network(images), features @ network.head.weight.T + network.head.bias, atol=1e-12)
        assert torch.allclose(features.mean(dim=1), torch.zeros(BATCH), atol=1e-12)
        assert torch.allclose(features.std(dim=1), torch.full((BATCH,), 0.5), atol=1e-4)


def test_attributions_are_derivatives_of_the_own_logit_in_evaluation_mode() -> None:
    network = Net()
    network.body[1].eval()  # frozen by its user
    modes = [module.training for module in network.modules()]
    given = batch()
    found = attributions(network, given.images, given.labels)
    assert [module.training for module in network.modules()] == modes
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert not given.images.requires_grad
    network.eval()
    for place in [(0, 0, 3, 4), (2, 1, 17, 30), (5, 2, 0, 0)]:
        moved = [given.images.clone(), given.images.clone()]
        for sign, images in zip((1, -1), moved, strict=True):
            images[place] += sign * 1e-5
        with torch.no_grad():
            up, down = (network(images)[place[0], given.labels[place[0]]] for images in moved)
        assert float(found[place]) == pytest.approx(float(up - down) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_the_values_with_the_largest_gradient_move_along_it(share: float) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(4, *SHAPE, generator=random)
    gradient = torch.randn(4, *SHAPE, generator=random)
    found = along_gradient(images, gradient, share, 0.3)
    for image, g, made in zip(images.flatten(1), gradient.flatten(1), found.flatten(1), strict=True):
        order = np.argsort(-g.abs().numpy())
        count = int(share * 3072)
        moved = image + 0.3 * g
        assert torch.allclose(made[order[:count]], moved[order[:count]], rtol=0, atol=1e-12)
        assert torch.equal(made[order[count:]], image[order[count:]])


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_the_pixels_with_the_largest_sum_of_exponentials_change_places(share: float) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(4, *SHAPE, generator=random)
    gradient = 3 * torch.randn(4, *SHAPE, generator=random)
    found = shuffled(images, gradient, share, torch.Generator().manual_seed(5))
    for image, g, made in zip(images.flatten(2), gradient.flatten(2), found.flatten(2), strict=True):
        order = np.argsort(-np.exp(g.numpy()).sum(axis=0))
        chosen, rest = order[: max(2, int(share * 1024))], order[max(2, int(share * 1024)) :]
        assert torch.equal(made[:, rest], image[:, rest])
        before, after = ({tuple(pixel) for pixel in one[:, chosen].T.tolist()} for one in (image, made))
        assert before == after  # whole pixels, each of them once
        if share > 0.01:
            assert (made[:, chosen] != image[:, chosen]).any(dim=0).double().mean() > 0.8


def test_shuffles_are_drawn_anew_and_from_the_training_s_generator() -> None:
    recipe = make(synthesis="shuffle", share=1.0)
    training = start(recipe)
    given, state = batch(), torch.get_rng_state()
    one, two = (recipe.synthesised(training, given.images, given.labels) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one, two)


def test_alpha_falls_with_progress() -> None:
    recipe = make(alpha=1.0, alpha_end=0.2, share=1.0)
    training, given = start(recipe), batch()
    gradient = attributions(training.networks["classifier"], given.images, given.labels)
    for progress, alpha in ((0.0, 1.0), (0.25, 0.8), (1.0, 0.2)):
        made = recipe.synthesised(training._replace(progress=progress), given.images, given.labels)
        assert torch.allclose(made, given.images + alpha * gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("synthesis", ["gradient", "shuffle"])
def test_batch_norm_sees_both_together(synthesis: str) -> None:
    recipe = make(synthesis=synthesis)
    training = start(recipe)
    check_batch_statistics(recipe, training, batch())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="synthesis must be gradient or shuffle, got 'noise'"):
        make(synthesis="noise")
    for value in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got"):
            make(share=value)
    for value in (-1e-9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="weight must be 0 or more, and finite, got"):
            make(weight=value)
        for name in ("alpha", "alpha_end", "sigma"):
            with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
                make(**{name: value})


def test_a_backbone_without_a_linear_head_is_refused() -> None:
    flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))  # noqa: E731
    with pytest.raises(DataError, match="'ascood' standardises the input of a linear head, and this backbone has none"):
        make().networks(Task(CLASSES, SHAPE, flat))
