"""A training that is stopped anywhere resumes to the same bytes; snapshots that cannot be used are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from oodbench.benchmark import Backbone, ImageSet, OodbenchError, Training
from oodbench.benchmark.plan.jobs import Checkpoint, SetRef, TrainJob
from oodbench.benchmark.plan.precision import in_float32
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.recipe import TrainBatch
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import networks
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.training import train
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals, Snapshots
from oodbench.benchmark.stages.training.train_loop import ShuffledIndices, TrainLoop
from oodbench.benchmark.store.tensor_file import from_file, to_bytes
from tests.support import train_job

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, OUTLIERS, BATCH, EPOCHS, SHAPE = 20, 11, 8, 3, (3, 32, 32)
A_EPOCH = -(-IMAGES // BATCH)
STEPS = EPOCHS * A_EPOCH
NETWORKS = ("small_cnn[hidden=4,width=2]", "dropping")
Register = Callable[[str, type[Plugin]], None]


class StoppedError(Exception):
    """Stands for the end of the process."""


class Dropping(Backbone):
    """A network that draws masks as it trains, and counts batches."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        size = int(np.prod(image_shape))
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))


@pytest.fixture
def context(context_with: Callable[[Mapping[str, ImageSet]], JobContext], register: Register) -> JobContext:
    register("dropping", Dropping)
    random = np.random.RandomState(0)
    images = [random.randint(0, 256, (count, *SHAPE)).astype(np.uint8) for count in (IMAGES, OUTLIERS)]
    return context_with({"id": ImageSet(images[0], np.arange(IMAGES) % 4, tuple("abcd")), "out": ImageSet(images[1])})


def job(
    recipe: str, backbone: str, tag: str = "", precision: str = "float32", given: Checkpoint | None = None
) -> TrainJob:
    """A training job; equal jobs with different tags have different keys."""
    needs = create("recipe", parse_spec(recipe)).needs
    return train_job(
        recipe,
        backbone,
        images=IMAGES,
        outliers=SetRef("out", "outliers", OUTLIERS) if "outliers" in needs else None,
        schedule=Schedule(EPOCHS, BATCH, (0.5,), 0.1),
        tag=tag,
        precision=precision,
        given=given,
    )


def everything(context: JobContext, job: TrainJob) -> tuple[bytes, str]:
    """The weights and the losses of a finished training."""
    weights = context.store.require(job.checkpoint.key)
    return weights.read_bytes(), context.store.extra(job.checkpoint.key, ".losses.csv").read_text()


def stop_after(monkeypatch: pytest.MonkeyPatch, recipe: str, steps: int) -> None:
    """Make the first training stop after `steps` steps; later trainings run normally."""
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


EVERY_STEP = SnapshotIntervals(after_epoch=0.0, within_epoch=0.0)
EVERY_EPOCH = SnapshotIntervals(after_epoch=0.0, within_epoch=600.0)


def run(
    context: JobContext,
    job: TrainJob,
    tick: Callable[[int], None] = lambda images: None,
    every: SnapshotIntervals = EVERY_STEP,
) -> dict[str, object]:
    """Train with frequent snapshots."""
    return train.train(context, job, tick, every)


@pytest.fixture(scope="module")
def trained() -> dict[tuple[str, ...], tuple[bytes, str]]:
    """Recipe, network and precision -> `everything` of a training that was not stopped."""
    return {}


