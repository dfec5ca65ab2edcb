"""Training: order of batches, schedule, seeds, stored artifacts, errors, and memory layouts of data sets."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oodbench.benchmark import Backbone, DataError, ImageSet, OodbenchError, Recipe, TrainBatch, Training
from oodbench.benchmark.plan.jobs import SetRef, TrainJob
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages import networks as networks_module
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.training import train as train_module
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from oodbench.benchmark.stages.worker_config import WorkerConfig
from tests.support import noise_images, train_job

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, OUTLIERS, BATCH, CLASSES, SHAPE = 20, 11, 8, 4, (3, 32, 32)
BACKBONE = "small_cnn[hidden=4,width=2]"
Register = Callable[[str, type[Plugin]], None]


def numbered(count: int, seed: int, labelled: bool = True, shape: tuple[int, int, int] = SHAPE) -> ImageSet:
    """Noise images whose first pixel is their number."""
    images = noise_images(count, seed, shape)
    images[:, 0, 0, 0] = np.arange(count)
    return ImageSet(images, np.arange(count) % CLASSES, tuple("abcd")) if labelled else ImageSet(images)


@pytest.fixture
def context(context_with: Callable[[Mapping[str, ImageSet]], JobContext]) -> JobContext:
    sets = {"id": numbered(IMAGES, 0), "outliers": numbered(OUTLIERS, 1, labelled=False)}
    return context_with(sets)


def job(recipe: str = "cross_entropy", seed: int = 0, given: TrainJob | None = None, **schedule: Any) -> TrainJob:
    """A job on the sets of `context`; two epochs by default."""
    needs = registry.get("recipe", recipe.partition("[")[0]).needs
    return train_job(
        recipe,
        BACKBONE,
        images=IMAGES,
        outliers=SetRef("outliers", "outliers", OUTLIERS) if "outliers" in needs else None,
        given=given.checkpoint if given else None,
        schedule=Schedule(**{"epochs": 2, "batch_size": BATCH, **schedule}),
        seed=seed,
    )


def gan_job() -> TrainJob:
    return job("gan[width=4]", epochs=1)


def train(context: JobContext, job: TrainJob) -> dict[str, Tensor]:
    """Train, and return the stored weights."""
    train_module.train(context, job, lambda images: None)
    return context.store.load_tensors(job.checkpoint.key)


def trained_bytes(context: JobContext, job: TrainJob) -> bytes:
    train(context, job)
    return context.store.require(job.checkpoint.key).read_bytes()


def classifier_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.startswith("classifier.")}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Step(NamedTuple):
    """The arguments of one call of a recipe's `step`."""

    training: Training
    rates: dict[str, list[float]]
    batch: TrainBatch

    @property
    def rows(self) -> list[int]:
        return numbers(self.batch.images)

    @property
    def outliers(self) -> list[int]:
        assert self.batch.outliers is not None
        return numbers(self.batch.outliers)


