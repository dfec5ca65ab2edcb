"""Recipes that train a classifier with one loss, against independent float64 computations of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors._loss_recipe import REGIMES, Losses, LossRecipe
from oodbench.detectors._mixing import draw_beta
from oodbench.detectors.logitnorm import normalised
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet16
from tests.support import softmax

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


def batch(seed: int = 1) -> TrainBatch:
    random = torch.Generator().manual_seed(seed)
    images, others = torch.rand(2, BATCH, 3, 16, 16, generator=random)
    return TrainBatch(images, torch.arange(BATCH) % CLASSES, 1 - others.square())


def start(recipe: Recipe, build: Callable[[], nn.Module] = SmallNet16) -> Training:
    torch.manual_seed(0)
    given = {"classifier": build().eval().requires_grad_(False)} if recipe.builds_on else {}
    networks = recipe.networks(Task(CLASSES, (3, 16, 16), build))
    return Training(networks, recipe.optimizers(networks), given, torch.Generator().manual_seed(5))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over images of -sum_k t_k log p_k, for targets (N, K)."""
    return -(targets * torch.log(torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True))).sum(dim=1).mean()


def one_hot(labels: Tensor) -> Tensor:
    return torch.eye(CLASSES)[labels]


def logit_norm(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
    logits = network(given.images)
    lengths = torch.sqrt((logits * logits).sum(dim=1, keepdim=True))
    return cross_entropy(logits / (lengths + 1e-7) / settings["tau"], one_hot(given.labels))


def exposure(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
    assert given.outliers is not None
    uniform = torch.full((BATCH, CLASSES), 1 / CLASSES)
    outside = cross_entropy(network(given.outliers), uniform)
    inside = cross_entropy(network(given.images), one_hot(given.labels))
    return inside + float(settings["weight"]) * outside


def energy(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
    assert given.outliers is not None
    logits, others = network(given.images), network(given.outliers)
    total = cross_entropy(logits, one_hot(given.labels))
    for row, other in zip(logits, others, strict=True):
        above = -torch.log(torch.exp(row).sum()) - settings["m_in"]
        below = settings["m_out"] + torch.log(torch.exp(other).sum())
        for distance in (above, below):
            if distance > 0:
                total = total + settings["weight"] * distance**2 / BATCH
    return total


def unit_features(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
    features = network.features(given.images)  # type: ignore[operator]
    weight = network.head.parametrizations.weight.original  # type: ignore[union-attr]
    unit = features / torch.sqrt((features**2).sum(dim=1, keepdim=True)) / settings["tau"]
    return cross_entropy(unit @ weight.T + network.head.bias, one_hot(given.labels))  # type: ignore[union-attr]


def own_outliers(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
    """ASCOOD's loss, image by image, with features standardised here and the gradient of one logit at a time."""

    def logits(image: Tensor) -> Tensor:
        features = network.wrapped.features(image[None])[0]  # type: ignore[operator, union-attr]
        away = features - features.sum() / len(features)
        z = settings["sigma"] * away / (torch.sqrt((away**2).sum() / (len(features) - 1)) + 1e-6)
        head: Any = network.head
        made: Tensor = head.weight @ z + head.bias
        return made

    total = torch.zeros(())
    for image, label in zip(given.images, given.labels, strict=True):
        variable = image.clone().requires_grad_()
        gradient = torch.autograd.grad(logits(variable)[label], variable)[0]
        largest = np.argsort(-gradient.abs().flatten().numpy())[: image.numel() // 10]
        outlier = image.flatten().clone()
        for place in largest:
            outlier[place] += settings["alpha"] * gradient.flatten()[place]
        log_p = torch.log_softmax(logits(outlier.view_as(image)), dim=0)
        total = total - torch.log_softmax(logits(image), dim=0)[label] / BATCH
        total = total + settings["weight"] * (-np.log(CLASSES) - log_p.mean()) / BATCH
    return total


def drawn(a: float, b: float, random: torch.Generator) -> float:
    shapes = torch.tensor([a, b], dtype=torch.float64)
    return float(torch._sample_dirichlet(shapes, generator=random)[0])


def mixtures(given: TrainBatch, network: nn.Module, settings: dict[str, Any], random: torch.Generator) -> Tensor:
    share = drawn(settings["alpha"], settings["alpha"], random)
    order = torch.randperm(BATCH, generator=random)
    mixed, targets = torch.zeros_like(given.images), torch.zeros(BATCH, CLASSES)
    for k in range(BATCH):
        mixed[k] = share * given.images[k] + (1 - share) * given.images[order[k]]
        targets[k, given.labels[k]] += share
        targets[k, given.labels[order[k]]] += 1 - share
    whole = cross_entropy(network(given.images), one_hot(given.labels))
    return (whole + cross_entropy(network(mixed), targets)) / 2


def boxes(given: TrainBatch, network: nn.Module, settings: dict[str, Any], random: torch.Generator) -> Tensor:
    """As OpenOOD's trainer: the box is cut to the image, and the share is that of the pixels outside of it."""
    assert given.outliers is not None
    share, side = drawn(settings["alpha"], settings["beta"], random), 16
    half = int(side * np.sqrt(1 - share)) // 2
    (top, bottom), (left, right) = (
        np.clip([centre - half, centre + half], 0, side)
        for centre in (int(torch.randint(0, side, (), generator=random)) for _ in range(2))
    )
    mixed = given.images.clone()
    mixed[:, :, top:bottom, left:right] = given.outliers[:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / side**2
    targets = share * one_hot(given.labels) + (1 - share) / CLASSES
    whole = cross_entropy(network(given.images), one_hot(given.labels))
    return whole + float(settings["weight"]) * cross_entropy(network(mixed), targets)


def drawing(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss with random numbers that continue from step to step, as those of a training do."""
    states: dict[int, torch.Generator] = {}

    def with_random(given: TrainBatch, network: nn.Module, settings: dict[str, Any]) -> Tensor:
        random = states.setdefault(0, torch.Generator().manual_seed(5))
        return loss(given, network, settings, random)

    return with_random


EXPECTED: dict[str, Callable[[TrainBatch, nn.Module, dict[str, Any]], Tensor]] = {
    "logitnorm": logit_norm,
    "outlier_exposure": exposure,
    "outlier_exposure_finetune": exposure,
    "energy_finetune": energy,
    "t2fnorm": unit_features,
    "regmixup": drawing(mixtures),
    "mixoe": drawing(boxes),
    "ascood": own_outliers,
}
"""Recipe -> its loss, computed from logits in another way."""
ELSEWHERE = ("vos", "pixmix", "godin", "rotpred")
"""Recipes whose losses are tested in files of their own."""

SETTINGS: dict[str, dict[str, Any]] = {"energy_finetune": {"m_in": -1.3, "m_out": -0.9}}
"""Settings whose default is a rule of the pretrained network."""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_descends_on_the_paper_s_loss(name: str) -> None:
    recipe: Recipe = registry.get("recipe", name)(**SETTINGS.get(name, {}))
    training = start(recipe)
    network = training.networks["classifier"]
    if recipe.builds_on:
        network.load_state_dict(training.given["classifier"].state_dict())
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(3):
        plain = copy.deepcopy(network)
        loss = EXPECTED[name](batch(step), plain, recipe.settings)
        gradients = torch.autograd.grad(loss, tuple(plain.parameters()))
        logged = recipe.step(training, batch(step))
        assert all(value.dtype == torch.float64 and not value.requires_grad for value in logged.values())
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.1 * gradient, rtol=0, atol=1e-12)
            assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("name", [*EXPECTED, *ELSEWHERE])
@pytest.mark.parametrize("like", REGIMES)
def test_steps_draw_from_the_given_generator_alone(name: str, like: str) -> None:
    recipe: Recipe = registry.get("recipe", name)(like=like)
    training = start(recipe)._replace(progress=0.5)
    before = torch.get_rng_state()
    losses = recipe.step(training, batch())
    assert torch.equal(torch.get_rng_state(), before)
    assert losses
    assert all(torch.isfinite(loss) and loss.shape == () for loss in losses.values())


def test_logit_norm_s_gradient_has_no_part_along_the_logits() -> None:
    """The loss depends on the direction of the logits alone, so that training cannot gain by longer ones."""
    values = np.random.default_rng(0).normal(size=(20, 5)) * 10
    logits = torch.from_numpy(values).requires_grad_()
    torch.nn.functional.cross_entropy(normalised(logits, 0.04), torch.arange(20) % 5, reduction="sum").backward()
    assert logits.grad is not None
    along = (logits.grad * logits).sum(dim=1) / logits.norm(dim=1) / logits.grad.norm(dim=1)
    assert along.abs().max() < 1e-6
    direction = values / np.linalg.norm(values, axis=1, keepdims=True)
    p = softmax(direction / 0.04)
    outer = (p - np.eye(5)[np.arange(20) % 5]) / 0.04
    expected = (outer - (outer * direction).sum(axis=1, keepdims=True) * direction) / np.linalg.norm(
        values, axis=1, keepdims=True
    )
    assert logits.grad.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_logit_norm_of_zero_logits_is_finite() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    normalised(logits, 0.04).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# how the classifier is trained apart from the loss


class AnySize(SmallNet16):
    """A network that takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 36, 5, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Plain(LossRecipe):
    """Cross-entropy; notes the sides of the images that it gets."""

    def losses(self, training: Training, given: TrainBatch) -> Any:
        assert given.outliers is None or given.outliers.shape == given.images.shape
        self.sides_ = [*self.__dict__.get("sides_", []), tuple(given.images.shape[2:])]
        loss = torch.nn.functional.cross_entropy(training.networks["classifier"](given.images), given.labels)
        return Losses(loss, {"loss": loss})


@pytest.mark.parametrize(
    ("like", "growth", "sides"),
    [
        ("cross_entropy", {}, [16] * 4),
        ("standard", {}, [16] * 4),
        ("one_cycle", {}, [16] * 4),
        ("one_cycle", {"low_side": 0.5, "low_until": 0.7}, [8, 12, 12, 16]),
    ],
)
@pytest.mark.parametrize("with_outliers", [False, True])
def test_with_plain_cross_entropy_a_step_is_that_of_the_other_recipe(
    like: str, growth: dict[str, float], sides: list[int], with_outliers: bool
) -> None:
    """Optimizer, rates, augmentation and the size of images are those of the recipe that `like` names, with the same
    random numbers; outliers have the size of the images."""
    smoothing = {"label_smoothing": 0} if like == "one_cycle" else {}
    ours, theirs = Plain(like=like, **growth), registry.get("recipe", like)(**smoothing, **growth)
    one, other = start(ours, AnySize), start(theirs, AnySize)
    for step, progress in enumerate((0.0, 0.2, 0.5, 0.9)):
        given = batch(step)
        if with_outliers and like != "cross_entropy":  # they draw random numbers, after those of the images
            one.generator.manual_seed(step)
            other.generator.manual_seed(step)
        ours.step(one._replace(progress=progress), given if with_outliers else given._replace(outliers=None))
        theirs.step(other._replace(progress=progress), given._replace(outliers=None))
    for a, b in zip(one.networks["classifier"].parameters(), other.networks["classifier"].parameters(), strict=True):
        assert torch.equal(a, b)
    assert ours.sides_ == [(side, side) for side in sides]


def test_growing_images_need_the_right_regime_and_network() -> None:
    with pytest.raises(ValueError, match=r"low_side is a setting of like=one_cycle, got 0\.5 with like=standard"):
        Plain(like="standard", low_side=0.5)
    with pytest.raises(ValueError, match=r"low_side must be in \(0, 1\], got 0"):
        Plain(like="one_cycle", low_side=0.0)
    with pytest.raises(DataError, match=r"trains on images of 8 x 8 pixels first, which this\s+backbone does not take"):
        start(Plain(like="one_cycle", low_side=0.5))


@pytest.mark.parametrize("name", [*EXPECTED, *ELSEWHERE])
def test_settings_are_checked(name: str) -> None:
    make = registry.get("recipe", name)
    with pytest.raises(ValueError, match="like must be one of cross_entropy, standard, one_cycle, got 'sgd'"):
        make(like="sgd")
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="learning_rate must be positive and finite, got"):
            make(learning_rate=rate)
    assert make(like="standard").model.settings["learning_rate"] == (0.001 if name.endswith("_finetune") else 0.1)
    assert make(like="standard", learning_rate=0.3).model.settings["learning_rate"] == 0.3


@pytest.mark.parametrize(
    ("name", "setting"),
    [("logitnorm", "tau"), ("t2fnorm", "tau"), ("regmixup", "alpha"), ("mixoe", "alpha"), ("mixoe", "beta")],
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_and_shapes_must_be_positive(name: str, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive and finite, got"):
        registry.get("recipe", name)(**{setting: value})


@pytest.mark.parametrize("name", ["outlier_exposure", "outlier_exposure_finetune", "energy_finetune", "mixoe"])
@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_weights_must_not_be_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="weight must be 0 or more, and finite, got"):
        registry.get("recipe", name)(weight=value)


def test_other_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="mix must be cutmix or mixup, got 'cut'"):
        registry.get("recipe", "mixoe")(mix="cut")
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"quantile must be in \[0, 1\], got"):
            registry.get("recipe", "energy_finetune")(quantile=value)


@pytest.mark.parametrize("name", ["outlier_exposure", "outlier_exposure_finetune", "energy_finetune", "mixoe"])
def test_outliers_are_needed(name: str) -> None:
    recipe: Recipe = registry.get("recipe", name)()
    assert recipe.needs == {"outliers"}
    with pytest.raises(ValueError, match=f"recipe '{name}' got a batch without outliers"):
        recipe.step(start(recipe), batch()._replace(outliers=None))


# outlier exposure and the confidence loss


@pytest.mark.parametrize("normalised", [False, True])
def test_outlier_exposure_has_the_gradient_of_the_confidence_loss(normalised: bool) -> None:
    """CE(U, p) = KL(U || p) + log K: with beta = weight, both train the same classifier."""
    networks = []
    for name in ("outlier_exposure[weight=0.5]", "confidence[beta=0.5]"):
        recipe = create("recipe", parse_spec(name))
        training = start(recipe, lambda: SmallNet16(normalised))
        for step in range(3):
            losses = recipe.step(training, batch(step))
        networks.append((training.networks["classifier"], losses))
    (ours, logged), (theirs, other) = networks
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert float(logged["cross_entropy_to_uniform"] - other["kl_to_uniform"]) == pytest.approx(np.log(CLASSES))


# fine-tuning


@pytest.mark.parametrize("name", ["outlier_exposure_finetune", "energy_finetune"])
def test_fine_tuning_starts_from_the_given_classifier_once(name: str) -> None:
    recipe: Recipe = registry.get("recipe", name)(learning_rate=1e-9)
    training = start(recipe)
    given, network = training.given["classifier"], training.networks["classifier"]
    before = {key: value.clone() for key, value in given.state_dict().items()}
    assert not torch.allclose(network.head.weight, given.head.weight)  # type: ignore[arg-type, union-attr]
    for step in range(3):
        recipe.step(training, batch(step))
    for key, value in network.state_dict().items():
        assert torch.allclose(value, before[key], rtol=0, atol=1e-7), key
        assert not torch.equal(value, before[key]), key
        assert torch.equal(given.state_dict()[key], before[key]), key
    assert recipe.state()["started_"]


@pytest.mark.parametrize("name", ["outlier_exposure_finetune", "energy_finetune"])
def test_fine_tuning_needs_a_classifier_to_start_from(name: str) -> None:
    recipe: Recipe = registry.get("recipe", name)(builds_on="gan")
    training = start(recipe)._replace(given={})
    with pytest.raises(ValueError, match="builds_on must be a recipe that trains a classifier, got 'gan'"):
        recipe.step(training, batch())


def test_margins_are_quantiles_of_the_pretrained_energies() -> None:
    recipe: Any = registry.get("recipe", "energy_finetune")()
    training = start(recipe)
    energies: list[list[float]] = [[], []]
    for step in range(200):
        given = batch(step)
        losses = recipe.step(training, given)
        for images, seen in zip((given.images, given.outliers), energies, strict=True):
            logits = training.given["classifier"](images).detach().numpy()
            seen += list(-np.log(np.exp(logits).sum(axis=1)))
        inside, outside = (np.array(seen[:1024]) for seen in energies)
        if step in (0, 9, 199):
            assert float(losses["m_in"]) == pytest.approx(np.quantile(inside, 0.1))
            assert float(losses["m_out"]) == pytest.approx(np.quantile(outside, 0.9))
    assert len(energies[0]) > 1024
    assert len(recipe.state()["inside_"]) == 1026  # the batch in which there were enough


# features of unit length


def test_t2fnorm_s_head_makes_logits_of_features() -> None:
    """In training as at test time; there without the normalisation, and with the weight divided by tau."""
    recipe: Recipe = registry.get("recipe", "t2fnorm")()
    training = start(recipe)
    network: Any = training.networks["classifier"]
    recipe.step(training, batch())
    images, original = batch().images, network.head.parametrizations.weight.original
    features = network.features(images)
    unit = features / features.norm(dim=1, keepdim=True)
    assert torch.allclose(network(images), unit @ original.T / 0.1 + network.head.bias, rtol=0, atol=1e-10)
    network.eval()
    expected = features @ original.T / 0.1 + network.head.bias
    for logits in (network(images), network.head(features), features @ network.head.weight.T + network.head.bias):
        assert torch.allclose(logits, expected, rtol=0, atol=1e-10)


def test_t2fnorm_needs_a_linear_head() -> None:
    recipe: Recipe = registry.get("recipe", "t2fnorm")()
    with pytest.raises(DataError, match="normalises the input of a linear head, and this backbone has none"):
        start(recipe, lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)))


# mixtures


@pytest.mark.parametrize(("a", "b"), [(10.0, 10.0), (0.1, 1.0)])
def test_shares_have_the_beta_distribution(a: float, b: float) -> None:
    random = torch.Generator().manual_seed(0)
    shares = np.array([float(draw_beta(a, b, random)) for _ in range(2000)])
    assert scipy.stats.kstest(shares, scipy.stats.beta(a, b).cdf).pvalue > 0.01


def test_mixup_of_outliers_is_a_weighted_mean() -> None:
    recipe: Any = registry.get("recipe", "mixoe")(mix="mixup", alpha=1.0)
    given = batch()
    assert given.outliers is not None
    mixed, share = recipe.mixtures(given.images, given.outliers, torch.Generator().manual_seed(3))
    assert 0.01 < float(share) < 0.99
    assert torch.allclose(mixed, share * given.images + (1 - share) * given.outliers, rtol=0, atol=1e-12)
