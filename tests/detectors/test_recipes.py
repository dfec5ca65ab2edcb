"""Recipes against plain implementations of the same steps, following the paper's Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Recipe, TrainBatch, Training
from tests.detectors.recipe_setups import (
    BATCH,
    LOSSES,
    SETTINGS,
    STEPS,
    Networks,
    batch,
    batch_for,
    flat,
    gradient,
    make,
    set_up,
)

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


# The plain implementation


def kl(logits: Tensor) -> Tensor:
    p, uniform = logits.softmax(dim=1), 1 / logits.shape[1]
    return (uniform * torch.log(uniform / p)).sum(dim=1).mean()


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    return -torch.log(logits.softmax(dim=1)[range(len(labels)), labels]).mean()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    right = [int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)]
    return torch.tensor(sum(right) / len(right))


def entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    return -(p * torch.log(p)).sum(dim=1).mean()


def draw(random: torch.Generator) -> Tensor:
    return torch.randn(BATCH, 100, 1, 1, generator=random)


def descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = list(network.parameters())
    for weight, value in zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
        weight.grad = value
    optimizer.step()


class Plain:
    """One step of each recipe, with a separate pass for every loss and explicit gradients."""

    def __init__(self, networks: Networks, sgd: bool, settings: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        self.networks, self.beta = networks, settings.get("beta", 0.0)
        self.generator_beta = settings.get("generator_beta", 0.0)
        self.random = torch.Generator().manual_seed(5)
        betas = {"classifier": (0.9, 0.999), "generator": (0.5, 0.999), "discriminator": (0.5, 0.999)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.SGD(networks[name].parameters(), lr=0.1)
            if sgd
            else torch.optim.Adam(networks[name].parameters(), lr=rate, betas=betas[name])
            for name, rate in rates.items()
        }

    def descend(self, name: str, loss: Tensor) -> None:
        descend(loss, self.networks[name], self.optimizers[name])

    def cross_entropy(self, given: TrainBatch) -> dict[str, Tensor]:
        logits = self.networks["classifier"](given.images)
        loss = ce(logits, given.labels)
        self.descend("classifier", loss)
        return {"cross_entropy": loss, "accuracy": accuracy(logits, given.labels)}

    def confidence(self, given: TrainBatch) -> dict[str, Tensor]:
        assert given.outliers is not None
        return self.classify(given, given.outliers)

    def classify(self, given: TrainBatch, outliers: Tensor) -> dict[str, Tensor]:
        network = self.networks["classifier"]
        logits = network(given.images)
        fit, penalty = ce(logits, given.labels), kl(network(outliers))
        self.descend("classifier", fit + self.beta * penalty)
        return {"cross_entropy": fit, "kl_to_uniform": penalty, "accuracy": accuracy(logits, given.labels)}

    def gan(self, given: TrainBatch, penalty_of: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        drawn, judge = self.networks["generator"](draw(self.random)), self.networks["discriminator"]
        real, fake = torch.sigmoid(judge(given.images)), torch.sigmoid(judge(drawn))
        loss_d = -torch.log(real).mean() - torch.log(1 - fake).mean()
        self.descend("discriminator", loss_d)
        loss_g = -torch.log(torch.sigmoid(judge(drawn))).mean()
        penalty = penalty_of(self.networks["classifier"](drawn)) if penalty_of else 0.0
        self.descend("generator", loss_g + penalty)
        deviation = (drawn - drawn.mean(dim=0)).square().mean(dim=0).sqrt().mean()
        health = {"p_real": real.mean(), "p_fake": fake.mean(), "sample_deviation": deviation}
        return {"discriminator": loss_d, "generator": loss_g, **health}

    @torch.no_grad()
    def sample(self) -> Tensor:
        samples: Tensor = self.networks["generator"](draw(self.random))
        return samples

    def gan_confidence(self, given: TrainBatch) -> dict[str, Tensor]:
        return self.classify(given, self.sample())

    def joint(self, given: TrainBatch) -> dict[str, Tensor]:
        losses = self.gan(given, lambda logits: self.beta * kl(logits))
        return {**losses, **self.classify(given, self.sample())}

    def gan_entropy(self, given: TrainBatch) -> dict[str, Tensor]:
        losses = self.gan(given, lambda logits: self.generator_beta * entropy(logits))
        network = self.networks["classifier"]
        logits = network(given.images)
        fit, spread = ce(logits, given.labels), entropy(network(self.sample()))
        self.descend("classifier", fit - self.beta * spread)
        return {**losses, "cross_entropy": fit, "entropy": spread, "accuracy": accuracy(logits, given.labels)}


def rates_of(recipe: Recipe) -> dict[str, float]:
    keys = {
        "classifier": "learning_rate",
        "generator": "generator_learning_rate",
        "discriminator": "discriminator_learning_rate",
    }
    return {name: recipe.settings[key] for name, key in keys.items() if key in recipe.settings}


@pytest.mark.parametrize("sgd", [False, True], ids=["own optimiser", "SGD"])
@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_the_plain_implementation(name: str, sgd: bool) -> None:
    """SGD depends on the magnitude of a gradient, which Adam's first step does not."""
    recipe, training, copies = set_up(make(name), sgd)
    plain = Plain(copies, sgd, recipe.settings, rates_of(recipe))
    for step in range(STEPS):
        given = batch_for(recipe, step)
        losses, expected = recipe.step(training, given), getattr(plain, name)(given)
        assert {k: v.item() for k, v in losses.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    moved = 0
    for network in training.networks:
        for key, weight in training.networks[network].state_dict().items():
            other = copies[network].state_dict()[key]
            if "running" not in key and "tracked" not in key:
                moved += 1
                assert torch.allclose(weight, other, rtol=0, atol=1e-10), f"{network}.{key}"
    assert moved


@pytest.mark.parametrize(
    ("name", "setting", "without"),
    [
        ("confidence", "beta", ()),
        ("gan_confidence", "beta", ()),
        ("joint", "beta", ("discriminator",)),
        ("gan_entropy", "beta", ("discriminator", "generator")),
        ("gan_entropy", "generator_beta", ("discriminator", "classifier")),
    ],
)
def test_beta_counts(name: str, setting: str, without: tuple[str, ...]) -> None:
    """The comparison above is meaningful only if another beta gives other weights."""
    results = []
    for beta in (0.7, 0.71 if name == "gan_entropy" else 0.70001):  # entropy is flat where predictions are uniform
        torch.manual_seed(0)
        recipe, training, _ = set_up(make(name, **{setting: beta}), sgd=True)
        recipe.step(training, batch_for(recipe))
        results.append({n: flat(net) for n, net in training.networks.items() if n not in without})
    for network, weights in results[0].items():
        assert not torch.allclose(weights, results[1][network], rtol=0, atol=1e-10), network


def test_joint_without_penalty_is_gan_and_cross_entropy() -> None:
    recipe, training, copies = set_up(make("joint", beta=0.0))
    losses = recipe.step(training, batch())
    separate: dict[str, Tensor] = {}
    for name, networks in (("gan", ("generator", "discriminator")), ("cross_entropy", ("classifier",))):
        other = make(name)
        own = {network: copies[network] for network in networks}
        random = torch.Generator().manual_seed(5)
        separate.update(other.step(Training(own, other.optimizers(own), {}, random), batch()))
    assert {k: losses[k].item() for k in separate} == pytest.approx({k: v.item() for k, v in separate.items()})
    for name, network in training.networks.items():
        assert torch.allclose(flat(network), flat(copies[name]), rtol=0, atol=1e-12), name


# Losses, noise and samples


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_named_detached_scalars(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    losses = recipe.step(training, batch_for(recipe))
    assert losses.keys() == LOSSES[name]
    for loss in losses.values():
        assert loss.shape == ()
        assert not loss.requires_grad
        assert math.isfinite(loss)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_draw_from_the_given_generator_alone(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    before = torch.get_rng_state()
    recipe.step(training, batch_for(recipe))
    assert torch.equal(torch.get_rng_state(), before)


def test_given_generator_stays_as_it_is() -> None:
    recipe, training, copies = set_up(make("gan_confidence"))
    recipe.step(training, batch())
    assert not any(module.training for module in training.given["generator"].modules())
    for key, value in training.given["generator"].state_dict().items():
        assert torch.equal(value, copies["generator"].state_dict()[key]), key
    assert gradient(training.given["generator"]) is None


def test_gan_samples_are_drawn_afresh_and_are_images() -> None:
    recipe, training, copies = set_up(make("gan_confidence"))
    one, two = (recipe.outliers(training, batch()) for _ in range(2))  # type: ignore[attr-defined]
    random = torch.Generator().manual_seed(5)
    for drawn in (one, two):
        assert drawn.shape == (BATCH, 3, 32, 32)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        assert not drawn.requires_grad
        assert torch.allclose(drawn, copies["generator"](draw(random)), rtol=0, atol=1e-12)
    assert (one - two).abs().max() > 0.01


def test_joint_classifies_samples_that_it_has_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, training, _ = set_up(make("joint"))
    drawn: list[Tensor] = []
    training.networks["generator"].register_forward_hook(lambda module, inputs, output: drawn.append(inputs[0].clone()))
    recipe.step(training, batch())
    recipe.step(training, batch())
    assert len(drawn) == 4
    assert len({noise.numpy().tobytes() for noise in drawn}) == 4


def test_confidence_loss_needs_outliers() -> None:
    recipe, training, _ = set_up(make("confidence"))
    with pytest.raises(ValueError, match="batch without outliers"):
        recipe.step(training, batch(outliers=False))


@pytest.mark.parametrize("name, needed", [("confidence", True), ("gan_confidence", False), ("joint", False)])
def test_only_the_recipe_on_real_outliers_declares_them(name: str, needed: bool) -> None:
    assert ("outliers" in make(name).needs) == needed
    assert make(name).builds_on == ("gan" if name == "gan_confidence" else None)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["gan", "joint", "gan_entropy"])
def test_samples_are_images_and_leave_the_generator_as_it_is(name: str, mode: bool) -> None:
    recipe, training, copies = set_up(make(name))
    generator = training.networks["generator"].train(mode)
    samples = recipe.samples(training)
    assert samples is not None
    assert samples.shape == (64, 3, 32, 32)
    assert samples.min() >= 0
    assert samples.max() <= 1
    assert not samples.requires_grad
    assert all(module.training == mode for module in generator.modules())
    for key, value in generator.state_dict().items():
        assert torch.equal(value, copies["generator"].state_dict()[key]), key


@pytest.mark.parametrize("name", ["cross_entropy", "confidence", "gan_confidence"])
def test_recipes_without_a_generator_have_no_samples(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    assert recipe.samples(training) is None


# Settings


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_the_weight_of_the_generator_s_entropy_must_not_be_negative(value: float) -> None:
    with pytest.raises(ValueError, match="generator_beta must be 0 or more, and finite, got"):
        make("gan_entropy", generator_beta=value)


@pytest.mark.parametrize("beta", [-1e-9, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint", "gan_entropy"])
def test_beta_must_not_be_negative(name: str, beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must not be negative, got (-|nan)"):
        make(name, beta=beta)


@pytest.mark.parametrize("name", SETTINGS)
def test_optimisers_are_adam_over_one_network_each(name: str) -> None:
    rates = {"learning_rate": 0.1, "generator_learning_rate": 0.2, "discriminator_learning_rate": 0.3}
    recipe = make(name)
    recipe = make(name, **{key: value for key, value in rates.items() if key in recipe.settings})
    _, training, _ = set_up(recipe)
    assert training.optimizers.keys() == training.networks.keys() == rates_of(recipe).keys()
    for network, optimizer in training.optimizers.items():
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert list(map(id, group["params"])) == list(map(id, training.networks[network].parameters()))
        assert group["betas"] == ((0.9, 0.999) if network == "classifier" else (0.5, 0.999))
        assert group["lr"] == rates_of(recipe)[network]
        assert group["weight_decay"] == 0
        assert not group["amsgrad"]
