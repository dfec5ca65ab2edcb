"""A training that is stopped anywhere goes on to the very bytes it would have reached; what a snapshot may not do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, ImageSet, OodbenchError, Training
from oodbench.benchmark.plan.jobs import Checkpoint, SetRef, TrainJob
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.recipe import TrainBatch
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages import networks, snapshots, train
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.train_loop import ShuffledIndices, TrainLoop
from oodbench.benchmark.store.store import Key
from oodbench.benchmark.store.tensor_file import from_file, to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, OUTLIERS, BATCH, EPOCHS, SHAPE = 20, 11, 8, 3, (3, 32, 32)
A_EPOCH = -(-IMAGES // BATCH)
STEPS = EPOCHS * A_EPOCH
NETWORKS = ("small_cnn[hidden=4,width=2]", "dropping")
Register = Callable[[str, type[Plugin]], None]


class StoppedError(Exception):
    """The process is gone."""


class Dropping(Backbone):
    """A network that draws masks as it trains, and counts batches."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        size = int(np.prod(image_shape))
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))


@pytest.fixture
def bench(bench_with: Callable[[Mapping[str, ImageSet]], JobContext], register: Register) -> JobContext:
    register("dropping", Dropping)
    random = np.random.RandomState(0)
    images = [random.randint(0, 256, (count, *SHAPE)).astype(np.uint8) for count in (IMAGES, OUTLIERS)]
    return bench_with({"id": ImageSet(images[0], np.arange(IMAGES) % 4, tuple("abcd")), "out": ImageSet(images[1])})


def job(recipe: str, backbone: str, tag: str = "", precision: str = "float32") -> TrainJob:
    """Equal jobs under different tags are kept apart in the store."""
    key = Key("checkpoint", ".safetensors", recipe, {"recipe": recipe, "backbone": backbone, "tag": tag})
    return TrainJob(
        title=f"train {recipe}",
        makes=(key,),
        checkpoint=Checkpoint(key, recipe, backbone, 4, SHAPE),
        train=SetRef("id", "train", IMAGES),
        outliers=SetRef("out", "outliers", OUTLIERS) if recipe == "confidence" else None,
        given=None,
        schedule=Schedule(EPOCHS, BATCH, (0.5,), 0.1),
        seed=3,
        precision=precision,
    )


def everything(bench: JobContext, job: TrainJob) -> tuple[bytes, str]:
    """The weights and the losses of a finished training."""
    weights = bench.store.require(job.checkpoint.key)
    return weights.read_bytes(), bench.store.extra(job.checkpoint.key, ".losses.csv").read_text()


