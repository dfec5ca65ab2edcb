"""Recipes against plain implementations of the same steps, written after the paper's Algorithm 1."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._dcgan import discriminator, gan_networks, generator

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, BATCH, STEPS = 3, 6, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "confidence": {"beta": 0.7},
    "gan": {"width": 4},
    "gan_confidence": {"beta": 0.7},
    "joint": {"width": 4, "beta": 0.7},
}
LOSSES = {
    "cross_entropy": {"cross_entropy"},
    "confidence": {"cross_entropy", "kl_to_uniform"},
    "gan": {"discriminator", "generator"},
    "gan_confidence": {"cross_entropy", "kl_to_uniform"},
    "joint": {"discriminator", "generator", "cross_entropy", "kl_to_uniform"},
}
Networks = dict[str, nn.Module]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Networks, data and noise in float64, so that the order of additions does not matter."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, CLASSES))


def normalised_classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, CLASSES)
    )


def make(name: str, **settings: Any) -> Recipe:
    made: Recipe = registry.get("recipe", name)(**{**SETTINGS[name], **settings})
    return made


def batch(outliers: bool = False, seed: int = 1) -> TrainBatch:
    random = torch.Generator().manual_seed(seed)
    images, others = torch.rand(2, BATCH, 3, 32, 32, generator=random)
    return TrainBatch(images, torch.arange(BATCH) % CLASSES, 1 - others.square() if outliers else None)


class Setup(NamedTuple):
    """A recipe about to train, and copies of its networks for a plain implementation."""

    recipe: Recipe
    training: Training
    copies: Networks


def set_up(recipe: Recipe, sgd: bool = False, build: Callable[[], nn.Module] = classifier) -> Setup:
    networks = recipe.networks(Task(CLASSES, (3, 32, 32), build))
    given = {name: network.eval().requires_grad_(False) for name, network in given_networks(recipe).items()}
    optimizers = recipe.optimizers(networks)
    if sgd:
        optimizers = {name: torch.optim.SGD(networks[name].parameters(), lr=0.1) for name in optimizers}
    copies = copy.deepcopy({**networks, **given})
    return Setup(recipe, Training(networks, optimizers, given, torch.Generator().manual_seed(5)), copies)


def given_networks(recipe: Recipe) -> Networks:
    if recipe.builds_on is None:
        return {}
    networks = gan_networks(4, (3, 32, 32))
    with torch.no_grad():
        for module in networks["generator"].modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.mul_(8)  # samples that differ, as those of a trained generator
    return networks


def batch_for(recipe: Recipe, seed: int = 1) -> TrainBatch:
    return batch("outliers" in recipe.needs, seed)


# The plain implementation


def kl(logits: Tensor) -> Tensor:
    p, uniform = logits.softmax(dim=1), 1 / logits.shape[1]
    return (uniform * torch.log(uniform / p)).sum(dim=1).mean()


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    return -torch.log(logits.softmax(dim=1)[range(len(labels)), labels]).mean()


def draw(random: torch.Generator) -> Tensor:
    return torch.randn(BATCH, 100, 1, 1, generator=random)


def descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = list(network.parameters())
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
        weight.grad = gradient
    optimizer.step()


class Plain:
    """One step of each recipe: every network's loss by a pass of its own, every gradient asked for by name."""

    def __init__(self, networks: Networks, sgd: bool, beta: float, rates: Mapping[str, float]) -> None:
        self.networks, self.beta = networks, beta
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
        loss = ce(self.networks["classifier"](given.images), given.labels)
        self.descend("classifier", loss)
        return {"cross_entropy": loss}

    def confidence(self, given: TrainBatch) -> dict[str, Tensor]:
        assert given.outliers is not None
        return self.classify(given, given.outliers)

    def classify(self, given: TrainBatch, outliers: Tensor) -> dict[str, Tensor]:
        network = self.networks["classifier"]
        fit, penalty = ce(network(given.images), given.labels), kl(network(outliers))
        self.descend("classifier", fit + self.beta * penalty)
        return {"cross_entropy": fit, "kl_to_uniform": penalty}

    def gan(self, given: TrainBatch, penalise: bool = False) -> dict[str, Tensor]:
        drawn, judge = self.networks["generator"](draw(self.random)), self.networks["discriminator"]
        real, fake = torch.sigmoid(judge(given.images)), torch.sigmoid(judge(drawn))
        loss_d = -torch.log(real).mean() - torch.log(1 - fake).mean()
        self.descend("discriminator", loss_d)
        loss_g = -torch.log(torch.sigmoid(judge(drawn))).mean()
        penalty = self.beta * kl(self.networks["classifier"](drawn)) if penalise else 0.0
        self.descend("generator", loss_g + penalty)
        return {"discriminator": loss_d, "generator": loss_g}

    @torch.no_grad()
    def sample(self) -> Tensor:
        samples: Tensor = self.networks["generator"](draw(self.random))
        return samples

    def gan_confidence(self, given: TrainBatch) -> dict[str, Tensor]:
        return self.classify(given, self.sample())

    def joint(self, given: TrainBatch) -> dict[str, Tensor]:
        losses = self.gan(given, penalise=True)
        return {**losses, **self.classify(given, self.sample())}


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
    """Adam forgets the size of a gradient in its first step; SGD does not."""
    recipe, training, copies = set_up(make(name), sgd)
    plain = Plain(copies, sgd, recipe.settings.get("beta", 0.0), rates_of(recipe))
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


