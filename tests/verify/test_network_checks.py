"""The checks of recipes and backbones find those that break the contract, and correct ones pass."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Backbone, Form, Head, HeadData, Recipe, Task, TrainBatch, Training, run_checks
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.other_checks import check_backbone, check_form, check_recipe_takes_grey
from tests.support import short_id

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]


# Recipes


class Plain(Recipe):
    """Cross-entropy, a correct recipe; subclasses are wrong in one respect."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {name: torch.optim.SGD(network.parameters(), lr=0.1) for name, network in networks.items()}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        loss = F.cross_entropy(training.networks["classifier"](batch.images), batch.labels)
        for optimizer in training.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        training.optimizers["classifier"].step()
        return {"loss": loss.detach()}


class LearnsNothing(Plain):
    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {name: torch.optim.SGD(network.parameters(), lr=0.0) for name, network in networks.items()}


class ForgetsANetwork(Plain):
    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {**super().networks(task), "critic": nn.Linear(2, 2)}


class Diverges(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {"loss": super().step(training, batch)["loss"] * torch.nan}


class DivergesAtFirst(Plain):
    steps: ClassVar[list[int]] = []

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        self.steps.append(1)
        return {"loss": super().step(training, batch)["loss"] / (0 if len(self.steps) % 3 == 1 else 1)}


class ReturnsAFloat(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Any]:
        return {"loss": float(super().step(training, batch)["loss"])}


class ReturnsAttached(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        super().step(training, batch)
        return {"loss": F.cross_entropy(training.networks["classifier"](batch.images), batch.labels)}


class ReturnsAVector(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {"loss": super().step(training, batch)["loss"].repeat(2)}


class ReturnsNothing(Plain):
    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        super().step(training, batch)
        return {}


class RenamesItsLosses(Plain):
    names: ClassVar[Any] = itertools.count()

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        return {f"loss{next(self.names)}": super().step(training, batch)["loss"]}


class SaysItTrainsNoClassifier(Plain):
    trains_classifier = False


class TrainsNoClassifier(Plain):
    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"other": task.build_classifier()}


class DrawsUnseeded(Plain):
    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def networks(self, task: Task) -> dict[str, nn.Module]:
        networks = super().networks(task)
        with torch.no_grad():
            next(networks["classifier"].parameters()).mul_(self.random.rand())
        return networks


WRONG_RECIPES: list[tuple[type[Recipe], str, str]] = [
    (LearnsNothing, "check_recipe_learns", "network 'classifier' does not change in three steps"),
    (ForgetsANetwork, "check_recipe_learns", "network 'critic' does not change in three steps"),
    (Diverges, "check_recipe_learns", r"loss 'loss' must be a finite, detached scalar tensor, got tensor\(nan\)"),
    (
        DivergesAtFirst,
        "check_recipe_learns",
        r"loss 'loss' must be a finite, detached scalar tensor, got tensor\(inf\)",
    ),
    (ReturnsAFloat, "check_recipe_learns", r"loss 'loss' must be a finite, detached scalar tensor, got \d\.\d+"),
    (
        ReturnsAttached,
        "check_recipe_learns",
        "loss 'loss' must be a finite, detached scalar tensor, got tensor.*grad_fn",
    ),
    (ReturnsAVector, "check_recipe_learns", "loss 'loss' must be a finite, detached scalar tensor"),
    (ReturnsNothing, "check_recipe_learns", "must return losses under the same names in every step"),
    (RenamesItsLosses, "check_recipe_learns", "must return losses under the same names in every step"),
    (
        SaysItTrainsNoClassifier,
        "check_recipe_learns",
        "trains_classifier does not match its networks, which are classifier",
    ),
    (TrainsNoClassifier, "check_recipe_learns", "KeyError|trains_classifier does not match its networks"),
    (DrawsUnseeded, "check_recipe_repeats", "network 'classifier' differs between two trainings with the same seed"),
]


@pytest.mark.parametrize("plugin, check, message", WRONG_RECIPES, ids=short_id)
def test_a_wrong_recipe_is_caught(register: Register, plugin: type[Recipe], check: str, message: str) -> None:
    register("checks_wrong", plugin)
    results = {result.check: result for result in run_checks(["checks_wrong"], Path())}
    assert results[check].status == "failed"
    assert re.search(message, results[check].reason)


def test_a_right_recipe_passes(register: Register) -> None:
    register("checks_right", Plain)
    assert {result.status for result in run_checks(["checks_right"], Path())} == {"ok"}


# Recipes that fit a head


class Means(Recipe):
    """Distances to class means as a head, a correct one; subclasses are wrong in one respect."""

    def fit_head(self, data: HeadData) -> Head:
        means = torch.stack([data.features[data.labels == k].mean(dim=0) for k in range(data.num_classes)])
        return Head(means, -(means**2).sum(dim=1) / 2)


class ForgetsAClass(Means):
    def fit_head(self, data: HeadData) -> Head:
        head = super().fit_head(data)
        return Head(head.weight[1:], head.bias[1:])


class GuessesOneClass(Means):
    def fit_head(self, data: HeadData) -> Head:
        head = super().fit_head(data)
        return Head(torch.zeros_like(head.weight), torch.arange(len(head.bias)))


class IsInfinite(Means):
    def fit_head(self, data: HeadData) -> Head:
        head = super().fit_head(data)
        return Head(head.weight, head.bias / 0)


class ScalesTheFeatures(Means):
    def fit_head(self, data: HeadData) -> Head:
        return super().fit_head(data._replace(features=data.features.mul_(0.5)))


class DrawsGlobally(Means):
    def fit_head(self, data: HeadData) -> Head:
        head = super().fit_head(data)
        return Head(head.weight + 1e-3 * torch.rand(head.weight.shape), head.bias)


class DrawsSeeded(Means):
    def fit_head(self, data: HeadData) -> Head:
        head = super().fit_head(data)
        return Head(head.weight + 1e-3 * torch.rand(head.weight.shape, generator=data.generator), head.bias)


class SaysItUsesNoSeed(DrawsSeeded):
    uses_seed = False


WRONG_HEADS: list[tuple[type[Recipe], str, str]] = [
    (ForgetsAClass, "check_recipe_learns", r"returned a weight of \(3, 8\), expected \(4, 8\)"),
    (GuessesOneClass, "check_recipe_learns", "classifies 25% of its training images correctly"),
    (IsInfinite, "check_recipe_learns", "returned numbers that are not finite"),
    (ScalesTheFeatures, "check_recipe_learns", "changes the features"),
    (DrawsGlobally, "check_recipe_repeats", "another head when it is called again with the same data and seed"),
    (SaysItUsesNoSeed, "check_recipe_repeats", "another head with another seed, and the recipe says uses_seed = False"),
]


@pytest.mark.parametrize("plugin, check, message", WRONG_HEADS, ids=short_id)
def test_a_wrong_head_is_caught(register: Register, plugin: type[Recipe], check: str, message: str) -> None:
    register("checks_wrong", plugin)
    results = {result.check: result for result in run_checks(["checks_wrong"], Path())}
    assert results[check].status == "failed"
    assert re.search(message, results[check].reason)


@pytest.mark.parametrize("plugin", [Means, DrawsSeeded])
def test_a_right_head_passes(register: Register, plugin: type[Recipe]) -> None:
    register("checks_right", plugin)
    assert {result.status for result in run_checks(["checks_right"], Path())} == {"ok"}


# Backbones


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.LazyLinear(6)
        self.head: nn.Module = nn.Linear(6, num_classes)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images.flatten(1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class ForwardIgnoresHead(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class BatchDependent(Net):
    def features(self, images: Tensor) -> Tensor:
        features = super().features(images)
        return features - features.mean(dim=0)


class FeatureMaps(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images)[:, None]


class TooManyLogits(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes + 1)


class NotFinite(Net):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images) / 0


class HeadOfTwoLayers(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, num_classes))


class HeadWithoutBias(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Linear(6, num_classes, bias=False)


@pytest.mark.parametrize(
    "net, message",
    [
        (Net, ""),
        (ForwardIgnoresHead, r"forward\(images\) differs from head\(features\(images\)\)"),
        (BatchDependent, r"forward\(images\) differs from images one by one"),
        (FeatureMaps, r"features \(12, 1, 6\) or logits \(12, 1, 4\) are not finite and of shape \(N, D\) and"),
        (TooManyLogits, r"features \(12, 6\) or logits \(12, 5\) are not"),
        (NotFinite, r"features \(12, 6\) or logits \(12, 4\) are not finite and of shape"),
        (HeadOfTwoLayers, r"head must be a linear layer with weight \(K, D\) and bias \(K,\), got Sequential"),
        (HeadWithoutBias, r"head must be a linear layer with weight \(K, D\) and bias \(K,\), got Linear"),
    ],
    ids=short_id,
)
def test_a_wrong_backbone_is_caught(register: Register, net: type[Net], message: str) -> None:
    class Mine(Backbone):
        def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
            return net(num_classes)

    register("checks_net", Mine)
    if not message:
        check_backbone("checks_net")
        return
    with pytest.raises(CheckError, match=message):
        check_backbone("checks_net")


class Rigid(Backbone):
    """Three channels, whatever the images have."""

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        small: Backbone = create("backbone", parse_spec("small_cnn[width=2,hidden=4]"))
        return small.build(num_classes, (3, *image_shape[1:]))


def test_a_backbone_for_three_channels_declares_them(register: Register) -> None:
    class Declared(Rigid):
        channels = 3

    class Two(Rigid):
        channels = 2

    register("checks_rigid", Rigid)
    with pytest.raises(CheckError, match=r"fails on images of 1 channel.*image_shape\[0\].* or declare channels = 3"):
        check_backbone("checks_rigid")
    register("checks_declared", Declared)
    check_backbone("checks_declared")
    register("checks_two", Two)
    with pytest.raises(CheckError, match=r"channels must be 1 \(grey\), 3 \(colour\) or None"):
        check_backbone("checks_two")


def test_a_recipe_for_three_channels_is_caught(register: Register) -> None:
    class Extra(Plain):
        def networks(self, task: Task) -> dict[str, nn.Module]:
            return {**super().networks(task), "extra": nn.Conv2d(3, 1, 3)}

        def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
            training.networks["extra"](batch.images)
            return super().step(training, batch)

    register("checks_extra", Extra)
    with pytest.raises(CheckError, match=r"fails on images of 1 channel.*build every network for task.image_shape"):
        check_recipe_takes_grey("checks_extra")
    check_recipe_takes_grey("joint")


def test_a_form_for_three_channels_is_caught(register: Register) -> None:
    class Reddened(Form):
        def apply(self, images: np.ndarray) -> np.ndarray:
            changed = np.zeros((len(images), 3, *images.shape[2:]), np.uint8)
            changed[:, :1] = images[:, :1]
            return changed

    class Declared(Reddened):
        channels = 3

    register("checks_reddened", Reddened)
    with pytest.raises(CheckError, match="for grey images of 1 channel too; or declare channels = 3"):
        check_form("checks_reddened")
    register("checks_declared", Declared)
    check_form("checks_declared")