@pytest.mark.parametrize("steps", [1, A_EPOCH, A_EPOCH + 1, STEPS - 1])
@pytest.mark.parametrize(
    ("recipe", "backbone", "precision"),
    [
        ("cross_entropy", "dropping", "float32"),
        ("confidence", NETWORKS[0], "float32"),
        ("joint[width=4]", "dropping", "float32"),
        ("joint[width=4]", NETWORKS[0], "bfloat16"),
        ("deep_ensemble[members=2,like=standard]", NETWORKS[0], "bfloat16"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("one_cycle[low_side=0.75]", "densenet[depth=10,growth=4]", "bfloat16"),
                ("standard", "dropping", "float32"),
                ("logitnorm[like=standard]", "dropping", "float32"),
                ("outlier_exposure[like=one_cycle]", "dropping", "float32"),
                ("t2fnorm", NETWORKS[0], "bfloat16"),
                ("regmixup", "dropping", "float32"),
                ("mixoe", NETWORKS[0], "float32"),
                ("learned_confidence", NETWORKS[0], "float32"),
                ("learned_confidence[like=one_cycle]", "densenet[depth=10,growth=4]", "bfloat16"),
                ("supcon[projection=4]", NETWORKS[0], "float32"),
                ("cider[projection=4]", NETWORKS[0], "bfloat16"),
                ("dropout", NETWORKS[0], "float32"),
                ("csi[projection=4,form=labelled]", NETWORKS[0], "float32"),
                ("pixmix[like=standard,pictures=9]", "dropping", "float32"),
                ("godin[like=standard]", NETWORKS[0], "bfloat16"),
                ("rotpred", NETWORKS[0], "float32"),
                ("vos[queue=3,start=0.3,select=2]", NETWORKS[0], "float32"),
                ("vos[like=one_cycle,low_side=0.75,start=0.3]", "densenet[depth=10,growth=4]", "bfloat16"),
                ("ascood", NETWORKS[0], "float32"),
                ("ascood[alpha_end=0.1,like=standard,synthesis=shuffle]", NETWORKS[0], "bfloat16"),
                ("gan_entropy[width=4]", "dropping", "float32"),
            )
        ),
    ],
)
def test_a_stopped_training_ends_in_the_same_bytes(
    context: JobContext,
    monkeypatch: pytest.MonkeyPatch,
    trained: dict[tuple[str, ...], tuple[bytes, str]],
    recipe: str,
    backbone: str,
    steps: int,
    precision: str,
) -> None:
    if (recipe, backbone, precision) not in trained:  # one for all places to stop at
        whole = job(recipe, backbone, "whole", precision)
        run(context, whole)
        trained[recipe, backbone, precision] = everything(context, whole)
    cut = job(recipe, backbone, "cut", precision)
    stop_after(monkeypatch, recipe, steps)
    with pytest.raises(StoppedError):
        run(context, cut)
    torch.manual_seed(99)  # another process starts with another state
    ticks: list[int] = []
    about = run(context, cut, ticks.append)
    assert everything(context, cut) == trained[recipe, backbone, precision]
    assert sum(ticks) == EPOCHS * IMAGES
    assert len(ticks) == 1 + STEPS - steps, "finished steps are reported at once and not repeated"
    assert about["stops"] == 1
    assert not list((context.store.root / "unfinished").iterdir())


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [("cross_entropy", "float32"), ("joint[width=4]", "bfloat16"), ("vos[queue=3,start=0.3,select=2]", "float32")],
)
def test_a_training_on_a_gpu_resumes(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, gpu: str, recipe: str, precision: str
) -> None:
    context.device = torch.device("cuda")
    whole, cut = (job(recipe, NETWORKS[0], tag, precision) for tag in ("whole", "cut"))
    with in_float32(context.device):
        run(context, whole)
        stop_after(monkeypatch, recipe, A_EPOCH + 1)
        with pytest.raises(StoppedError):
            run(context, cut)
        about = run(context, cut)
    assert about["stops"] == 1
    found, expected = (load_file(context.store.require(one.checkpoint.key)) for one in (cut, whole))
    tolerance = 0.0 if gpu == "simulated" else 1e-3  # sums of gradients may be added in another order
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [1, A_EPOCH, STEPS - 1])
@pytest.mark.parametrize(
    ("recipe", "first"),
    [
        ("outlier_exposure_finetune[like=standard]", "cross_entropy"),
        ("energy_finetune", "cross_entropy"),
        ("deep_svdd[network=mnist]", "svdd_autoencoder[network=mnist]"),
        ("deep_sad[label_share=0.3,network=mnist]", "svdd_autoencoder[network=mnist]"),
    ],
)
def test_a_stopped_fine_tuning_starts_from_the_given_weights_once(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, recipe: str, first: str, steps: int
) -> None:
    base = job(first, "dropping")
    run(context, base)
    whole, cut = (job(recipe, "dropping", tag, given=base.checkpoint) for tag in ("whole", "cut"))
    run(context, whole)
    stop_after(monkeypatch, recipe, steps)
    with pytest.raises(StoppedError):
        run(context, cut)
    run(context, cut)
    assert everything(context, cut) == everything(context, whole)