@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint"])
def test_beta_counts(name: str) -> None:
    """What the comparison above rests on: another beta gives other weights."""
    results = []
    for beta in (0.7, 0.70001):
        torch.manual_seed(0)
        recipe, training, _ = set_up(make(name, beta=beta), sgd=True)
        recipe.step(training, batch_for(recipe))
        results.append({n: flat(net) for n, net in training.networks.items() if n != "discriminator"})
    for network, weights in results[0].items():
        assert not torch.allclose(weights, results[1][network], rtol=0, atol=1e-10), network


def flat(network: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])


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


# Where gradients go


class Moment(NamedTuple):
    """The networks just before or after one optimiser's step."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor | None]


def gradient(network: nn.Module) -> Tensor | None:
    parts = [weight.grad for weight in network.parameters()]
    if all(part is None for part in parts):
        return None
    return torch.cat([part.flatten().clone() for part in parts if part is not None])


def watch(training: Training) -> dict[str, Moment]:
    """Filled, in the order of the optimisers' steps, with 'before NAME' and 'after NAME'."""
    moments: dict[str, Moment] = {}

    def note(when: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            networks = training.networks.items()
            moments[when] = Moment({n: flat(net) for n, net in networks}, {n: gradient(net) for n, net in networks})

        return hook

    for name, optimizer in training.optimizers.items():
        optimizer.register_step_pre_hook(note(f"before {name}"))
        optimizer.register_step_post_hook(note(f"after {name}"))
    return moments


def same(one: Tensor | None, two: Tensor | None) -> bool:
    return one is two or (one is not None and two is not None and torch.equal(one, two))


@pytest.mark.parametrize("name", ["gan", "joint"])
def test_each_update_changes_its_own_network_alone(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    moments = watch(training)
    recipe.step(training, batch())
    order = ["discriminator", "generator", *(["classifier"] if name == "joint" else [])]
    assert list(moments) == [f"{when} {network}" for network in order for when in ("before", "after")]
    for (_, one), (later, two) in pairwise(moments.items()):
        for network in training.networks:
            changes = later == f"after {network}"
            assert same(one.weights[network], two.weights[network]) != changes, (later, network)


@pytest.mark.parametrize("name", ["gan", "joint"])
def test_each_backward_pass_reaches_its_own_network_alone(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    moments = watch(training)
    recipe.step(training, batch())
    first = moments["before discriminator"]
    assert first.gradients["discriminator"] is not None
    assert all(value is None for network, value in first.gradients.items() if network != "discriminator")
    for (_, one), (later, two) in pairwise(moments.items()):
        for network in training.networks:
            changes = later == f"before {network}"
            assert same(one.gradients[network], two.gradients[network]) != changes, (later, network)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_do_not_pile_up(name: str) -> None:
    recipe, training, _ = set_up(make(name), sgd=True)
    for optimizer in training.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    seen = []
    for _ in range(2):
        training.generator.manual_seed(5)
        recipe.step(training, batch_for(recipe))
        seen.append({n: gradient(net) for n, net in training.networks.items()})
    for network, value in seen[0].items():
        other = seen[1][network]
        assert value is not None
        assert other is not None
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-15), network


@pytest.mark.parametrize("name", SETTINGS)
def test_every_weight_is_free_again_after_a_step(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    recipe.step(training, batch_for(recipe))
    assert all(weight.requires_grad for network in training.networks.values() for weight in network.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_networks_stay_in_training_mode(name: str) -> None:
    recipe, training, _ = set_up(make(name), build=normalised_classifier)
    recipe.step(training, batch_for(recipe))
    assert all(module.training for network in training.networks.values() for module in network.modules())


@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint"])
def test_classifier_with_batch_norm_keeps_the_statistics_of_id_images(name: str) -> None:
    recipe, training, copies = set_up(make(name), build=normalised_classifier)
    given = batch_for(recipe)
    recipe.step(training, given)
    copies["classifier"](given.images)
    for key, buffer in copies["classifier"].named_buffers():
        assert torch.equal(training.networks["classifier"].get_buffer(key), buffer), key


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
@pytest.mark.parametrize("name", ["gan", "joint"])
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


@pytest.mark.parametrize("beta", [-1e-9, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint"])
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


# DCGAN


def test_dcgan_has_the_released_number_of_parameters() -> None:
    networks = registry.get("recipe", "gan")().networks(Task(10, (3, 32, 32), classifier))
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts == {"generator": 3_448_576, "discriminator": 2_637_312}


@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_shapes_and_range(channels: int) -> None:
    networks = gan_networks(4, (channels, 32, 32))
    images = networks["generator"](100 * torch.randn(5, 100, 1, 1))
    assert images.shape == (5, channels, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() - images.min() > 0.1
    logits = networks["discriminator"](images)
    assert logits.shape == (5, 1, 1, 1)
    assert logits.min() < 0  # a logit, not a probability


def test_generator_computes_the_released_network() -> None:
    network = generator(4, 3)
    w1, g1, b1, w2, g2, b2, w3, g3, b3, w4 = network.parameters()
    z = torch.randn(5, 100, 1, 1)
    x = z
    for weight, gain, bias, stride, padding in ((w1, g1, b1, 1, 0), (w2, g2, b2, 2, 1), (w3, g3, b3, 2, 1)):
        x = F.conv_transpose2d(x, weight, stride=stride, padding=padding)
        x = F.relu(F.batch_norm(x, None, None, gain, bias, training=True))
    expected = torch.sigmoid(F.conv_transpose2d(x, w4, stride=2, padding=1))
    assert torch.allclose(network(z), expected, rtol=0, atol=1e-12)


def test_discriminator_computes_the_released_network() -> None:
    network = discriminator(4, 3)
    w1, w2, g2, b2, w3, g3, b3, w4 = network.parameters()
    images = torch.rand(5, 3, 32, 32)
    x = F.leaky_relu(F.conv2d(images, w1, stride=2, padding=1), 0.2)
    for weight, gain, bias in ((w2, g2, b2), (w3, g3, b3)):
        x = F.conv2d(x, weight, stride=2, padding=1)
        x = F.leaky_relu(F.batch_norm(x, None, None, gain, bias, training=True), 0.2)
    assert torch.allclose(network(images), F.conv2d(x, w4), rtol=0, atol=1e-12)


def test_dcgan_weights_are_drawn_as_released() -> None:
    for network in gan_networks(32, (3, 32, 32)).values():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.bias is None
                assert_normal(module.weight, 0.0, name)
            elif isinstance(module, nn.BatchNorm2d):
                assert_normal(module.weight, 1.0, name)
                assert not module.bias.any()


def assert_normal(weight: Tensor, mean: float, name: str) -> None:
    """Mean and standard deviation 0.02 within five standard errors."""
    count, weight = weight.numel(), weight.detach()
    assert float(weight.mean()) == pytest.approx(mean, abs=5 * 0.02 / math.sqrt(count)), name
    assert float(weight.std()) == pytest.approx(0.02, abs=5 * 0.02 / math.sqrt(2 * count)), name


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 64), (1, 8, 32)])
@pytest.mark.parametrize("name", ["gan", "joint"])
def test_dcgan_refuses_other_sizes(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=rf"32 x 32 images; these are {shape[1]} x {shape[2]}\. Use a recipe without"):
        make(name).networks(Task(CLASSES, shape, classifier))
