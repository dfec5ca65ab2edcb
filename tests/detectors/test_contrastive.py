"""Supervised contrastive learning and CIDER, against independent float64 loops over images and classes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._contrastive import Contrastive, contrastive
from oodbench.detectors._loss_recipe import REGIMES
from oodbench.detectors._views import Augmentation, draw, view
from oodbench.detectors.cider import WithPrototypes, compactness, dispersion
from tests.detectors.contrastive_setups import supervised, unit
from tests.detectors.recipe_setups import CLASSES, SmallNet16

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

BATCH, WIDTH = 7, 5
NAMES = ["supcon", "cider"]


def batch(seed: int = 1, labels: Tensor | None = None) -> TrainBatch:
    images = torch.rand(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return TrainBatch(images, torch.arange(BATCH) % CLASSES if labels is None else labels, None)


def make(name: str, **settings: Any) -> Contrastive:
    recipe = registry.get("recipe", name)(projection=WIDTH, **settings)
    assert isinstance(recipe, Contrastive)
    return recipe


def start(recipe: Recipe) -> Training:
    torch.manual_seed(0)
    networks = recipe.networks(Task(CLASSES, (3, 16, 16), SmallNet16))
    return Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5))


def with_prototypes(
    z: list[Tensor], labels: list[int], kept: list[Tensor | None], weight: float, momentum: float, t: float
) -> tuple[Tensor, list[Tensor | None]]:
    """Ming et al., eqs. 5 to 7, prototypes moved image by image as in their code."""
    moved = list(kept)
    for k in range(CLASSES):
        own = [vector for vector, label in zip(z, labels, strict=True) if label == k]
        if kept[k] is None and own:
            moved[k] = unit(torch.stack(own).sum(dim=0)).detach()
    for vector, label in zip(z, labels, strict=True):
        before = moved[label]
        assert before is not None
        moved[label] = unit(momentum * before + (1 - momentum) * vector)
    there = {k: prototype for k, prototype in enumerate(moved) if prototype is not None}
    compact = torch.zeros(())
    for vector, label in zip(z, labels, strict=True):
        below = sum(torch.exp(vector @ mu.detach() / t) for mu in there.values())
        compact = compact - torch.log(torch.exp(vector @ there[label].detach() / t) / below)
    apart = torch.zeros(())
    for k, mu in there.items():
        others = [torch.exp(mu @ there[j] / t) for j in there if j != k]
        apart = apart + torch.log(torch.stack(others).sum() / (len(there) - 1))
    loss = weight * compact / len(z) + apart / len(there)
    return loss, [None if prototype is None else prototype.detach() for prototype in moved]


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2, 0], [0, 0, 0, 0, 1, 1, 1]], ids=["all classes", "two of them"])
@pytest.mark.parametrize(("name", "settings"), [("supcon", {}), ("cider", {}), ("cider", {"momentum": 0.9})])
def test_a_step_descends_on_the_paper_s_loss(name: str, settings: dict[str, Any], labels: list[int]) -> None:
    recipe = make(name, **settings)
    training = start(recipe)
    networks = training.networks
    parameters = [*networks["classifier"].parameters(), *networks["projection"].parameters()]
    training.optimizers["classifier"] = torch.optim.SGD(parameters, lr=0.1)
    twin = copy.deepcopy(networks)
    random = torch.Generator().manual_seed(5)
    prototypes: list[Tensor | None] = [None] * CLASSES
    for step in range(3):
        given = batch(step, torch.tensor(labels))
        seen = view(given.images.repeat(2, 1, 1, 1), draw(2 * BATCH, Augmentation(0.2), random))
        features = twin["classifier"].features(seen)  # type: ignore[operator]
        one, _, two = twin["projection"].layers  # type: ignore[misc]
        z = [unit(two.weight @ torch.clamp(one.weight @ f + one.bias, min=0) + two.bias) for f in features]
        if name == "supcon":
            loss = supervised(z, labels * 2, 0.1)
        else:
            loss, prototypes = with_prototypes(z, labels * 2, prototypes, 2.0, settings.get("momentum", 0.5), 0.1)
        head = twin["classifier"].head
        logits = features.detach() @ head.weight.T + head.bias  # type: ignore[union-attr]
        ce = -torch.log_softmax(logits, dim=1)[torch.arange(2 * BATCH), torch.tensor(labels * 2)].mean()
        own = [*twin["classifier"].parameters(), *twin["projection"].parameters()]
        gradients = torch.autograd.grad(loss + ce, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        logged = recipe.step(training, given)
        assert float(logged["cross_entropy"]) == pytest.approx(float(ce.detach()), abs=1e-12)
        assert all(value.shape == () and not value.requires_grad for value in logged.values())
        for ours, theirs in zip(parameters, own, strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)
        assert min(gradient.abs().max() for gradient in gradients) > 1e-7
        if name == "cider":
            stored = networks["projection"].get_buffer("prototypes")
            for row, prototype in zip(stored, prototypes, strict=True):
                assert torch.allclose(row, torch.zeros(WIDTH) if prototype is None else prototype, rtol=0, atol=1e-12)


def test_with_pairs_of_views_the_loss_is_that_of_simclr() -> None:
    z = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(2)), dim=1)
    expected = torch.zeros(())
    for i in range(8):
        pair = (i + 4) % 8
        below = sum(torch.exp(z[i] @ z[a] / 0.5) for a in range(8) if a != i)
        expected = expected - torch.log(torch.exp(z[i] @ z[pair] / 0.5) / below) / 8
    assert float(contrastive(z, torch.arange(4).repeat(2), 0.5)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_learns_without_moving_the_features(name: str) -> None:
    """The gradient of its cross-entropy ends at the head."""
    recipe = make(name)
    training = start(recipe)
    given = batch()
    losses = recipe.losses(training, given._replace(images=recipe.augmented(given.images, training)))
    losses.parts["cross_entropy"].backward()
    network = training.networks["classifier"]
    assert all(weight.grad is not None for weight in network.head.parameters())  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in network.body.parameters())  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in training.networks["projection"].parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("like", REGIMES)
def test_steps_draw_from_the_given_generator_alone(name: str, like: str) -> None:
    recipe = make(name, like=like)
    training = start(recipe)
    before = torch.get_rng_state()
    losses = recipe.step(training, batch())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.isfinite(loss) and loss.shape == () for loss in losses.values())


@pytest.mark.parametrize(("like", "flips"), [("cross_entropy", False), ("standard", True), ("one_cycle", True)])
def test_views_are_mirrored_where_the_other_recipe_mirrors(like: str, flips: bool) -> None:
    assert make("supcon", like=like).augmentation == Augmentation(0.2, flip=flips, jitter=0.4, grey=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_two_different_views_of_each_image(name: str) -> None:
    recipe = make(name, smallest_crop=0.95, jitter=0.1, grey=0.0)
    training = start(recipe)
    given = batch()
    assert recipe.shifted(given.images, training) is given.images
    one, two = recipe.augmented(given.images, training).chunk(2)
    for n in range(BATCH):
        assert (one[n] - two[n]).abs().max() > 0.01
        near = [(one[n] - other).abs().mean() for other in two]
        assert int(torch.stack(near).argmin()) == n


def test_one_optimizer_trains_all_three_parts() -> None:
    training = start(make("supcon", learning_rate=0.3, like="standard"))
    (optimizer,) = training.optimizers.values()
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert trained == {id(weight) for network in training.networks.values() for weight in network.parameters()}
    assert all(group["lr"] == 0.3 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_a_linear_head_is_refused(name: str) -> None:
    class NoHead(SmallNet16):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(36, CLASSES))

    with pytest.raises(DataError, match=f"Recipe '{name}' projects the features before a linear head"):
        make(name).networks(Task(CLASSES, (3, 16, 16), NoHead))


# prototypes


def test_a_class_that_was_not_seen_has_no_part_in_the_loss() -> None:
    head = WithPrototypes(4, WIDTH, CLASSES)
    z = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2)), dim=1)
    prototypes = head.moved(z, torch.tensor([0, 2, 0, 2]), 0.5)
    assert (prototypes[1] == 0).all()
    labels = torch.tensor([0, 1, 0, 1])
    two = prototypes[[0, 2]]
    assert torch.allclose(compactness(z, labels * 2, prototypes, 0.1), compactness(z, labels, two, 0.1))
    assert torch.allclose(dispersion(prototypes, 0.1), two[0] @ two[1] / 0.1)


def test_one_class_alone_has_no_dispersion() -> None:
    prototypes = torch.zeros(CLASSES, WIDTH)
    prototypes[1, 0] = 1
    prototypes.requires_grad_()
    loss = dispersion(prototypes, 0.1)
    assert loss == 0
    loss.backward()
    assert prototypes.grad is not None
    assert (prototypes.grad == 0).all()


@pytest.mark.parametrize(("views", "momentum"), [(49 * CLASSES, 0.5), (50 * CLASSES, 0.95)])
def test_the_momentum_follows_from_the_views_of_a_class(views: int, momentum: float) -> None:
    z = torch.nn.functional.normalize(torch.randn(views, WIDTH, generator=torch.Generator().manual_seed(2)), dim=1)
    labels = torch.arange(views) % CLASSES
    stored = []
    for setting in (None, momentum):
        recipe = make("cider", momentum=setting)
        training = start(recipe)
        recipe.contrast(training, z, labels)
        stored.append(training.networks["projection"].get_buffer("prototypes").clone())
    assert torch.equal(*stored)


@pytest.mark.parametrize("setting", ["temperature", "smallest_crop"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_and_crops_are_checked(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must"):
        registry.get("recipe", "supcon")(**{setting: value})


def test_other_settings_are_checked() -> None:
    for name in ("jitter", "grey"):
        for value in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got"):
                registry.get("recipe", "supcon")(**{name: value})
    with pytest.raises(ValueError, match="projection must be at least 2, got 1"):
        registry.get("recipe", "cider")(projection=1)
    for momentum in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), or none for the default's rule, got"):
            registry.get("recipe", "cider")(momentum=momentum)
    for weight in (-1.0, math.inf):
        with pytest.raises(ValueError, match="weight must be 0 or more, and finite, got"):
            registry.get("recipe", "cider")(weight=weight)
