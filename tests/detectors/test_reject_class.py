"""The reject class and its sources of images, against independent float64 computations."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.inputs import Batch
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors import _cvae
from oodbench.detectors.reject_class import REJECT
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet, batch, check_batch_statistics, flat, given_networks

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

SHAPE = (3, 32, 32)
SOURCES = ("gan", "cvae")


def make(name: str, **settings: Any) -> Any:
    return registry.get("recipe", name)(**settings)


def cvae_networks() -> dict[str, nn.Module]:
    networks: dict[str, nn.Module] = make("cvae", latent=3, width=2).networks(Task(CLASSES, SHAPE, SmallNet))
    return networks


def start(recipe: Recipe, given: Mapping[str, nn.Module], normalised: bool = False) -> Training:
    """A training with SGD at 0.1, whose given networks are frozen."""
    torch.manual_seed(0)
    networks = recipe.networks(Task(CLASSES, SHAPE, lambda: SmallNet(normalised=normalised)))
    for network in given.values():
        network.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(networks["classifier"].parameters(), lr=0.1)
    return Training(networks, {"classifier": optimizer}, dict(given), torch.Generator().manual_seed(5))


def source(name: str) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return given_networks(make("reject_class")) if name == "gan" else cvae_networks()


def drawn(name: str, given: dict[str, Any], images: TrainBatch, random: torch.Generator) -> Tensor:
    """The images that a step generates, computed one by one."""
    if name == "gan":
        samples: Tensor = given["generator"](torch.randn(BATCH, 100, 1, 1, generator=random))
        return samples
    one_hot = torch.eye(CLASSES)[images.labels]
    encoder, decoder, half = given["encoder"], given["decoder"], BATCH // 2
    noise = torch.randn(half, math.prod(SHAPE), 1, generator=random).squeeze(2)
    shares = torch.rand(half, 1, generator=random)
    made = []
    for k in range(half):
        at = encoder(images.images[k : k + 1], one_hot[k : k + 1])[0]
        step = 1e-5
        columns = []
        for axis in range(3):
            away = step * torch.eye(3)[axis]
            both = [torch.sigmoid(decoder(at + sign * away, one_hot[k : k + 1])).flatten() for sign in (1, -1)]
            columns.append((both[0] - both[1]) / (2 * step))
        tangent = torch.stack(columns, dim=1).numpy()
        inside = tangent @ np.linalg.lstsq(tangent, noise[k].numpy(), rcond=None)[0]
        normal = noise[k] - torch.from_numpy(inside)
        length = 0.1 + (math.sqrt(math.prod(SHAPE)) - 0.1) * float(shares[k])
        moved = images.images[k].flatten() + length * normal / normal.norm()
        made.append(moved.clamp(0, 1).view(SHAPE))
    directions = torch.randn(BATCH - half, 3, generator=random)
    radii = scipy.stats.chi.ppf(0.95, 3) * (1 + 0.5 * torch.rand(BATCH - half, 1, generator=random))
    z = radii * directions / directions.norm(dim=1, keepdim=True)
    return torch.cat([torch.stack(made), torch.sigmoid(decoder(z, one_hot[half:]))])


def cross_entropy(network: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The mean of -log p_y over K + 1 classes; the last one's logit is a row of its own beside the head."""
    features = network.features(images)
    weight = torch.cat([network.head.weight, network.branches[REJECT].weight])
    bias = torch.cat([network.head.bias, network.branches[REJECT].bias])
    powers = torch.exp(features @ weight.T + bias)
    return -torch.log(powers[range(len(labels)), labels] / powers.sum(dim=1)).mean()


@pytest.mark.parametrize("name", SOURCES)
def test_a_step_descends_on_cross_entropy_over_one_class_more(name: str) -> None:
    recipe = make("reject_class", builds_on=name, weight=0.3)
    training = start(recipe, source(name))
    random, given = torch.Generator().manual_seed(5), copy.deepcopy(training.given)
    network = training.networks["classifier"]
    for step in range(2):
        plain, images = copy.deepcopy(network), batch(seed=step)
        with torch.no_grad():
            others = drawn(name, given, images, random)
        inside = cross_entropy(plain, images.images, images.labels)
        outside = cross_entropy(plain, others, torch.full((BATCH,), CLASSES))
        gradients = torch.autograd.grad(inside + 0.3 * outside, tuple(plain.parameters()))
        logged = recipe.step(training, images)
        right = (plain(images.images).argmax(dim=1) == images.labels).double().mean().item()
        expected = {
            "cross_entropy": inside.item(),
            "cross_entropy_of_generated": outside.item(),
            "accuracy": right,
        }
        assert {key: float(value) for key, value in logged.items()} == pytest.approx(expected, rel=1e-6)
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.1 * gradient, rtol=0, atol=1e-7)
            assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("name", SOURCES)