def stop_after(monkeypatch: pytest.MonkeyPatch, recipe: str, steps: int) -> None:
    """Let the process die in the step after so many; a later training is not disturbed."""
    plugin = registry.get("recipe", recipe.partition("[")[0])
    original = plugin.step
    done: list[None] = []

    def step(self: Plugin, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        if len(done) == steps:
            done.append(None)
            raise StoppedError
        done.append(None)
        losses: dict[str, Tensor] = original(self, training, batch)
        return losses

    monkeypatch.setattr(plugin, "step", step)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot after every step."""
    monkeypatch.setattr(snapshots, "AFTER_EPOCH", 0.0)
    monkeypatch.setattr(snapshots, "WITHIN_EPOCH", 0.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("steps", [1, A_EPOCH, A_EPOCH + 1, STEPS - 1])
@pytest.mark.parametrize(
    ("recipe", "backbone", "precision"),
    [
        ("cross_entropy", "dropping", "float32"),
        ("confidence", NETWORKS[0], "float32"),
        ("joint[width=4]", "dropping", "float32"),
        ("joint[width=4]", NETWORKS[0], "bfloat16"),
        ("standard", "dropping", "float32"),
        ("one_cycle[low_side=0.75]", "densenet[depth=10,growth=4]", "bfloat16"),
    ],
)
def test_a_stopped_training_ends_in_the_same_bytes(
    bench: JobContext, monkeypatch: pytest.MonkeyPatch, recipe: str, backbone: str, steps: int, precision: str
) -> None:
    whole = job(recipe, backbone, "whole", precision)
    train.train(bench, whole, lambda images: None)
    cut = job(recipe, backbone, "cut", precision)
    stop_after(monkeypatch, recipe, steps)
    with pytest.raises(StoppedError):
        train.train(bench, cut, lambda images: None)
    torch.manual_seed(99)  # another process begins with another state
    heard: list[int] = []
    about = train.train(bench, cut, heard.append)
    assert everything(bench, cut) == everything(bench, whole)
    assert sum(heard) == EPOCHS * IMAGES
    assert len(heard) == 1 + STEPS - steps, "what was done is told at once, and not done again"
    assert about["stops"] == 1
    assert not list((bench.store.root / "unfinished").iterdir())


def snapshot(bench: JobContext, monkeypatch: pytest.MonkeyPatch, tag: str) -> Path:
    """The snapshot of a training stopped after four steps."""
    stop_after(monkeypatch, "cross_entropy", 4)
    with pytest.raises(StoppedError):
        train.train(bench, job("cross_entropy", NETWORKS[0], tag), lambda images: None)
    return next((bench.store.root / "unfinished").iterdir())


def test_progress_is_the_share_of_steps_done_and_goes_on_after_a_stop(
    bench: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "WITHIN_EPOCH", 0.0)
    plugin = registry.get("recipe", "standard")
    original, seen = plugin.step, []

    def step(self: Plugin, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        seen.append(training.progress)
        losses: dict[str, Tensor] = original(self, training, batch)
        seen.append(training.optimizers["classifier"].param_groups[0]["lr"])
        return losses

    monkeypatch.setattr(plugin, "step", step)
    stop_after(monkeypatch, "standard", 5)
    with pytest.raises(StoppedError):
        train.train(bench, job("standard", "dropping"), lambda images: None)
    train.train(bench, job("standard", "dropping"), lambda images: None)
    assert seen[::2] == [step / STEPS for step in range(STEPS)]
    # The suite's milestone, at half of the epochs, lowers the cosine from the second whole epoch after it.
    factors = [0.1 if step >= 2 * A_EPOCH else 1.0 for step in range(STEPS)]
    cosine = [1e-6 + (0.1 - 1e-6) * (1 + np.cos(np.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert seen[1::2] == pytest.approx([f * rate for f, rate in zip(factors, cosine, strict=True)])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "another training", "another torch"])
def test_a_snapshot_that_cannot_be_trusted_is_told_and_left(
    bench: JobContext, monkeypatch: pytest.MonkeyPatch, damage: str, logged: list[str]
) -> None:
    train.train(bench, job("cross_entropy", NETWORKS[0], "whole"), lambda images: None)
    path = snapshot(bench, monkeypatch, "cut")
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        path.write_bytes(content[:-9])
    elif damage == "a bit":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another torch":
        monkeypatch.setattr(torch, "__version__", "0.1")
    else:
        path.write_bytes(
            content.replace(job("cross_entropy", NETWORKS[0], "cut").checkpoint.key.digest.encode(), b"0" * 64)
        )
    train.train(bench, job("cross_entropy", NETWORKS[0], "cut"), lambda images: None)
    assert len(logged) == 1
    assert "cannot be resumed from" in logged[0]
    assert "training starts from the beginning" in logged[0]
    whole, cut = (everything(bench, job("cross_entropy", NETWORKS[0], tag)) for tag in ("whole", "cut"))
    assert cut == whole


@pytest.mark.usefixtures("eager")
def test_a_snapshot_of_another_architecture_is_removed_and_told(
    bench: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = snapshot(bench, monkeypatch, "cut")
    kept = from_file(path)
    del kept["state"]["networks"]["classifier"]["head.bias"]
    path.write_bytes(to_bytes(kept))
    cut = job("cross_entropy", NETWORKS[0], "cut")
    with pytest.raises(OodbenchError, match=r"does not fit the networks of .*head\.bias.*and was removed"):
        train.train(bench, cut, lambda images: None)
    assert train.train(bench, cut, lambda images: None)["stops"] == 0


@pytest.mark.usefixtures("eager")
def test_seconds_before_a_stop_count(bench: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshot(bench, monkeypatch, "cut")
    kept = from_file(path)
    path.write_bytes(to_bytes({**kept, "seconds": 1000.0, "stops": 4}))
    cut = job("cross_entropy", NETWORKS[0], "cut")
    train.train(bench, cut, lambda images: None)
    about = bench.store.about(cut.checkpoint.key)
    assert about["stops"] == 5
    assert about["seconds"] > 1000


def test_snapshots_are_taken_at_the_end_of_epochs_and_within_long_ones(bench: JobContext) -> None:
    start = train.start(bench, job("cross_entropy", NETWORKS[0]))
    now = [0.0]
    kept = snapshots.Snapshots(bench.store, start.job, start, clock=lambda: now[0])
    path = bench.store.root / "unfinished"
    for seconds, ended, taken in ((19, True, False), (599, False, False), (20, True, True), (600, False, True)):
        now[0] += seconds
        kept._last = now[0] - seconds
        kept.pause(ended)
        assert bool(path.is_dir() and list(path.iterdir())) is taken, (seconds, ended)
        kept.drop()


def test_an_unusual_state_is_told_once_and_the_training_goes_on(
    bench: JobContext, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(snapshots, "AFTER_EPOCH", 0.0)
    monkeypatch.setattr(TrainLoop, "state", lambda self: {"what": object()})
    train.train(bench, job("cross_entropy", NETWORKS[0]), lambda images: None)
    assert len(logged) == 1
    assert "takes no snapshots" in logged[0]


def test_order_gives_every_index_before_any_again_and_resumes() -> None:
    order = ShuffledIndices(7, 5)
    taken = torch.cat([order.take(count) for count in (3, 6, 5)]).tolist()
    assert sorted(taken[:7]) == sorted(taken[7:]) == list(range(7))
    state = order.state()
    ahead = order.take(10)
    again = ShuffledIndices(7, 6)
    again.load_state(state)
    assert torch.equal(again.take(10), ahead)


def test_more_than_one_round_can_be_taken_at_once() -> None:
    assert sorted(ShuffledIndices(3, 0).take(9).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_bfloat16_trains_other_weights_that_stay_float32(bench: JobContext) -> None:
    weights = {}
    for precision in ("float32", "bfloat16"):
        asked = job("joint[width=4]", NETWORKS[0], precision, precision)
        about = train.train(bench, asked, lambda images: None)
        assert about["precision"] == precision
        weights[precision] = bench.store.load_tensors(asked.checkpoint.key)
    for name, weight in weights["float32"].items():
        other = weights["bfloat16"][name]
        assert other.dtype == weight.dtype
        if weight.ndim > 1:
            assert not torch.equal(other, weight), name
            torch.testing.assert_close(other, weight, rtol=0, atol=0.05)


def test_losses_and_evaluation_see_no_bfloat16(bench: JobContext) -> None:
    asked = job("joint[width=4]", NETWORKS[0], precision="bfloat16")
    begun = train.start(bench, asked)
    images = torch.rand(2, *SHAPE)
    for network, given in (("classifier", images), ("discriminator", images), ("generator", torch.rand(2, 100, 1, 1))):
        net = begun.training.networks[network]
        out = net(given)
        assert out.dtype == torch.float32, network
        assert not torch.is_autocast_enabled("cpu")
    classifier = begun.training.networks["classifier"]
    features = classifier.features(images)  # type: ignore[operator]
    assert features.dtype == torch.float32
    rounded = classifier.head(features)  # type: ignore[operator]
    assert torch.equal(rounded, rounded.bfloat16().float()), "the head computes in bfloat16 too"
    train.train(bench, asked, lambda images: None)
    logits = networks.load_networks(bench.store, bench.device, asked.checkpoint)["classifier"](images)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_job_that_fails_keeps_its_snapshot(bench: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "AFTER_EPOCH", 0.0)
    path = snapshot(bench, monkeypatch, "cut")
    assert path.is_file()
    assert replace(job("cross_entropy", NETWORKS[0], "cut")).checkpoint.key.digest[:12] in path.name