@pytest.mark.parametrize("source", ["gan[width=4]", "cvae[width=4]"])
@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_stopped_training_with_a_reject_class_ends_in_the_same_bytes(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, source: str, precision: str
) -> None:
    """Of the reject class, and of the recipe that draws its images."""
    base, cut_base = (job(source, NETWORKS[0], tag, precision) for tag in ("base", "cut base"))
    run(context, base)
    stop_after(monkeypatch, source, A_EPOCH + 1)
    with pytest.raises(StoppedError):
        run(context, cut_base)
    run(context, cut_base)
    assert everything(context, cut_base) == everything(context, base)
    backbone = "densenet[depth=10,growth=4]" if precision == "bfloat16" else NETWORKS[0]
    growing = ",like=one_cycle,low_side=0.5" if precision == "bfloat16" else ""
    recipe = f"reject_class[builds_on={source.partition('[')[0]}{growing}]"
    whole, cut = (job(recipe, backbone, tag, precision, given=base.checkpoint) for tag in ("whole", "cut"))
    run(context, whole)
    stop_after(monkeypatch, recipe, A_EPOCH + 1)
    with pytest.raises(StoppedError):
        run(context, cut)
    run(context, cut)
    assert everything(context, cut) == everything(context, whole)


def snapshot(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, tag: str, every: SnapshotIntervals = EVERY_STEP
) -> Path:
    """The snapshot of a training stopped after four steps."""
    stop_after(monkeypatch, "cross_entropy", 4)
    with pytest.raises(StoppedError):
        run(context, job("cross_entropy", NETWORKS[0], tag), every=every)
    return next((context.store.root / "unfinished").iterdir())