def numbers(images: Tensor) -> list[int]:
    return [round(255 * value) for value in images[:, 0, 0, 0].tolist()]


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Step]:
    """A list to which every step of a recipe is appended as it trains."""
    steps: list[Step] = []
    recipe = registry.get("recipe", name)
    original = recipe.step

    def step(self: Recipe, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        rates = {n: [group["lr"] for group in o.param_groups] for n, o in training.optimizers.items()}
        steps.append(Step(training, rates, batch))
        losses: dict[str, Tensor] = original(self, training, batch)
        return losses

    monkeypatch.setattr(recipe, "step", step)
    return steps


def epochs_of(steps: list[Step]) -> list[list[Step]]:
    count = -(-IMAGES // BATCH)
    return [steps[k : k + count] for k in range(0, len(steps), count)]


# Order


def test_every_image_comes_once_per_epoch_with_its_label(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "cross_entropy")
    train(context, job(epochs=3))
    orders = [[row for step in epoch for row in step.rows] for epoch in epochs_of(steps)]
    assert len(orders) == 3
    assert all(sorted(order) == list(range(IMAGES)) for order in orders)
    assert len(set(map(tuple, [*orders, range(IMAGES)]))) == 4
    assert all(step.batch.labels.tolist() == [row % CLASSES for row in step.rows] for step in steps)


def test_last_batch_holds_the_remaining_images(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "confidence")
    train(context, job("confidence", epochs=1))
    assert [len(step.rows) for step in steps] == [8, 8, 4]
    assert [len(step.outliers) for step in steps] == [8, 8, 4]


def test_images_are_floats_from_zero_to_one(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "confidence")
    train(context, job("confidence", epochs=1))
    for step in steps:
        for drawn, name in ((step.batch.images, "id"), (step.batch.outliers, "outliers")):
            assert drawn is not None
            assert drawn.dtype == torch.float32
            rows = numbers(drawn)
            expected = context.images(SetRef(name, "train", 0)).images[rows].astype(np.float32) / np.float32(255)
            assert np.array_equal(drawn.numpy(), expected)
        assert step.batch.labels.dtype == torch.int64


def test_outliers_all_come_once_before_any_repeats(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "confidence")
    train(context, job("confidence", epochs=3))
    drawn = [row for step in steps for row in step.outliers]
    assert len(drawn) == 3 * IMAGES
    rounds = [drawn[k : k + OUTLIERS] for k in range(0, len(drawn) - OUTLIERS + 1, OUTLIERS)]
    assert len(rounds) == 5
    assert all(sorted(rows) == list(range(OUTLIERS)) for rows in rounds)
    assert len(set(map(tuple, rounds))) == 5


def test_recipes_that_declare_no_outliers_get_none(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "cross_entropy")
    train(context, job())
    assert all(step.batch.outliers is None for step in steps)


def test_batches_come_in_the_same_order_for_every_recipe(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for recipe in ("cross_entropy", "confidence", "joint[width=4]"):
        steps = watch(monkeypatch, recipe.partition("[")[0])
        train(context, job(recipe))
        orders.append([step.rows for step in steps])
    assert orders[0] == orders[1] == orders[2]


def test_progress_counts_every_image(context: JobContext) -> None:
    ticks: list[int] = []
    train_module.train(context, job(epochs=2), ticks.append)
    assert ticks == [8, 8, 4, 8, 8, 4]
    assert sum(ticks) == job(epochs=2).size


# Schedule


@pytest.mark.parametrize(
    "epochs, milestones, decay, expected",
    [
        (3, (), 0.1, [1, 1, 1]),
        (4, (0.5,), 0.1, [1, 1, 0.1, 0.1]),
        (4, (0.75,), 0.1, [1, 1, 1, 0.1]),
        (4, (0.25, 0.5), 0.5, [1, 0.5, 0.25, 0.25]),
        (4, (0.5, 0.5), 0.5, [1, 1, 0.25, 0.25]),
        (3, (0.5,), 0.1, [1, 1, 0.1]),
        (2, (0.0, 1.0), 0.1, [0.1, 0.1]),
        (5, (0.6,), 10.0, [1, 1, 1, 10, 10]),
    ],
)
def test_rates_fall_after_their_fraction_of_the_epochs(
    context: JobContext,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
    milestones: tuple[float, ...],
    decay: float,
    expected: list[float],
) -> None:
    steps = watch(monkeypatch, "cross_entropy")
    train(context, job("cross_entropy[learning_rate=0.002]", epochs=epochs, milestones=milestones, decay=decay))
    rates = [step.rates["classifier"][0] for step in steps]
    assert rates == pytest.approx([0.002 * factor for factor in expected for _ in range(3)], rel=1e-12)


def test_milestones_are_exact_whatever_their_binary_fraction(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.28 of 25 epochs is 7, although 0.28 * 25 is slightly more in floating point."""
    steps = watch(monkeypatch, "cross_entropy")
    train(context, job(epochs=25, milestones=(0.28,), batch_size=IMAGES))
    rates = [step.rates["classifier"][0] for step in steps]
    assert rates == pytest.approx([0.001] * 7 + [0.0001] * 18)


def test_every_rate_of_every_optimizer_falls(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, register: Register
) -> None:
    joint: type[Recipe] = registry.get("recipe", "joint")

    class TwoRates(joint):  # type: ignore[misc,valid-type]
        """The classifier's head has its own learning rate."""

        def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
            made: dict[str, torch.optim.Optimizer] = super().optimizers(networks)
            network = networks["classifier"]
            parts = [network.get_submodule(name).parameters() for name in ("body", "head")]
            groups = [{"params": part, "lr": rate} for part, rate in zip(parts, (0.5, 0.25), strict=True)]
            return {**made, "classifier": torch.optim.SGD(groups)}

    register("two_rates", TwoRates)
    steps = watch(monkeypatch, "two_rates")
    settings = "discriminator_learning_rate=0.03,generator_learning_rate=0.02,width=4"
    train(context, job(f"two_rates[{settings}]", milestones=(0.5,), decay=0.1))
    for epoch, factor in zip(epochs_of(steps), (1, 0.1), strict=True):
        for step in epoch:
            assert step.rates["classifier"] == pytest.approx([0.5 * factor, 0.25 * factor])
            assert step.rates["generator"] == pytest.approx([0.02 * factor])
            assert step.rates["discriminator"] == pytest.approx([0.03 * factor])


def test_networks_are_in_training_mode_every_epoch(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, register: Register
) -> None:
    base: type[Recipe] = registry.get("recipe", "cross_entropy")
    modes: list[bool] = []

    class Sleepy(base):  # type: ignore[misc,valid-type]
        """Leaves its network in evaluation mode at an epoch's last batch."""

        def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
            modes.append(all(module.training for module in training.networks["classifier"].modules()))
            losses: dict[str, Tensor] = super().step(training, batch)
            training.networks["classifier"].train(len(batch.images) == BATCH)
            return losses

    register("sleepy", Sleepy)
    train(context, job("sleepy", epochs=2))
    assert modes == [True] * 6


# Seeds


def test_same_seed_gives_the_same_bytes_and_another_seed_others(context: JobContext) -> None:
    one, two = trained_bytes(context, job("joint[width=4]")), trained_bytes(context, job("joint[width=4]"))
    assert one == two
    other = train(context, job("joint[width=4]", seed=1))
    weights = train(context, job("joint[width=4]"))
    assert other.keys() == weights.keys()
    assert not any(torch.equal(other[name], weights[name]) for name in weights if weights[name].ndim > 1)


def test_seed_changes_order_outliers_and_random_numbers(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch(monkeypatch, "confidence")
    for seed in (0, 1):
        train(context, job("confidence", seed=seed, epochs=1))
    one, two = epochs_of(steps)
    assert one[0].training.generator.initial_seed() != two[0].training.generator.initial_seed()
    assert [step.rows for step in one] != [step.rows for step in two]
    assert [step.outliers for step in one] != [step.outliers for step in two]


class Forgetful(Backbone):
    """A network that draws random numbers as it trains."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(int(np.prod(image_shape)), num_classes))


def test_training_neither_reads_nor_changes_the_global_random_state(context: JobContext, register: Register) -> None:
    register("forgetful", Forgetful)
    joint = job("joint[width=4]")
    joint = replace(joint, checkpoint=replace(joint.checkpoint, backbone="forgetful"))
    results = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(trained_bytes(context, joint))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_loading_does_not_change_the_random_state(context: JobContext) -> None:
    train(context, job())
    before = torch.get_rng_state()
    networks_module.load_networks(context.store, context.device, job().checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_recipe_starts_from_the_same_classifier(context: JobContext) -> None:
    train_module.train(context, gan_job(), lambda images: None)
    frozen = "learning_rate=0.0"
    jobs = [
        job(f"cross_entropy[{frozen}]"),
        job(f"confidence[{frozen}]"),
        job(f"gan_confidence[{frozen}]", given=gan_job()),
        job(f"joint[{frozen},width=4]"),
    ]
    weights = [classifier_of(train(context, one)) for one in jobs]
    assert weights[0]
    assert all(equal(other, weights[0]) for other in weights[1:])
    learned = classifier_of(train(context, job("cross_entropy")))
    assert not any(torch.equal(learned[name], weights[0][name]) for name in learned if name.endswith("weight"))


# Stored artifacts


@pytest.mark.parametrize("recipe", ["cross_entropy", "joint[width=4]"])
def test_loaded_networks_are_the_trained_ones(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    steps = watch(monkeypatch, recipe.partition("[")[0])
    train(context, job(recipe))
    trained = steps[-1].training.networks
    loaded = networks_module.load_networks(context.store, context.device, job(recipe).checkpoint)
    assert loaded.keys() == trained.keys()
    for name, network in loaded.items():
        assert equal(network.state_dict(), trained[name].state_dict())
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())


def test_given_networks_arrive_trained_frozen_and_are_not_stored_again(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = watch(monkeypatch, "gan_confidence")
    gan = train(context, gan_job())
    weights = train(context, job("gan_confidence", given=gan_job()))
    given = steps[-1].training.given
    assert given.keys() == {"generator", "discriminator"}
    for name, network in given.items():
        assert equal({f"{name}.{k}": v for k, v in network.state_dict().items()}, only(gan, name))
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())
    assert weights == classifier_of(weights)


def only(weights: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.startswith(f"{network}.")}


class Meter(Recipe):
    """Reports known losses: the mean number of the images, and the learning rate."""

    version = "1"

    def networks(self, task: Any) -> dict[str, nn.Module]:
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {"classifier": torch.optim.SGD(networks["classifier"].parameters(), lr=1.0)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        rate = torch.tensor(training.optimizers["classifier"].param_groups[0]["lr"])
        return {"number": 255 * batch.images[:, 0, 0, 0].mean(), "rate": rate}


def losses_of(context: JobContext, job: TrainJob) -> list[dict[str, str]]:
    with context.store.extra(job.checkpoint.key, ".losses.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_losses_are_means_over_images_stored_beside_the_checkpoint(context: JobContext, register: Register) -> None:
    register("meter", Meter)
    asked = job("meter", milestones=(0.5,))
    about = train_module.train(context, asked, lambda images: None)
    rows = losses_of(context, asked)
    assert [list(row) for row in rows] == [["epoch", "number", "rate"]] * 2
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["number"]) for row in rows] == pytest.approx([(IMAGES - 1) / 2] * 2, rel=1e-5)
    assert [float(row["rate"]) for row in rows] == pytest.approx([1.0, 0.1])
    checkpoint = context.store.require(asked.checkpoint.key)
    assert context.store.extra(asked.checkpoint.key, ".losses.csv").parent == checkpoint.parent
    side = json.loads(checkpoint.with_name(checkpoint.name + ".json").read_text())["about"]
    assert side["last_losses"] == about["last_losses"]
    assert side["last_losses"]["rate"] == pytest.approx(0.1)
    assert side["parameters"] == about["parameters"]
    weights = context.store.load_tensors(asked.checkpoint.key).values()
    assert side["parameters"] == {"classifier": sum(weight.numel() for weight in weights)}


def test_samples_are_stored_as_an_image(context: JobContext, register: Register) -> None:
    shades = np.linspace(0, 255, 64).round()

    class Painter(Meter):
        """Draws squares of known gray values."""

        def samples(self, training: Training) -> Tensor:
            return torch.from_numpy(shades / 255).float().reshape(64, 1, 1, 1).expand(64, *SHAPE)

    register("painter", Painter)
    train(context, job("painter"))
    with Image.open(context.store.extra(job("painter").checkpoint.key, ".samples.png")) as picture:
        assert picture.size == (8 * 34 + 2, 8 * 34 + 2)
        assert np.array_equal(np.asarray(picture)[17::34, 17::34, 1], shades.reshape(8, 8))


@pytest.mark.parametrize("recipe", ["gan[width=4]", "joint[width=4]"])
def test_recipes_with_a_generator_store_samples(context: JobContext, recipe: str) -> None:
    train(context, job(recipe))
    assert context.store.extra(job(recipe).checkpoint.key, ".samples.png").is_file()


def test_recipes_without_samples_store_none(context: JobContext) -> None:
    train(context, job())
    suffixes = Counter(path.suffix for path in context.store.require(job().checkpoint.key).parent.iterdir())
    assert suffixes.keys() - {".tensorboard"} == {".safetensors", ".json", ".csv"}


def test_tensorboard_is_written_only_if_asked_for(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it takes seconds, or fails
    train(context, job())
    assert not context.store.extra(job().checkpoint.key, ".tensorboard").exists()


def test_losses_go_to_tensorboard_where_that_is_asked_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, register: Register
) -> None:
    written: list[tuple[str, str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def flush(self) -> None:
            assert self.folder != "closed"

        def close(self) -> None:
            self.folder = "closed"

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            written.append((self.folder, name, value, epoch))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    register("meter", Meter)
    context.config = WorkerConfig(context.store.root, Path("data"), "cpu", 1, tensorboard=True)
    train(context, job("meter"))
    folder = str(context.store.extra(job("meter").checkpoint.key, ".tensorboard"))
    assert [(where, name, epoch) for where, name, _, epoch in written] == [
        (folder, name, epoch) for epoch in (1, 2) for name in ("number", "rate")
    ]


def test_losses_of_running_epochs_are_shown(context: JobContext, register: Register) -> None:
    register("meter", Meter)
    shown: list[EpochValues] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "SHOW_EVERY", 0.0)
        train_module.train(context, job("meter"), lambda images: None, show=shown.append)
    assert [(values.epoch, values.epochs, values.attempt) for values in shown] == [(1, 2, 1)] * 3 + [(2, 2, 1)] * 2
    ends = [float(row["number"]) for row in losses_of(context, job("meter"))]
    assert shown[2].values["number"] == ends[0], "after the last step of an epoch, its mean"
    assert shown[0].values["number"] != shown[1].values["number"] != shown[2].values["number"]


# Errors


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_divergence_names_loss_recipe_and_epoch(context: JobContext, register: Register, value: str) -> None:
    wobbles = iter([1.0, 1.0, 1.0, 1.0, float(value), 1.0])

    class Broken(Meter):
        """Its second loss is not finite in the second epoch."""

        def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
            return {"fine": torch.tensor(1.0), "wobble": torch.tensor(next(wobbles))}

    register("broken", Broken)
    with pytest.raises(OodbenchError) as caught:
        train(context, job("broken", epochs=3))
    assert str(caught.value) == (
        f"Training diverged: the loss 'wobble' of recipe 'broken' is {value} in epoch 2. "
        "Lower its learning rate or the weight of an added loss."
    )
    assert context.store.find(job("broken", epochs=3).checkpoint.key) is None


def test_outliers_must_have_the_same_shape(context_with: Callable[[Mapping[str, ImageSet]], JobContext]) -> None:
    context = context_with({"id": numbered(IMAGES, 0), "outliers": numbered(OUTLIERS, 1, shape=(1, 32, 28))})
    with pytest.raises(DataError, match=r"outliers \(outliers\) are \(1, 32, 28\) images, 'id' \(3, 32, 32\); they"):
        train(context, job("confidence"))


def test_training_needs_labels(context_with: Callable[[Mapping[str, ImageSet]], JobContext]) -> None:
    context = context_with({"id": numbered(IMAGES, 0, labelled=False)})
    with pytest.raises(OodbenchError, match=r"id \(train\) has no labels"):
        train(context, job())


# Memory layouts and types that data sets may return


def changed_set(change: str) -> ImageSet:
    plain = numbered(IMAGES, 0)
    assert plain.labels is not None
    if change == "read-only":
        plain.images.flags.writeable = plain.labels.flags.writeable = False
        return plain
    if change == "mirrored":
        return replace(plain, images=np.ascontiguousarray(plain.images[..., ::-1])[..., ::-1])
    if change == "channels last":
        return replace(plain, images=np.ascontiguousarray(plain.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    return replace(plain, labels=plain.labels.astype(change))


@pytest.mark.parametrize("change", ["read-only", "mirrored", "channels last", "int32", "uint8", "uint16", ">i8"])
def test_memory_layout_and_integer_type_do_not_matter(
    context_with: Callable[[Mapping[str, ImageSet]], JobContext], change: str
) -> None:
    outliers = numbered(OUTLIERS, 1, labelled=False)
    plain = trained_bytes(context_with({"id": numbered(IMAGES, 0), "outliers": outliers}), job("confidence"))
    assert trained_bytes(context_with({"id": changed_set(change), "outliers": outliers}), job("confidence")) == plain
