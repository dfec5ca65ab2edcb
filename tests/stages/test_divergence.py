"""A training that diverges ends with its reason, and is started again from another seed where its recipe allows it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import ImageSet, OodbenchError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.training import train as train_module
from oodbench.benchmark.stages.training.divergence import CHECK_EVERY
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals
from oodbench.benchmark.stages.training.train import seed_of_attempt
from oodbench.detectors._dcgan import ALIKE, CERTAIN, collapse, health
from oodbench.detectors.gan_confidence import GAN
from tests.support import noise_images, train_job

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, BATCH, EPOCHS = 20, 8, 3
STEPS = EPOCHS * -(-IMAGES // BATCH)
Register = Callable[[str, type[Plugin]], None]
REASON = "the loss 'wobble' of recipe 'shaky' is nan in epoch 2"


class Shaky(Recipe):
    """Its loss is nan from a step on, in those attempts that are named; each attempt builds its networks once."""

    version = "1"
    diverging: ClassVar[set[int]] = set()
    built: ClassVar[int] = 0
    bad_step: ClassVar[int] = 4
    steps_: int

    def networks(self, task: Task) -> dict[str, nn.Module]:
        type(self).built += 1
        self.steps_ = 0
        return {"classifier": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, task.num_classes))}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        return {"classifier": torch.optim.SGD(networks["classifier"].parameters(), lr=0.01)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        self.steps_ += 1
        loss = nn.functional.cross_entropy(training.networks["classifier"](batch.images), batch.labels)
        optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        (loss + 0.01 * torch.rand((), generator=training.generator)).backward()
        optimizer.step()
        bad = self.built in self.diverging and self.steps_ >= self.bad_step
        return {"fine": loss.detach(), "wobble": torch.tensor(float("nan") if bad else 1.0)}


@pytest.fixture
def shaky(register: Register) -> type[Shaky]:
    """A recipe of which a test says which attempts diverge."""

    class Own(Shaky):
        version = "1"
        diverging: ClassVar[set[int]] = {1}
        built: ClassVar[int] = 0
        retries = 1

    register("shaky", Own)
    return Own


@pytest.fixture
def context(context_with: Callable[[Mapping[str, ImageSet]], JobContext]) -> JobContext:
    return context_with({"id": ImageSet(noise_images(IMAGES), np.arange(IMAGES) % 4, tuple("abcd"))})


def job(recipe: str = "shaky", **options: Any) -> TrainJob:
    schedule = Schedule(options.pop("epochs", EPOCHS), options.pop("batch", BATCH))
    return train_job(recipe, images=options.pop("images", IMAGES), schedule=schedule, **options)


def train(context: JobContext, job: TrainJob, tick: Callable[[int], None] = lambda images: None) -> dict[str, object]:
    return train_module.train(context, job, tick, SnapshotIntervals(0.0, 0.0))


def curve(context: JobContext, job: TrainJob) -> list[dict[str, str]]:
    with context.store.extra(job.checkpoint.key, ".losses.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_diverged_training_starts_again_from_another_seed(
    context: JobContext, shaky: type[Shaky], logged: list[str]
) -> None:
    ticks: list[int] = []
    about = train(context, job(), ticks.append)
    assert (about["attempt"], about["diverged"]) == (2, [REASON])
    assert context.store.about(job().checkpoint.key)["diverged"] == [REASON]
    assert logged == [f"train shaky: it diverged, because {REASON}, and starts again from another seed."]
    assert sum(ticks) == EPOCHS * IMAGES, "the images of the diverged attempt do not count"
    assert [row["epoch"] for row in curve(context, job())] == ["1", "2", "3"]
    assert not list((context.store.root / "unfinished").iterdir())
    shaky.diverging = set()
    other = job(seed=seed_of_attempt(job(), 2), tag="other")
    assert "attempt" not in train(context, other)
    again, plain = (context.store.load_tensors(one.checkpoint.key) for one in (job(), other))
    assert all(torch.equal(again[name], plain[name]) for name in plain), "the second attempt is a training like others"
    first = job(tag="first")
    train(context, first)
    assert not torch.equal(
        context.store.load_tensors(first.checkpoint.key)["classifier.1.weight"], again["classifier.1.weight"]
    )


def test_seeds_of_attempts_follow_from_the_job_s() -> None:
    assert seed_of_attempt(job(seed=5), 1) == 5
    seeds = [seed_of_attempt(job(seed=seed), attempt) for seed in (0, 1) for attempt in (1, 2, 3)]
    assert len(set(seeds)) == 6
    assert seeds == [seed_of_attempt(job(seed=seed, tag="x"), attempt) for seed in (0, 1) for attempt in (1, 2, 3)]


@pytest.mark.parametrize("steps", [1, 4, STEPS - 1])
def test_a_second_attempt_that_is_stopped_resumes_to_the_same_bytes(
    context: JobContext, shaky: type[Shaky], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    train(context, job())
    shaky.built = 0
    original = shaky.step

    def step(self: Shaky, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        if self.built == 2 and self.steps_ == steps:
            raise KeyboardInterrupt
        return original(self, training, batch)

    cut = job(tag="cut")
    with monkeypatch.context() as patch:
        patch.setattr(shaky, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(context, cut)
    shaky.diverging = set()  # another process builds the first networks, and restores the second ones
    ticks: list[int] = []
    about = train(context, cut, ticks.append)
    assert (about["attempt"], about["diverged"], about["stops"]) == (2, [REASON], 1)
    assert len(ticks) == 1 + STEPS - steps
    whole, resumed = (context.store.require(one.checkpoint.key).read_bytes() for one in (job(), cut))
    assert resumed == whole
    assert curve(context, cut) == curve(context, job())


def test_without_another_attempt_the_training_fails_and_leaves_its_losses(
    context: JobContext, shaky: type[Shaky]
) -> None:
    shaky.retries = 0
    with pytest.raises(OodbenchError) as caught:
        train(context, job())
    assert str(caught.value) == f"Training diverged: {REASON}. Lower its learning rate or the weight of an added loss."
    assert context.store.find(job().checkpoint.key) is None
    assert [row["wobble"] for row in curve(context, job())] == ["1.0", "nan"]


def test_an_error_names_what_went_wrong_in_every_attempt(context: JobContext, shaky: type[Shaky]) -> None:
    shaky.diverging = {1, 2}
    with pytest.raises(OodbenchError) as caught:
        train(context, job())
    assert str(caught.value) == (
        f"Training diverged in each of 2 attempts, from different seeds: {REASON}; then {REASON}. "
        "Lower its learning rate or the weight of an added loss."
    )


def test_losses_are_looked_at_within_a_long_epoch(
    context_with: Callable[[Mapping[str, ImageSet]], JobContext], shaky: type[Shaky]
) -> None:
    count = 3 * CHECK_EVERY
    images = np.zeros((count, 3, 32, 32), np.uint8)
    context = context_with({"id": ImageSet(images, np.arange(count) % 4, tuple("abcd"))})
    shaky.retries, shaky.bad_step = 0, CHECK_EVERY + 2
    ticks: list[int] = []
    with pytest.raises(OodbenchError, match="is nan in epoch 1"):
        train(context, job(images=count, batch=1), ticks.append)
    assert sum(ticks) == 2 * CHECK_EVERY, "not before the next look, and not at the end of the epoch"
    assert [row["wobble"] for row in curve(context, job(images=count, batch=1))] == ["nan"]


def test_weights_that_are_not_finite_end_a_training(context: JobContext, register: Register) -> None:
    class Spoilt(Shaky):
        """The update that follows its last finite loss makes infinite weights."""

        version = "1"

        def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
            losses = super().step(training, batch)
            if self.steps_ == STEPS:
                next(training.networks["classifier"].parameters()).data[0, 0] = float("inf")
            return losses

    register("spoilt", Spoilt)
    reason = "recipe 'spoilt' has made weights of its network 'classifier' that are not finite in epoch 3"
    with pytest.raises(OodbenchError, match=f"Training diverged: {reason}"):
        train(context, job("spoilt"))


def test_a_recipe_says_itself_when_it_has_failed(context: JobContext, register: Register) -> None:
    seen: list[Mapping[str, float]] = []

    class Judging(Shaky):
        version = "1"

        def diverged(self, losses: Mapping[str, float]) -> str | None:
            seen.append(losses)
            return "it has had enough" if len(seen) == 2 else None

    register("judging", Judging)
    with pytest.raises(OodbenchError, match=r"diverged: it has had enough \(recipe 'judging'\) in epoch 2\. "):
        train(context, job("judging"))
    assert [losses["wobble"] for losses in seen] == [1.0, 1.0]
    assert [float(row["fine"]) for row in curve(context, job("judging"))] == [losses["fine"] for losses in seen]


def test_what_a_recipe_says_must_be_a_text(context: JobContext, register: Register) -> None:
    class Wrong(Shaky):
        version = "1"

        def diverged(self, losses: Mapping[str, float]) -> Any:
            return False

    register("wrong", Wrong)
    with pytest.raises(PluginError, match=r"diverged\(\) of recipe 'wrong' returned False, expected a text or None"):
        train(context, job("wrong"))


# GANs


def test_health_is_computed_from_logits_and_samples() -> None:
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(2, 6, 1, 1, 1))
    samples = random.random((6, 3, 4, 4))
    found = health(*map(torch.from_numpy, (real, fake, samples)))
    assert float(found["p_real"]) == pytest.approx((1 / (1 + np.exp(-real))).mean())
    assert float(found["p_fake"]) == pytest.approx((1 / (1 + np.exp(-fake))).mean())
    assert float(found["sample_deviation"]) == pytest.approx(samples.std(axis=0).mean())


@pytest.mark.parametrize(
    "p_real, p_fake, deviation, said",
    [
        (0.7, 0.3, 0.15, None),
        (1 - 2 * CERTAIN, CERTAIN / 2, 0.15, None),  # one of both is enough to learn from
        (1 - CERTAIN / 2, CERTAIN / 2, 0.15, "the discriminator was certain for an epoch"),
        (1.0, 1.0, 0.15, "the discriminator was certain for an epoch"),
        (0.7, 0.3, 2 * ALIKE, None),
        (0.7, 0.3, ALIKE / 2, "all samples of the generator are alike"),
    ],
)
def test_collapse_of_a_gan(p_real: float, p_fake: float, deviation: float, said: str | None) -> None:
    found = collapse({"p_real": p_real, "p_fake": p_fake, "sample_deviation": deviation, "generator": 1.0})
    assert found is None if said is None else found is not None and found.startswith(said)


@pytest.mark.parametrize("recipe", ["gan", "joint"])
def test_a_collapsed_generator_ends_a_training_after_two_attempts(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    original = GAN.networks

    def networks(self: GAN, task: Task) -> dict[str, nn.Module]:
        """A generator that always draws the same."""
        found = original(self, task)
        for weight in found["generator"].parameters():
            nn.init.zeros_(weight)
        return found

    monkeypatch.setattr(GAN, "networks", networks)
    settings = f"{recipe}[width=4,generator_learning_rate=0.0]"
    with pytest.raises(OodbenchError) as caught:
        train(context, job(settings, epochs=1))
    reason = rf"all samples of the generator are alike (standard deviation 0) (recipe '{recipe}') in epoch 1"
    assert str(caught.value).startswith(
        f"Training diverged in each of 2 attempts, from different seeds: {reason}; then {reason}."
    )
