"""VOS: its loss, its queues, and the distribution of virtual outliers, against independent computations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._gaussian_edge import chi_square_quantiles, edge_samples, largest_tails, shared_factor
from oodbench.detectors._loss_recipe import REGIMES
from oodbench.detectors.vos import WeightedEnergy
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet16
from tests.detectors.test_loss_recipes import batch, cross_entropy, one_hot, start

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

SAMPLES = 10_000


def make(**settings: Any) -> Any:
    return registry.get("recipe", "vos")(**settings)


class Queues:
    """The latest features of each class, as lists."""

    def __init__(self, length: int) -> None:
        self.rows: list[list[np.ndarray]] = [[] for _ in range(CLASSES)]
        self.length = length

    def add(self, features: Tensor, labels: Tensor) -> None:
        for row, label in zip(features.detach().numpy(), labels.tolist(), strict=True):
            self.rows[label] = [*self.rows[label], row][-self.length :]

    def gaussians(self) -> tuple[np.ndarray, np.ndarray]:
        means = np.array([np.mean(rows, axis=0) for rows in self.rows])
        centred = np.concatenate([rows - mean for rows, mean in zip(self.rows, means, strict=True)])
        return means, centred.T @ centred / len(centred) + 1e-4 * np.eye(centred.shape[1])


def virtual_outliers(queues: Queues, random: torch.Generator) -> Tensor:
    """One of each class, at the radius of the largest of 10,000 samples."""
    means, covariance = queues.gaussians()
    size = means.shape[1]
    directions = torch.randn(CLASSES, 1, size, generator=random, dtype=torch.float64).numpy()[:, 0]
    largest = torch.rand(CLASSES, 1, generator=random, dtype=torch.float64).numpy()[:, 0] ** (1 / SAMPLES)
    radii = np.sqrt(scipy.stats.chi2.ppf(largest, size))
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(means + radii[:, None] * units @ np.linalg.cholesky(covariance).T)


def expected(given: TrainBatch, classifier: Any, outliers: Tensor) -> Tensor:
    """CE + 0.1 CE of the regression, from the definitions."""
    energy = classifier.weighted_energy
    logits = classifier(given.images)
    both = torch.cat([logits, classifier.head(outliers)])
    values = torch.log((torch.clamp(energy.weight, min=0) * torch.exp(both)).sum(dim=1))
    answers = energy.logistic(values[:, None])
    targets = torch.eye(2)[[1] * len(logits) + [0] * len(outliers)]
    return cross_entropy(logits, one_hot(given.labels)) + 0.1 * cross_entropy(answers, targets)


def test_a_step_descends_on_the_paper_s_loss() -> None:
    """Classifier, class weights and regression, with queues that fill up and then lose their oldest features."""
    recipe, random, queues = make(queue=4, start=0.5), torch.Generator().manual_seed(5), Queues(4)
    training = start(recipe)
    network: Any = training.networks["classifier"]
    energy = list(network.weighted_energy.parameters())
    others = [weight for weight in network.parameters() if all(weight is not one for one in energy)]
    training.optimizers["classifier"] = torch.optim.SGD(others, lr=0.1)
    training.optimizers["weighted_energy"] = torch.optim.SGD(energy, lr=0.1)
    for step, progress in enumerate((0.0, 0.4, 0.5, 0.9)):
        given = batch(step)
        plain = copy.deepcopy(network)
        queues.add(plain.features(given.images), given.labels)
        if progress < 0.5:
            loss = cross_entropy(plain(given.images), one_hot(given.labels))
        else:
            loss = expected(given, plain, virtual_outliers(queues, random))
        gradients = torch.autograd.grad(loss, tuple(plain.parameters()), allow_unused=True)
        logged = recipe.step(training._replace(progress=progress), given)
        assert (float(logged["virtual_outliers"]) > 0) == (progress >= 0.5)
        for old, new, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            if gradient is None:
                assert progress < 0.5
                assert torch.equal(new, old)
            else:
                assert torch.allclose(new, old - 0.1 * gradient, rtol=0, atol=1e-9)
                assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("length", [2, 3, 100])
def test_queues_hold_the_latest_features_of_each_class(length: int) -> None:
    """Also if a batch has more images of a class than a queue, and if a class is missing."""
    recipe, queues = make(queue=length), Queues(length)
    random = torch.Generator().manual_seed(0)
    for step in range(12):
        features = torch.rand(9, 5, generator=random)
        labels = torch.full((9,), 2) if step == 5 else torch.randint(0, CLASSES - (step < 5), (9,), generator=random)
        recipe.remember(features, labels, CLASSES)
        queues.add(features, labels)
        for label, rows in enumerate(queues.rows):
            held = recipe.features_[label, : min(length, int(recipe.counts_[label]))].tolist()
            assert sorted(held) == sorted(row.tolist() for row in rows)


def test_means_and_covariance_are_those_of_the_members() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(CLASSES, 7, 4, generator=random)
    members = torch.arange(7) < torch.tensor([[7], [1], [4]])
    queues = Queues(7)
    for label, (rows, there) in enumerate(zip(features, members, strict=True)):
        queues.add(rows[there], torch.full((int(there.sum()),), label))
    means, covariance = queues.gaussians()
    ours, factor = shared_factor(features, members)
    assert ours.numpy() == pytest.approx(means)
    assert (factor @ factor.T).numpy() == pytest.approx(covariance)


def test_classes_that_have_not_been_seen_have_no_virtual_outliers() -> None:
    recipe = make(select=2, draws=50)
    recipe.remember(torch.rand(4, 5), torch.tensor([0, 2, 2, 0]), CLASSES)
    outliers = recipe.virtual_outliers(torch.Generator().manual_seed(0))
    assert outliers.shape == (4, 5)
    assert torch.isfinite(outliers).all()


@pytest.mark.parametrize("size", [1, 2, 16])
def test_virtual_outliers_are_the_least_likely_of_all_samples(size: int) -> None:
    """As drawing all samples and keeping those of the smallest density, in their density and in their direction."""
    draws, select, rounds = 50, 3, 1000
    random = np.random.default_rng(0)
    factor = np.linalg.cholesky(np.cov(random.normal(size=(size, 3 * size + 5)) @ random.normal(size=(3 * size + 5, 40))
                                       ).reshape(size, size) + np.eye(size))  # fmt: skip
    plain = []
    for _ in range(rounds):
        samples = random.normal(size=(draws, size))
        plain.append(samples[np.argsort(-(samples**2).sum(axis=1))[:select]] @ factor.T)
    ours = edge_samples(
        torch.zeros(rounds, size), torch.from_numpy(factor), draws, select, torch.Generator().manual_seed(0)
    ).reshape(rounds, select, size)
    axis = random.normal(size=size)
    for place in range(select):
        theirs, mine = np.array(plain)[:, place], ours[:, place].numpy()
        for one, other in ((theirs @ axis, mine @ axis), [np.linalg.norm(v, axis=1) for v in (theirs, mine)]):
            assert scipy.stats.ks_2samp(one, other).pvalue > 0.01


def test_radii_are_quantiles_of_the_chi_square_distribution() -> None:
    tails = torch.tensor([0.999999, 0.5, 1e-3, 1e-5, 1e-15, 1e-300])
    for degrees in (1, 2, 64, 2048):
        ours = chi_square_quantiles(tails, degrees).numpy()
        assert ours == pytest.approx(scipy.stats.chi2.isf(tails.numpy(), degrees), rel=1e-9)


def test_tails_are_those_of_the_largest_uniform_numbers() -> None:
    tails = largest_tails(2000, 30, 2, torch.Generator().manual_seed(0)).numpy()
    assert (tails[:, 0] < tails[:, 1]).all()
    for place in range(2):
        order = scipy.stats.beta(place + 1, 30 - place)  # of the smallest, and of the second smallest, of 30
        assert scipy.stats.kstest(tails[:, place], order.cdf).pvalue > 0.01


def test_the_energy_is_finite_if_the_likely_class_has_no_weight() -> None:
    energy = WeightedEnergy(3)
    with torch.no_grad():
        energy.weight.copy_(torch.tensor([-1.0, 2.0, 3.0]))
    logits = torch.tensor([[2000.0, 0.0, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    values = energy.energies(logits)
    assert torch.isfinite(values).all()
    assert float(values[1].detach()) == pytest.approx(np.log(2 * np.e + 3 * np.e**2))
    values.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("like", REGIMES)
def test_the_energy_is_trained_like_the_classifier(like: str) -> None:
    """By an optimizer of the same kind, at the same rate, which leaves its weights alone before `start`."""
    recipe = make(start=0.5, like=like)
    training: Training = start(recipe)
    network: Any = training.networks["classifier"]
    energy = network.weighted_energy
    (theirs, ours) = (training.optimizers[name] for name in ("classifier", "weighted_energy"))
    assert type(ours) is type(theirs)
    held = [{id(w) for group in one.param_groups for w in group["params"]} for one in (theirs, ours)]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(weight) for weight in network.parameters()}
    before = [weight.clone() for weight in energy.parameters()]
    for step, progress in enumerate((0.2, 0.7, 0.8)):
        recipe.step(training._replace(progress=progress), batch(step))
        assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]
        pairs = list(zip(before, energy.parameters(), strict=True))
        assert all(torch.equal(old, new) == (step == 0) for old, new in pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be 0 or more, and finite, got -1.0"),
        ({"queue": 1}, "queue must be 2 or more, got 1"),
        ({"start": 1.5}, r"start must be in \[0, 1\], got 1.5"),
        ({"start": float("nan")}, r"start must be in \[0, 1\], got nan"),
        ({"select": 0}, r"select must be from 1 to draws \(10000\), got 0"),
        ({"select": 6, "draws": 5}, r"select must be from 1 to draws \(5\), got 6"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_classifier_sees_each_image_once() -> None:
    """Virtual outliers go through the head alone, so that a step costs one pass."""
    training = start(make(start=0.0))
    seen: list[int] = []
    training.networks["classifier"].body.register_forward_hook(  # type: ignore[union-attr]
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    recipe = make(start=0.0)
    recipe.step(training, batch())
    assert isinstance(training.networks["classifier"], SmallNet16)
    assert seen == [BATCH]
