"""Crops and flips against a loop over images, schedules against formulas, updates against a plain SGD."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors._augment import shifted
from oodbench.detectors.one_cycle import one_cycle
from oodbench.detectors.standard_training import cosine

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 12, 10)


def pictures(count: int = 9) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def by_loop(images: Tensor, by: int, flip: bool, seed: int, mode: str) -> Tensor:
    """The same as `shifted`, image by image, from the same random numbers."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randint(0, 2 * by + 1, (len(images), 1), generator=random) for _ in range(2))
    coins = torch.rand((len(images), 1), generator=random) if flip else torch.ones(len(images), 1)
    out = []
    for image, row, column, coin in zip(images, rows.flatten(), columns.flatten(), coins.flatten(), strict=True):
        canvas = torch.zeros(SHAPE[0], SHAPE[1] + 2 * by, SHAPE[2] + 2 * by)
        canvas[:, by : by + SHAPE[1], by : by + SHAPE[2]] = image
        if mode == "reflect" and by:
            canvas = F.pad(image[None], (by, by, by, by), mode="reflect")[0]
        window = canvas[:, row : row + SHAPE[1], column : column + SHAPE[2]]
        out.append(window.flip(2) if coin < 0.5 else window)
    return torch.stack(out)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("by, flip", [(0, True), (2, False), (4, True)])
def test_the_batch_is_changed_as_one_image_after_the_other(by: int, flip: bool, mode: str) -> None:
    images = pictures().contiguous(memory_format=torch.channels_last)
    changed = shifted(images, by, flip, torch.Generator().manual_seed(3), mode)
    assert torch.equal(changed, by_loop(images, by, flip, 3, mode))
    assert torch.equal(images, pictures())
    assert changed.is_contiguous(memory_format=torch.channels_last)


def test_every_shift_and_either_side_come_up() -> None:
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 2, 2] = 1
    changed = shifted(image.expand(900, -1, -1, -1), 1, True, torch.Generator().manual_seed(0))
    places = {tuple(one.nonzero()[0].tolist()) for one in changed[:, 0]}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3, 5, 4)}
    assert 400 < (changed[:, 0, :, :3].sum() + changed[:, 0, :, 3].sum() / 2).item() < 600


def test_draws_come_from_the_given_generator_alone() -> None:
    before, random = torch.get_rng_state(), torch.Generator().manual_seed(3)
    first, second = shifted(pictures(), 2, True, random), shifted(pictures(), 2, True, random)
    assert not torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_cosine_is_the_formula() -> None:
    rates = [0.1 * cosine(step / 8, 1e-5) for step in range(9)]
    assert rates == pytest.approx([1e-6 + 0.5 * (0.1 - 1e-6) * (1 + math.cos(math.pi * s / 8)) for s in range(9)])
    assert (rates[0], rates[4]) == pytest.approx((0.1, 0.0500005))


def test_one_cycle_is_two_straight_lines() -> None:
    given = [one_cycle(p, 0.25, 0.2, 0.01) for p in (0, 0.125, 0.25, 0.625, 1)]
    assert given == pytest.approx([0.2, 0.6, 1.0, 0.505, 0.01])
    assert one_cycle(0, 0.0, 0.2, 0.5) == 1.0


def pooling_classifier() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))


def begun(name: str, seed: int = 0, **settings: Any) -> tuple[Recipe, Training]:
    torch.manual_seed(seed)
    recipe: Recipe = registry.get("recipe", name)(**settings)
    networks = recipe.networks(Task(4, SHAPE, pooling_classifier))
    return recipe, Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5))


def small_batch() -> TrainBatch:
    return TrainBatch(pictures(8), torch.arange(8) % 4, None)


@pytest.mark.parametrize("name", ["standard", "one_cycle"])
def test_updates_are_sgd_written_out(name: str) -> None:
    recipe, training = begun(name)
    layer = training.networks["classifier"][2]  # type: ignore[index]
    weights = [layer.weight.detach().clone(), layer.bias.detach().clone()]
    moments = [torch.zeros_like(w) for w in weights]
    random, smoothing = torch.Generator().manual_seed(5), recipe.settings.get("label_smoothing", 0.0)
    decays = (5e-4, 5e-4 if name == "standard" else 0.0)
    for step in range(4):
        progress = step / 4
        recipe.step(training._replace(progress=progress), small_batch())
        by, mode = (4, "constant") if name == "standard" else (2, "reflect")
        images = shifted(small_batch().images, by, True, random, mode)
        own = [w.requires_grad_() for w in weights]
        logits = F.adaptive_avg_pool2d(images, 2).flatten(1) @ own[0].T + own[1]
        targets = F.one_hot(small_batch().labels, 4) * (1 - smoothing) + smoothing / 4
        loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        share = cosine(progress, 1e-5) if name == "standard" else one_cycle(progress, 0.25, 0.2, 0.01)
        for k, gradient in enumerate(torch.autograd.grad(loss, own)):
            weight = weights[k].detach()
            total = gradient + decays[k] * weight
            moments[k] = 0.9 * moments[k] + total
            weights[k] = weight - recipe.settings["learning_rate"] * share * (total + 0.9 * moments[k])
    torch.testing.assert_close(layer.weight.detach(), weights[0])
    torch.testing.assert_close(layer.bias.detach(), weights[1])


@pytest.mark.parametrize("name", ["standard", "one_cycle"])
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    results = []
    for seed in (0, 0, 1):
        recipe, training = begun(name, seed)
        for _ in range(3):
            recipe.step(training, small_batch())
        results.append(training.networks["classifier"][2].weight.detach().clone())  # type: ignore[index]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("progress, sides", [(0.0, (4, 4)), (0.3, (8, 8)), (0.59, (12, 8)), (0.6, (12, 10))])
def test_images_are_small_at_first_and_grow(progress: float, sides: tuple[int, int]) -> None:
    recipe, training = begun("one_cycle", low_side=0.4)
    inputs: list[Tensor] = []
    training.networks["classifier"].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    recipe.step(training._replace(progress=progress), small_batch())
    assert inputs[0].shape == (8, 3, *sides)
    assert inputs[0].is_contiguous(memory_format=torch.channels_last)


def test_a_network_of_one_size_is_told() -> None:
    recipe = create("recipe", parse_spec("one_cycle[low_side=0.5]"))
    build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(360, 4))  # noqa: E731
    with pytest.raises(DataError, match=r"trains on images of 8 x 4 pixels first, which this backbone does not take"):
        recipe.networks(Task(4, SHAPE, build))
    assert create("recipe", parse_spec("one_cycle")).networks(Task(4, SHAPE, build))["classifier"].training


def test_memory_that_runs_out_says_nothing_about_the_network() -> None:
    class Large(nn.Module):
        """A network for which there is no memory."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    recipe = create("recipe", parse_spec("one_cycle[low_side=0.5]"))
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"20\.00 GiB"):
        recipe.networks(Task(4, SHAPE, Large))


@pytest.mark.parametrize(
    "text", ["standard[momentum=1]", "standard[padding=-1]", "one_cycle[low_side=0]", "one_cycle[warm_up=1]"]
)
def test_bad_settings_are_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"must be in|0 or more"):
        create("recipe", parse_spec(text))