def test_given_networks_stay_as_they_are_and_draw_new_images_in_every_step(name: str) -> None:
    recipe = make("reject_class", builds_on=name)
    training = start(recipe, source(name))
    before = {key: flat(network) for key, network in training.given.items()}
    state = torch.get_rng_state()
    one, two = (recipe.generated(training, batch()) for _ in range(2))
    recipe.step(training, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == two.shape == (BATCH, *SHAPE)
    assert one.min() >= 0
    assert one.max() <= 1
    assert (one - two).flatten(1).abs().amax(dim=1).min() > 1e-4
    for key, network in training.given.items():
        assert torch.equal(flat(network), before[key])
        assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("name", SOURCES)
def test_batch_norm_sees_generated_images_with_the_others(name: str) -> None:
    recipe = make("reject_class", builds_on=name)
    training = start(recipe, source(name), normalised=True)
    check_batch_statistics(recipe, training, batch())


def test_logits_are_those_of_the_classes_from_the_weights_of_other_recipes() -> None:
    """The row is added after the network is made, so that the others start as in every recipe with this seed."""
    torch.manual_seed(0)
    network = make("cross_entropy").networks(Task(CLASSES, SHAPE, SmallNet))["classifier"]
    torch.manual_seed(0)
    rejecting = make("reject_class").networks(Task(CLASSES, SHAPE, SmallNet))["classifier"]
    images = batch().images
    assert rejecting(images).shape == (BATCH, CLASSES)
    assert torch.equal(rejecting(images), network(images))
    assert rejecting.outputs(rejecting.features(images))[REJECT].shape == (BATCH, 1)


def test_the_score_is_the_log_odds_of_the_reject_class() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 6)) * 5)
    reject = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 1)) * 5)
    parts = {"logits": lambda rows: logits[rows], f"outputs.{REJECT}": lambda rows: reject[rows]}
    detector = registry.get("detector", "reject_class")()
    scores = detector.score(Batch(20, parts, "reject_class")).numpy()
    p = scipy.special.softmax(torch.cat([logits, reject], dim=1).numpy(), axis=1)[:, -1]
    assert scores == pytest.approx(np.log(p / (1 - p)), rel=1e-9)


def test_the_score_does_not_saturate() -> None:
    logits, reject = torch.tensor([[900.0, 0.0], [1000.0, 0.0]]), torch.zeros(2, 1)
    parts = {"logits": lambda rows: logits[rows], f"outputs.{REJECT}": lambda rows: reject[rows]}
    assert registry.get("detector", "reject_class")().score(Batch(2, parts, "x")).tolist() == [-900.0, -1000.0]


def test_a_backbone_without_a_linear_head_is_refused() -> None:
    flat_network = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))  # noqa: E731
    with pytest.raises(DataError, match="'reject_class' adds a row to a linear head, and this backbone has none"):
        make("reject_class").networks(Task(CLASSES, SHAPE, flat_network))


def test_a_base_that_draws_nothing_is_refused() -> None:
    recipe = make("reject_class", builds_on="cross_entropy")
    with pytest.raises(ValueError, match="a recipe that draws images: joint, gan or cvae, got 'cross_entropy'"):
        recipe.step(start(recipe, {"classifier": SmallNet()}), batch())


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_the_weight_must_not_be_negative(value: float) -> None:
    with pytest.raises(ValueError, match="weight must be 0 or more, and finite, got"):
        make("reject_class", weight=value)


# the autoencoder


def gaussian_kl(means: np.ndarray, log_variances: np.ndarray) -> np.ndarray:
    """KL(N(m, v) || N(0, I)) of each row, by integrating each dimension."""
    x = np.linspace(-30, 30, 200_001)
    total = np.zeros(len(means))
    for row, (m, v) in enumerate(zip(means, np.exp(log_variances), strict=True)):
        for one, variance in zip(m, v, strict=True):
            log_q = scipy.stats.norm.logpdf(x, one, math.sqrt(variance))
            total[row] += np.trapezoid(np.exp(log_q) * (log_q - scipy.stats.norm.logpdf(x)), x)
    return total