def test_progress_is_the_fraction_of_steps_done_and_continues_after_a_stop(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.get("recipe", "standard")
    original = plugin.step
    progress: list[float] = []
    rates: list[float] = []

    def step(self: Plugin, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        progress.append(training.progress)
        losses: dict[str, Tensor] = original(self, training, batch)
        rates.append(training.optimizers["classifier"].param_groups[0]["lr"])
        return losses

    monkeypatch.setattr(plugin, "step", step)
    stop_after(monkeypatch, "standard", 5)
    within = SnapshotIntervals(after_epoch=20.0, within_epoch=0.0)
    with pytest.raises(StoppedError):
        run(context, job("standard", "dropping"), every=within)
    run(context, job("standard", "dropping"), every=within)
    assert progress == [step / STEPS for step in range(STEPS)]
    # The suite's milestone, at half of the epochs, takes effect with the first full epoch after it.
    factors = [0.1 if step >= 2 * A_EPOCH else 1.0 for step in range(STEPS)]
    cosine = [1e-6 + (0.1 - 1e-6) * (1 + np.cos(np.pi * step / STEPS)) / 2 for step in range(STEPS)]
    assert rates == pytest.approx([f * rate for f, rate in zip(factors, cosine, strict=True)])


@pytest.mark.parametrize("damage", ["cut short", "a bit", "empty", "another training", "another torch"])
def test_a_snapshot_that_cannot_be_used_is_reported_and_dropped(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, damage: str, logged: list[str]
) -> None:
    run(context, job("cross_entropy", NETWORKS[0], "whole"))
    path = snapshot(context, monkeypatch, "cut")
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
    run(context, job("cross_entropy", NETWORKS[0], "cut"))
    assert len(logged) == 1
    assert logged[0].startswith(f"Cannot resume from '{path}' (")
    assert "training starts from the beginning" in logged[0]
    whole, cut = (everything(context, job("cross_entropy", NETWORKS[0], tag)) for tag in ("whole", "cut"))
    assert cut == whole


def test_a_snapshot_of_another_architecture_is_removed_with_an_error(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = snapshot(context, monkeypatch, "cut")
    content = from_file(path)
    del content["state"]["networks"]["classifier"]["head.bias"]
    path.write_bytes(to_bytes(content))
    cut = job("cross_entropy", NETWORKS[0], "cut")
    with pytest.raises(OodbenchError, match=r"does not fit the networks of .*head\.bias.*and was removed"):
        run(context, cut)
    assert run(context, cut)["stops"] == 0


def test_seconds_before_a_stop_count(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshot(context, monkeypatch, "cut")
    content = from_file(path)
    path.write_bytes(to_bytes({**content, "seconds": 1000.0, "stops": 4}))
    cut = job("cross_entropy", NETWORKS[0], "cut")
    run(context, cut)
    about = context.store.about(cut.checkpoint.key)
    assert about["stops"] == 5
    assert about["seconds"] > 1000


def test_snapshots_are_taken_at_the_end_of_epochs_and_within_long_ones(context: JobContext) -> None:
    loop = train.start(context, job("cross_entropy", NETWORKS[0]))
    now = [0.0]
    snapshots = Snapshots(context.store, loop.job, loop, clock=lambda: now[0])
    path = context.store.root / "unfinished"
    for seconds, ended, taken in ((19, True, False), (599, False, False), (20, True, True), (600, False, True)):
        now[0] += seconds
        snapshots._last = now[0] - seconds
        snapshots.pause(ended)
        assert bool(path.is_dir() and list(path.iterdir())) is taken, (seconds, ended)
        snapshots.drop()


def test_a_state_that_cannot_be_stored_is_reported_once_and_training_continues(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(TrainLoop, "state", lambda self: {"what": object()})
    run(context, job("cross_entropy", NETWORKS[0]), every=EVERY_EPOCH)
    assert len(logged) == 1
    assert logged[0].startswith("Cannot take snapshots of the training of 'cross_entropy': ")


def test_every_index_comes_once_before_any_repeats_and_the_order_resumes() -> None:
    order = ShuffledIndices(7, 5)
    indices = torch.cat([order.take(count) for count in (3, 6, 5)]).tolist()
    assert sorted(indices[:7]) == sorted(indices[7:]) == list(range(7))
    state = order.state()
    ahead = order.take(10)
    restored = ShuffledIndices(7, 6)
    restored.load_state(state)
    assert torch.equal(restored.take(10), ahead)


def test_more_than_one_round_can_be_taken_at_once() -> None:
    assert sorted(ShuffledIndices(3, 0).take(9).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_bfloat16_gives_other_weights_but_stores_them_as_float32(context: JobContext) -> None:
    weights = {}
    for precision in ("float32", "bfloat16"):
        joint = job("joint[width=4]", NETWORKS[0], precision, precision)
        about = train.train(context, joint, lambda images: None)
        assert about["precision"] == precision
        weights[precision] = context.store.load_tensors(joint.checkpoint.key)
    for name, weight in weights["float32"].items():
        other = weights["bfloat16"][name]
        assert other.dtype == weight.dtype
        if weight.ndim > 1:
            assert not torch.equal(other, weight), name
            torch.testing.assert_close(other, weight, rtol=0, atol=0.05)


def test_losses_and_evaluation_are_in_float32(context: JobContext) -> None:
    joint = job("joint[width=4]", NETWORKS[0], precision="bfloat16")
    loop = train.start(context, joint)
    images = torch.rand(2, *SHAPE)
    noise = torch.rand(2, 100, 1, 1)
    for network, inputs in (("classifier", images), ("discriminator", images), ("generator", noise)):
        outputs = loop.training.networks[network](inputs)
        assert outputs.dtype == torch.float32, network
        assert not torch.is_autocast_enabled("cpu")
    classifier = loop.training.networks["classifier"]
    features = classifier.features(images)  # type: ignore[operator]
    assert features.dtype == torch.float32
    rounded = classifier.head(features)  # type: ignore[operator]
    assert torch.equal(rounded, rounded.bfloat16().float()), "the head computes in bfloat16 too"
    train.train(context, joint, lambda images: None)
    logits = networks.load_networks(context.store, context.device, joint.checkpoint)["classifier"](images)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_job_that_fails_keeps_its_snapshot(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshot(context, monkeypatch, "cut", EVERY_EPOCH)
    assert path.is_file()
    assert replace(job("cross_entropy", NETWORKS[0], "cut")).checkpoint.key.digest[:12] in path.name
