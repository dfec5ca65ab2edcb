"""CSI's training and scores, against independent float64 loops over images, rotations and views."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, FitData, Task, TrainBatch, Training
from oodbench.detectors._shifts import transformed
from oodbench.detectors._views import Augmentation, Draws, draw, view
from oodbench.detectors.csi import CSI, CSILoss, ShiftedInstances
from tests.detectors.contrastive_setups import supervised, unit
from tests.detectors.recipe_setups import CLASSES, SmallNet16

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

COUNT, WIDTH, SIDE = 3, 4, 16
FORMS = ["unlabelled", "labelled"]


def start(recipe: CSILoss, classes: int = CLASSES) -> Training:
    torch.manual_seed(0)
    networks = recipe.networks(Task(classes, (3, SIDE, SIDE), SmallNet16))
    return Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5))


def network_of(training: Training) -> ShiftedInstances:
    network = training.networks["classifier"]
    assert isinstance(network, ShiftedInstances)
    return network


def images(count: int = COUNT, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def turned(image: Tensor, quarters: int) -> Tensor:
    """An image (C, H, W), turned counterclockwise pixel by pixel."""
    for _ in range(quarters):
        image = torch.stack([image[:, :, SIDE - 1 - row] for row in range(SIDE)], dim=1)
    return image


def cross_entropy(logits: Tensor, targets: list[int]) -> Tensor:
    rows = [torch.log(torch.exp(row).sum()) - row[k] for row, k in zip(logits, targets, strict=True)]
    return torch.stack(rows).mean()


# transformations


def test_rotations_are_quarter_turns() -> None:
    given = images()
    for k in range(4):
        for one, other in zip(given, transformed(given, "rotation", k), strict=True):
            assert torch.equal(other, turned(one, k))


def test_permutations_exchange_halves() -> None:
    given, half = images(), SIDE // 2
    top, bottom = given[:, :, :half], given[:, :, half:]
    quarters = [part for rows in (top, bottom) for part in (rows[..., :half], rows[..., half:])]
    for k, order in enumerate(([0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0])):
        a, b, c, d = (quarters[place] for place in order)
        expected = torch.cat([torch.cat([a, b], dim=3), torch.cat([c, d], dim=3)], dim=2)
        assert torch.equal(transformed(given, "permutation", k), expected)


@pytest.mark.parametrize("kind", ["rotation", "permutation"])
def test_the_first_transformation_changes_nothing(kind: str) -> None:
    assert torch.equal(transformed(images(), kind, 0), images())


# training


@pytest.mark.parametrize("shift", ["rotation", "permutation"])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_descends_on_the_paper_s_losses(form: str, shift: str) -> None:
    recipe = CSILoss(form=form, shift=shift, projection=WIDTH)
    training = start(recipe)
    network = network_of(training)
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.1)
    twin, random, labels = copy.deepcopy(network), torch.Generator().manual_seed(5), [0, 2, 0]
    for step in range(2):
        given = images(seed=step)
        shifted = [transformed(given[n : n + 1], shift, k) for _ in range(2) for k in range(4) for n in range(COUNT)]
        kinds = [k for _ in range(2) for k in range(4) for _ in range(COUNT)]
        classes = labels * 8
        seen = view(torch.cat(shifted), draw(8 * COUNT, Augmentation(0.08), random))
        features = twin.features(seen)
        projection = twin.branches["projection"]
        assert isinstance(projection, nn.Sequential)
        first, _, second = list(projection)
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        z = [unit(second.weight @ torch.clamp(first.weight @ f + first.bias, min=0) + second.bias) for f in features]
        pairs = [CLASSES * k + y for k, y in zip(kinds, classes, strict=True)]
        instances = [COUNT * k + n % COUNT for n, k in enumerate(kinds)]
        if form == "labelled":
            heads = features.detach()
            own = [n for n, k in enumerate(kinds) if k == 0]
            losses = [
                supervised(z, pairs, 0.5),
                cross_entropy(twin.branches["shift"](heads), kinds),
                cross_entropy(twin.branches["joint"](heads), pairs),
                cross_entropy(twin.head(heads[own]), [classes[n] for n in own]),
            ]
        else:
            losses = [supervised(z, instances, 0.5), cross_entropy(twin.branches["shift"](features), kinds)]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(twin.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * (gradient if gradient is not None else torch.zeros(())))
        logged = recipe.step(training, TrainBatch(given, torch.tensor(labels), None))
        assert [float(value) for value in logged.values()] == pytest.approx([float(one.detach()) for one in losses])
        for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)
        unused = sum(gradient is None for gradient in gradients)
        assert unused == (0 if form == "labelled" else 2), "without labels, the head alone is not trained"


def test_without_labels_they_change_nothing() -> None:
    weights = []
    for labels in ([0, 1, 2], [2, 2, 2]):
        recipe = CSILoss(projection=WIDTH)
        training = start(recipe)
        recipe.step(training, TrainBatch(images(), torch.tensor(labels), None))
        weights.append(torch.cat([weight.flatten() for weight in network_of(training).parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("like", ["cross_entropy", "standard"])
def test_steps_draw_from_the_given_generator_alone(form: str, like: str) -> None:
    recipe = CSILoss(form=form, like=like, projection=WIDTH)
    training = start(recipe)
    before = torch.get_rng_state()
    losses = recipe.step(training, TrainBatch(images(), torch.tensor([0, 1, 2]), None))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.isfinite(loss) and loss.shape == () for loss in losses.values())


def test_images_are_mirrored_before_they_are_rotated() -> None:
    """Of every image the four rotations show the same mirror image, or the same image."""
    recipe = CSILoss(like="standard", projection=WIDTH, smallest_crop=1.0, jitter=0.0, grey=0.0)
    given = images(count=12)
    seen = recipe.augmented(given, start(recipe)).view(2, 4, 12, 3, SIDE, SIDE)
    mirrored = 0
    for one in seen:
        for n in range(12):
            flipped = torch.allclose(one[0, n], given[n].flip(2), rtol=0, atol=1e-9)
            mirrored += flipped
            for k in range(4):
                expected = turned(given[n].flip(2) if flipped else given[n], k)
                assert torch.allclose(one[k, n], expected, rtol=0, atol=1e-9)
    assert 4 < mirrored < 20


def test_outputs_are_those_that_are_declared() -> None:
    for form, names in (("unlabelled", {"projection", "shift"}), ("labelled", {"projection", "shift", "joint"})):
        recipe = CSILoss(form=form, projection=WIDTH)
        task = Task(CLASSES, (3, SIDE, SIDE), SmallNet16)
        assert recipe.gives_logits() == (form == "labelled")
        given = network_of(start(recipe)).outputs(torch.rand(5, 36))
        assert {name: tuple(value.shape) for name, value in given.items()} == {
            name: (5, width) for name, width in recipe.named_outputs(task).items()
        }
        assert set(given) == names


def test_images_and_classes_must_fit() -> None:
    with pytest.raises(DataError, match="rotates square images, and these are 16 x 8; set shift=permutation"):
        CSILoss().networks(Task(CLASSES, (3, 16, 8), SmallNet16))
    with pytest.raises(DataError, match="form=one_class takes an ID set of one class, and this has 3"):
        CSILoss(form="one_class").networks(Task(CLASSES, (3, SIDE, SIDE), SmallNet16))
    one = CSILoss(form="one_class", projection=WIDTH)
    other = CSILoss(projection=WIDTH)
    labels = torch.zeros(COUNT, dtype=torch.int64)
    losses = [recipe.step(start(recipe, 1), TrainBatch(images(), labels, None)) for recipe in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "semi"}, "form must be one of unlabelled, one_class, labelled, got 'semi'"),
        ({"shift": "blur"}, "shift must be rotation or permutation, got 'blur'"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
    ],
)
def test_settings_of_the_recipe_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSILoss(**settings)


# scores


def classifier(form: str = "unlabelled", like: str = "cross_entropy", shift: str = "rotation") -> Classifier:
    network = network_of(start(CSILoss(form=form, like=like, shift=shift, projection=WIDTH)))
    with torch.no_grad():
        network.branches["shift"].bias.add_(torch.tensor([1.0, 2.0, -9.0, 3.0]))  # type: ignore[operator]
    return Classifier(network, CLASSES)


def batch(given: Tensor, network: Classifier) -> Batch:
    labels = torch.arange(len(given)) % CLASSES
    return Batch(len(given), {"images": given.__getitem__, "labels": labels.__getitem__}, "csi", network)


def fitted(detector: CSI, network: Classifier) -> CSI:
    train = batch(images(7, seed=2), network)
    detector.fit(network, FitData(train, train))
    return detector


def means(image: Tensor, network: Classifier, k: int, samples: int) -> tuple[Tensor, float]:
    """Mean projection and mean logit of transformation k, view by view."""
    wrapped = network.network
    assert isinstance(wrapped, ShiftedInstances)
    seen = []
    random = torch.Generator().manual_seed(0)
    coins = torch.rand(samples, generator=random)
    drawn = draw(4 * samples, Augmentation(0.54, 0.54), random)
    for n in range(samples):
        plain = image.flip(2) if wrapped.augmentation.flip and coins[n] < 0.5 else image
        one = transformed(plain[None], wrapped.kind, k)
        seen.append(view(one, Draws(*(part[k * samples + n][None] for part in drawn))))
    if not samples:
        seen = [transformed(image[None], wrapped.kind, k)]
    outputs = [wrapped.outputs(wrapped.features(one)) for one in seen]
    projection = torch.stack([one["projection"][0] for one in outputs]).mean(dim=0)
    return projection, sum(float(one["shift"][0, k]) for one in outputs) / len(outputs)


@pytest.mark.parametrize("shift", ["rotation", "permutation"])
@pytest.mark.parametrize(("samples", "like"), [(0, "cross_entropy"), (3, "cross_entropy"), (3, "standard")])
def test_the_score_is_the_paper_s(samples: int, like: str, shift: str) -> None:
    network = classifier(like=like, shift=shift)
    detector = fitted(CSI(samples=samples), network)
    given = images(5, seed=3)
    score = detector.score(batch(given, network))
    expected = np.zeros(5)
    for k in range(4):
        train = [means(image, network, k, samples) for image in images(7, seed=2)]
        lengths = np.mean([float(torch.sqrt((z * z).sum())) for z, _ in train])
        logit = np.mean([one for _, one in train])
        assert (logit > 0) == (k != 2)
        for n, image in enumerate(given):
            z, own = means(image, network, k, samples)
            nearest = max(float(z @ unit(other)) for other, _ in train)
            expected[n] -= (nearest / lengths + (own / logit if logit > 0 else 0)) / 4
    assert score.numpy() == pytest.approx(expected, abs=1e-6)  # directions are stored as float32


@pytest.mark.parametrize("shift", ["rotation", "permutation"])
def test_the_softmax_is_that_of_the_mean_logits_of_pairs(shift: str) -> None:
    network = classifier("labelled", shift=shift)
    detector = fitted(CSI(statistic="softmax"), network)
    assert not detector.state()
    given = images(5, seed=3)
    score = detector.score(batch(given, network))
    for n, image in enumerate(given):
        logits = torch.zeros(CLASSES)
        for k in range(4):
            features = network.features(transformed(image[None], shift, k))
            joint = network.outputs(features)["joint"][0]
            logits = logits + joint[k * CLASSES : (k + 1) * CLASSES] / 4
        p = torch.exp(logits) / torch.exp(logits).sum()
        assert float(score[n]) == pytest.approx(math.log(1 - float(p.max())), abs=1e-9)


def test_a_score_depends_on_its_own_image_alone() -> None:
    network = classifier(like="standard")
    detector = fitted(CSI(samples=3), network)
    given = images(6, seed=3)
    whole = detector.score(batch(given, network))
    assert torch.allclose(detector.score(batch(given.flip(0), network)).flip(0), whole, rtol=0, atol=1e-12)
    assert torch.allclose(detector.score(batch(given[2:3], network)), whole[2:3], rtol=0, atol=1e-12)
    again = fitted(CSI(samples=3), network).score(batch(given, network))
    assert torch.equal(again, whole)
    other = fitted(CSI(samples=3, view_seed=1), network).score(batch(given, network))
    assert (other - whole).abs().min() > 1e-9


@pytest.mark.parametrize(
    ("settings", "passes", "fitting"),
    [({}, 4, 4), ({"samples": 1}, 4, 4), ({"samples": 10}, 40, 40), ({"statistic": "softmax"}, 4, 0)],
)
def test_the_declared_passes_are_those_that_it_makes(settings: dict[str, Any], passes: int, fitting: int) -> None:
    network = classifier("labelled")
    detector = CSI(**settings)
    assert (detector.passes, detector.fit_passes) == (passes, fitting)
    seen: list[int] = []
    original = network.network.features
    network.network.features = lambda given: seen.append(len(given)) or original(given)  # type: ignore[operator, assignment, func-returns-value]
    fitted(detector, network)
    assert sum(seen) == 7 * fitting
    seen.clear()
    detector.score(batch(images(5), network))
    assert sum(seen) == 5 * passes


def test_other_networks_are_refused() -> None:
    network = Classifier(SmallNet16(), CLASSES)
    with pytest.raises(DataError, match="networks that recipe 'csi' has trained"):
        fitted(CSI(), network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"statistic": "norm"}, "statistic must be 'similarity' or 'softmax', got 'norm'"),
        ({"samples": -1}, "samples must be 0 or more, got -1"),
        ({"crop": 0.0}, "crop must lie above 0 and at most at 1, got 0.0"),
    ],
)
def test_settings_of_the_detector_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSI(**settings)


def test_what_it_reads_follows_from_the_statistic() -> None:
    assert CSI().reads == {"projection", "shift"}
    assert CSI(statistic="softmax").reads == {"joint"}