def test_the_bound_is_binary_cross_entropy_and_a_gaussian_kl() -> None:
    random = np.random.default_rng(0)
    images, logits = random.uniform(size=(4, 3, 5, 5)), random.normal(size=(4, 3, 5, 5)) * 3
    means, log_variances = random.normal(size=(2, 4, 3))
    pixels, kl = _cvae.negative_elbo(*(torch.from_numpy(one) for one in (images, logits, means, log_variances)))
    p = 1 / (1 + np.exp(-logits))
    expected = -(images * np.log(p) + (1 - images) * np.log(1 - p)).sum(axis=(1, 2, 3))
    assert pixels.numpy() == pytest.approx(expected, rel=1e-12)
    assert kl.numpy() == pytest.approx(gaussian_kl(means, log_variances), rel=1e-6)


def test_a_step_of_the_autoencoder_descends_on_the_bound() -> None:
    recipe = make("cvae", latent=3, width=2)
    torch.manual_seed(0)
    networks = recipe.networks(Task(CLASSES, SHAPE, SmallNet))
    weights = [weight for network in networks.values() for weight in network.parameters()]
    training = Training(networks, {"cvae": torch.optim.SGD(weights, lr=1e-4)}, {}, torch.Generator().manual_seed(5))
    random = torch.Generator().manual_seed(5)
    for step in range(2):
        plain: dict[str, Any] = copy.deepcopy(networks)
        images = batch(seed=step)
        one_hot = torch.eye(CLASSES)[images.labels]
        means, log_variances = plain["encoder"](images.images, one_hot)
        z = means + torch.exp(log_variances) ** 0.5 * torch.randn(BATCH, 3, generator=random)
        p = torch.sigmoid(plain["decoder"](z, one_hot))
        pixels = -(images.images * p.log() + (1 - images.images) * (1 - p).log()).sum() / BATCH
        kl = -0.5 * (1 + log_variances - means**2 - torch.exp(log_variances)).sum() / BATCH
        old = [weight for network in plain.values() for weight in network.parameters()]
        gradients = torch.autograd.grad(pixels + kl, old)
        logged = recipe.step(training, images)
        assert logged["pixels"].item() == pytest.approx(pixels.item())
        assert logged["kl_of_latents"].item() == pytest.approx(kl.item())
        for before, after, gradient in zip(old, weights, gradients, strict=True):
            assert torch.allclose(after, before - 1e-4 * gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
def test_decoded_images_have_the_images_shape(shape: tuple[int, int, int]) -> None:
    recipe = make("cvae", latent=2, width=2)
    networks = recipe.networks(Task(CLASSES, shape, SmallNet))
    training = Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5))
    assert recipe.step(training, TrainBatch(torch.rand(4, *shape), torch.arange(4) % CLASSES, None))
    samples = recipe.samples(training)
    assert samples.shape == (64, *shape)
    assert 0 <= samples.min() < samples.max() <= 1


def test_steps_off_the_manifold_are_at_right_angles_to_it_and_uniform_in_length() -> None:
    random = torch.Generator().manual_seed(0)
    tangent = torch.randn(400, 3 * 4 * 4, 5, generator=random)
    images = torch.full((400, 3, 4, 4), 0.5)
    moved = _cvae.off_the_manifold(images, tangent, random)
    away = (moved - images).flatten(1)
    short = away.abs().amax(dim=1) < 0.5  # not cut
    assert short.sum() > 20
    along = (tangent[short].mT @ away[short][:, :, None]).abs().amax() / away[short].norm(dim=1).max()
    assert along < 1e-12
    longest = math.sqrt(48)
    lengths = scipy.stats.uniform(0.1, longest - 0.1)
    assert float((~short).double().mean()) == pytest.approx(1 - lengths.cdf(1.6), abs=0.15)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_outer_latent_vectors_have_uniform_radii_and_directions() -> None:
    z = _cvae.outer_latents(4000, 8, torch.Generator().manual_seed(0))
    radii = z.norm(dim=1).numpy()
    inner = scipy.stats.chi.ppf(0.95, 8)
    assert scipy.stats.kstest(radii, scipy.stats.uniform(inner, inner / 2).cdf).pvalue > 0.01
    assert (z / z.norm(dim=1, keepdim=True)).mean(dim=0).abs().max() < 0.03


@pytest.mark.parametrize("name", ["latent", "width"])
def test_sizes_of_the_autoencoder_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
        make("cvae", **{name: 0})
