"""Learned confidence, against the authors' computation with probabilities, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Task, TrainBatch, Training, WithOutputs
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import NAMED
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._loss_recipe import Losses
from oodbench.detectors.learned_confidence import (
    LearnedConfidence,
    LearnedConfidenceLoss,
    PerturbedLearnedConfidence,
    cut_out,
    hinted_losses,
)
from tests.detectors.recipe_setups import BATCH, CLASSES, SmallNet16
from tests.stages.planted_sets import PLANTED_MATRIX, PLANTED_TRAINING, register_planted
from tests.support import run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(SmallNet16):
    """A small network, with another head if one is given."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.head = head or self.head


def batch(seed: int) -> TrainBatch:
    images = torch.rand(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return TrainBatch(images, torch.arange(BATCH) % CLASSES, None)


def start(recipe: LearnedConfidenceLoss) -> Training:
    torch.manual_seed(0)
    networks = recipe.networks(Task(CLASSES, (3, 16, 16), Net))
    optimizers: dict[str, torch.optim.Optimizer] = {
        "classifier": torch.optim.SGD(networks["classifier"].parameters(), lr=0.1)
    }
    return Training(networks, optimizers, {}, torch.Generator().manual_seed(5))


def released_losses(network: nn.Module, given: TrainBatch, hinted: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses as the authors' code computes them: with probabilities, one-hot labels and limits of 1e-12."""
    assert isinstance(network, WithOutputs)
    features = network.features(given.images)
    exp = torch.exp(network.head(features))
    p = (exp / exp.sum(dim=1, keepdim=True)).clamp(1e-12, 1 - 1e-12)
    c = (1 / (1 + torch.exp(-network.branches["confidence"](features)))).clamp(1e-12, 1 - 1e-12)
    conf = torch.where(hinted[:, None], c, torch.ones_like(c))
    target = torch.eye(CLASSES)[given.labels]
    mixed = p * conf + target * (1 - conf)
    return -(target * torch.log(mixed)).sum(dim=1).mean(), (-torch.log(c)).mean()


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("budget", [0.3, 1.2])
def test_steps_descend_on_the_released_loss_and_lambda_follows_the_budget(budget: float) -> None:
    recipe = LearnedConfidenceLoss(budget=budget)
    training = start(recipe)
    network, weight, random = training.networks["classifier"], 0.1, torch.Generator().manual_seed(5)
    for step in range(4):
        plain = copy.deepcopy(network)
        hinted = torch.rand(BATCH, generator=random) < 0.5
        assert 0 < hinted.sum() < BATCH
        classified, price = released_losses(plain, batch(step), hinted)
        gradients = torch.autograd.grad(classified + weight * price, tuple(plain.parameters()))
        logged = recipe.step(training, batch(step))
        assert float(logged["cross_entropy"]) == pytest.approx(classified.item(), rel=1e-9)
        assert float(logged["confidence"]) == pytest.approx(price.item(), rel=1e-9)
        assert float(logged["lambda"]) == pytest.approx(weight, rel=1e-12)
        for before, after, gradient in zip(plain.parameters(), network.parameters(), gradients, strict=True):
            assert torch.allclose(after, before - 0.1 * gradient, rtol=0, atol=1e-12)
            assert gradient.abs().max() > 1e-9
        weight = weight / 1.01 if budget > price.item() else weight / 0.99
    assert weight < 0.1 if budget > 1 else weight > 0.1
    assert float(recipe.lambda_) == pytest.approx(weight, rel=1e-12)


def test_losses_of_certain_predictions_are_finite_and_have_gradients() -> None:
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    raw = torch.tensor([50.0, -300.0, 0.0], requires_grad=True)
    labels, hinted = torch.tensor([1, 1, 0]), torch.tensor([True, True, False])
    losses = hinted_losses(logits, raw, labels, hinted)
    assert losses.tolist() == pytest.approx([50.0, 0.0, np.log(2)], abs=1e-6)
    losses.sum().backward()
    assert raw.grad is not None
    assert logits.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert torch.isfinite(logits.grad).all()
    assert raw.grad[0] == pytest.approx(1.0), "a lower confidence lowers the loss of a wrong prediction"


def holed(images: np.ndarray, side: int, centres: list[tuple[int, int]]) -> np.ndarray:
    """The authors' cutout, image by image, with the mean colour of the batch in the holes."""
    result: np.ndarray = images.copy()
    mean = images.mean(axis=(0, 2, 3))
    for image, (row, column) in zip(result, centres, strict=True):
        top, bottom = (min(max(row + by, 0), image.shape[1]) for by in (-(side // 2), side // 2))
        left, right = (min(max(column + by, 0), image.shape[2]) for by in (-(side // 2), side // 2))
        image[:, top:bottom, left:right] = mean[:, None, None]
    return result


@pytest.mark.parametrize("side", [2, 7, 8, 40])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 12)])
def test_cutout_is_the_authors_hole_by_hole(side: int, shape: tuple[int, int, int]) -> None:
    images = torch.rand(32, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(4)
    rows, columns = (torch.randint(0, length, (32, 1), generator=random).flatten().tolist() for length in shape[1:])
    expected = holed(images.numpy(), side, list(zip(rows, columns, strict=True)))
    found = cut_out(images, side, torch.Generator().manual_seed(4))
    assert found.numpy() == pytest.approx(expected, rel=1e-12)
    assert len(set(rows)) > shape[1] // 2


class Noting(LearnedConfidenceLoss):
    """Keeps the images that the loss is computed from."""

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        self.seen_ = batch.images
        return super().losses(training, batch)


def test_a_step_sees_holes_only_if_they_are_asked_for() -> None:
    plain, cut = Noting(), Noting(cutout=8)
    for recipe in (plain, cut):
        recipe.step(start(recipe), batch(0))
    assert torch.equal(plain.seen_, batch(0).images)
    assert torch.equal(cut.seen_, cut_out(plain.seen_, 8, torch.Generator().manual_seed(5)))
    assert (cut.seen_ != plain.seen_).flatten(1).any(dim=1).all()


def test_hints_are_drawn_for_about_half_of_the_images_from_the_generator() -> None:
    recipe = LearnedConfidenceLoss()
    training = start(recipe)
    before = torch.get_rng_state()
    recipe.step(training, batch(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(training.generator.get_state(), torch.Generator().manual_seed(5).get_state())


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("budget", 0.0, "budget must be positive and finite, got 0"),
        ("first_lambda", float("inf"), "first_lambda must be positive and finite, got inf"),
        ("cutout", -1, "cutout is the side of a hole in pixels, 0 for none; got -1"),
        ("hints", 1.5, "hints is the share of images that get one, above 0 and at most 1; got 1.5"),
    ],
)
def test_settings_of_the_recipe_are_checked(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.get("recipe", "learned_confidence")(**{setting: value})


def test_the_recipe_needs_a_linear_head() -> None:
    task = Task(CLASSES, (3, 16, 16), lambda: Net(nn.Sequential(nn.Linear(36, CLASSES))))
    with pytest.raises(DataError, match="adds a unit beside a linear head, and this backbone has none"):
        LearnedConfidenceLoss().networks(task)


# Detectors


def named_batch(raw: Tensor) -> Batch:
    return Batch(len(raw), {NAMED + "confidence": raw[:, None].__getitem__}, "learned_confidence")


def test_the_score_is_one_minus_the_confidence_and_does_not_tie() -> None:
    raw = torch.tensor([-2.0, 0.0, 3.0, 20.0, 40.0], dtype=torch.float64)
    scores = LearnedConfidence().score(named_batch(raw))
    expected = 1 - 1 / (1 + np.exp(-raw.numpy()))
    assert scores.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert len(set(scores.tolist())) == 5
    assert (scores.diff() < 0).all()
    confidence = LearnedConfidence().confidence_of(scores.numpy())
    assert confidence == pytest.approx(1 - expected, rel=1e-6)
    assert confidence.dtype == np.float32


def network_batch(images: Tensor) -> Batch:
    """Images as the detector of perturbed images reads them, under a small network in float64."""
    torch.manual_seed(1)
    network = WithOutputs(Net(), confidence=nn.Linear(36, 1)).double()
    parts = {"images": lambda rows: images[rows].clone()}
    return Batch(len(images), parts, "learned_confidence_perturbed", Classifier(network, CLASSES))


def test_perturbed_images_are_a_step_towards_confidence() -> None:
    images = torch.rand(5, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given, epsilon = network_batch(images), 0.01
    network = given.classifier.network
    assert isinstance(network, WithOutputs)

    def confidence(of: Tensor) -> Tensor:
        return torch.sigmoid(network.branches["confidence"](network.features(of))[:, 0])

    moved = images.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(-torch.log(confidence(moved)).sum(), moved)
    expected = 1 - confidence(images - epsilon * slope.sign())
    scores = PerturbedLearnedConfidence(epsilon=epsilon).score(given)
    assert scores == pytest.approx(expected, rel=1e-9)
    unmoved = PerturbedLearnedConfidence(epsilon=0.0).score(given)
    assert unmoved == pytest.approx(1 - confidence(images), rel=1e-9)
    assert (scores < unmoved).all()
    with pytest.raises(ValueError, match="epsilon is a step in units of pixels from 0 to 1"):
        PerturbedLearnedConfidence(epsilon=-0.1)


def test_runs_give_the_score_passes_and_how_well_it_finds_the_classifier_s_errors(
    tmp_path: Path, register: Callable[[str, type[Plugin]], None]
) -> None:
    register_planted(register, (3, 8, 8))
    suite = write_suite(tmp_path, PLANTED_MATRIX, training=PLANTED_TRAINING)
    labels = ["learned_confidence", "learned_confidence_perturbed[epsilon=0.0]", "vim@learned_confidence"]
    run = run_suite(suite, labels, metrics="extended")
    assert {record.status for record in run.records} == {"ok"}
    scores = {
        record.label: np.load(run.path.parents[1] / "cache" / record.artifacts["ood_scores"])
        for record in run.records
        if record.ood_set == "planted-far"
    }
    assert scores[labels[1]] == pytest.approx(scores[labels[0]], abs=1e-6), "stored outputs are those of the network"
    assert 0 < scores[labels[0]].min() <= scores[labels[0]].max() < 1
    for record in run.records:
        assert record.id_accuracy is not None
        assert "aurc" in record.extended
    passes = {record.label: record.forward_images for record in run.records if record.ood_set == "planted-far"}
    assert passes == {labels[0]: 24, labels[1]: 2 * 24, labels[2]: 0}, "the shared pass is the first row's"
