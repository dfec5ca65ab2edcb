"""Heads and fine-tuning on networks that people use: pretrained, of more classes, on photographs of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from oodbench.benchmark import Dataset, ImageSet, Preprocessing, Pretrained
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, HeadJob, ImportJob, TrainJob
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.stages.dispatch import run_job
from oodbench.benchmark.stages.training import train as training
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals
from oodbench.benchmark.stages.training.train_loop import TrainLoop

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

NAMES = ("cat", "dog", "emu", "fox", "gnu")
"""Outputs of the published network; the photographs are of three of them, in another order."""

COLOURS = {"fox": (200, 60, 40), "cat": (40, 180, 60), "emu": (50, 60, 210)}
SIDE = 40


class Published(SmallCNN):
    """A small network for 40 x 40 pixels, whose weights are published: the file that the setting names."""

    version = "1"
    channels = 3
    source: str = ""

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(44, (SIDE, SIDE), "bicubic")

    def pretrained_weights(self) -> Pretrained | None:
        return Pretrained("of a test", lambda: Path(self.source), len(NAMES), NAMES) if self.source else None


def photographs(root: Path, folders: dict[str, tuple[int, int, int]], count: int, seed: int) -> Path:
    """JPEGs of many sizes, each folder of one colour and noise."""
    random = np.random.RandomState(seed)
    for folder, colour in folders.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            height, width = random.randint(45, 90, 2)
            pixels = np.clip(random.randn(height, width, 3) * 20 + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.jpg")
    return root


@pytest.fixture
def backbone(tmp_path: Path, register: Callable[[str, type[Plugin]], None]) -> str:
    """The published network, with random weights."""
    register("published", Published)
    torch.manual_seed(1)
    network = Published(hidden=8, width=4).build(len(NAMES), (3, SIDE, SIDE))
    torch.save(network.state_dict(), tmp_path / "published.pt")
    return f"published[hidden=8,width=4,source={tmp_path / 'published.pt'}]"


@pytest.fixture
def plan(tmp_path: Path, backbone: str) -> Callable[..., Prepared]:
    """Prepare a run from two folders of photographs."""
    for split, count in (("train", 20), ("test", 12)):
        photographs(tmp_path / "photos", {f"{split}/{name}": colour for name, colour in COLOURS.items()}, count, count)
    photographs(tmp_path / "others", {"stone": (120, 120, 120)}, 15, 3)

    def prepared(detectors: str = "msp", results: str = "results", **options: Any) -> Prepared:
        where = {"results": tmp_path / results, "data_dir": tmp_path, "threads": 1, "device": "cpu"}
        sets = {"id_sets": f"folder:{tmp_path / 'photos'}", "ood_sets": f"folder:{tmp_path / 'others'}"}
        return prepare(detectors, **{"backbone": backbone, "stability": False, **sets, **where, **options})

    return prepared


def jobs_of(prepared: Prepared, kind: type) -> list[Any]:
    return [job for job in prepared.plan.jobs.values() if isinstance(job, kind)]


def test_one_command_from_photographs_to_a_table(plan: Callable[..., Prepared]) -> None:
    prepared = plan("msp,knn,gram", recipe="linear_probe", seeds=2)
    done = prepared.start()
    assert {(record.status, record.recipe) for record in done.records} == {("ok", "linear_probe")}
    assert min(record.id_accuracy or 0 for record in done.records) == 1
    assert {record.training["start_file"] for record in done.records} == {"published.pt"}
    assert {record.preprocessing for record in done.records} == {"shorter side 44 bicubic, centre 40x40"}
    passes = [job for job in jobs_of(prepared, ExtractJob) if not job.features_stored]
    assert len(passes) == 4  # training, validation, test and OOD photographs, once for both seeds
    assert {job.block for job in jobs_of(prepared, ExtractJob)} == {passes[0].block}
    job = jobs_of(prepared, HeadJob)[0]
    (tested,) = [j for j in jobs_of(prepared, ExtractJob) if j.checkpoint == job.checkpoint and "(test)" in j.title][:1]
    images = torch.from_numpy(np.array(prepared.context.images(tested.outputs.data).images[:])).float() / 255
    with torch.no_grad():
        whole = prepared.context.classifier(job.checkpoint).network(images).numpy()
    logits = prepared.context.store.load_array(tested.outputs.logits)
    assert np.allclose(logits, whole, rtol=1e-4, atol=1e-4)


def test_without_a_recipe_the_pretrained_head_is_evaluated_in_the_same_pass(plan: Callable[..., Prepared]) -> None:
    prepared = plan("msp,msp@linear_probe")
    done = prepared.start()
    assert [record.label for record in done.records] == ["msp@pretrained", "msp@linear_probe"]
    assert len(jobs_of(prepared, ImportJob)) == 1
    passes = [job for job in jobs_of(prepared, ExtractJob) if not job.features_stored]
    assert sorted(str(job.outputs.data) for job in passes) == [
        "folder:others (test)", "folder:photos (test)", "folder:photos (train)",
    ] or len(passes) == 3  # fmt: skip
    assert done.records[0].id_accuracy < done.records[1].id_accuracy == 1  # type: ignore[operator]


def test_detectors_that_train_are_skipped(plan: Callable[..., Prepared]) -> None:
    prepared = plan("all", recipe="linear_probe", seeds=2)
    reasons = {cell.record.detector: cell.record.reason for cell in prepared.plan.cells if cell.record.reason}
    assert reasons["joint"].endswith("recipe 'joint', which does not start from given weights")
    assert reasons["gan_confidence"].endswith("recipe 'gan_confidence', which does not start from given weights")
    assert not jobs_of(prepared, TrainJob)


def test_classes_that_are_no_outputs_need_a_new_head(plan: Callable[..., Prepared], tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        photographs(tmp_path / "mine", {f"{split}/{name}": COLOURS["cat"] for name in ("oak", "ash")}, 3, seed)
    mine = {"id_sets": f"folder:{tmp_path / 'mine'}"}
    with pytest.raises(UserError, match=r"To fit a new head to its features, add --recipe linear_probe\.$"):
        plan(**mine)
    assert plan(recipe="linear_probe", **mine).work.jobs


def test_a_given_head_of_more_classes_is_where_fine_tuning_starts(
    plan: Callable[..., Prepared], tmp_path: Path
) -> None:
    prepared = plan(recipe="fine_tune[learning_rate=1e-30]", epochs=1)
    (record,) = prepared.start().records
    (job,) = jobs_of(prepared, TrainJob)
    weights = load_file(prepared.context.store.require(job.checkpoint.key))
    rows = [NAMES.index(name) for name in sorted(COLOURS)]
    given = torch.load(tmp_path / "published.pt", weights_only=True)
    assert torch.allclose(weights["classifier.head.weight"], given["head.weight"][rows], atol=1e-12)
    assert (record.status, record.training["epochs"], record.training["start_file"]) == ("ok", 1, "published.pt")


class StoppedError(Exception):
    """Stands for the end of the process."""


def test_fine_tuning_on_photographs_resumes(plan: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second epoch, it ends with the bytes of an undisturbed training."""
    options = {"recipe": "fine_tune[learning_rate=0.05]", "epochs": 3}
    expected = plan(**options)
    done = expected.start()
    (job,) = jobs_of(expected, TrainJob)
    (imported,) = jobs_of(expected, ImportJob)
    cut = plan(results="cut", **options)
    run_job(cut.context, imported, lambda _: None)
    step, steps = TrainLoop._step, list[int]()

    def stopping(self: TrainLoop, tick: Callable[[int], None]) -> None:
        if len(steps) == 2:
            raise StoppedError
        steps.append(1)
        step(self, tick)

    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "_step", stopping)
        with pytest.raises(StoppedError):
            training.train(cut.context, job, lambda _: None, SnapshotIntervals(after_epoch=0.0, within_epoch=0.0))
    again = plan(results="cut", **options).start()
    assert again.records[0].metrics == done.records[0].metrics
    one, other = (prepared.context.store.require(job.checkpoint.key) for prepared in (expected, cut))
    assert one.read_bytes() == other.read_bytes()
    assert cut.context.store.about(job.checkpoint.key)["stops"] == 1


class OnlyTest(Dataset):
    """Labelled test images of three colours, and nothing to train on."""

    splits = ("test",)
    classes = tuple(sorted(COLOURS))

    def load(self, split: str, data_dir: Path) -> ImageSet:
        labels = np.arange(90) % 3
        colours = np.array([COLOURS[name] for name in self.classes])[labels]
        noise = np.random.RandomState(0).randn(90, 3, 32, 32) * 20
        return ImageSet(np.clip(noise + colours[:, :, None, None], 0, 255).astype(np.uint8), labels, self.classes)


def test_a_head_is_fitted_to_held_out_images_where_there_are_no_others(
    plan: Callable[..., Prepared], register: Callable[[str, type[Plugin]], None]
) -> None:
    register("only", OnlyTest)
    options = {"id_sets": "only", "recipe": "linear_probe"}
    with pytest.raises(
        UserError, match=r"recipe 'linear_probe' learns from training images, and there are none: .*--fit-fr"
    ):
        plan(**options)
    prepared = plan("msp,knn", fit_from=0.5, **options)
    done = prepared.start()
    assert {record.id_accuracy for record in done.records} == {1.0}
    (job,) = jobs_of(prepared, HeadJob)
    fitted = prepared.context.images(job.train.data)
    scored = prepared.context.images(next(cell.pair.id for cell in prepared.plan.cells if cell.pair))
    assert len(fitted) + len(scored) <= 90
    one, other = ({image.tobytes() for image in images.images[:]} for images in (fitted, scored))
    assert not one & other


def test_a_head_is_fitted_to_features_of_half_precision(plan: Callable[..., Prepared]) -> None:
    expected = plan("msp,knn", recipe="linear_probe").start()
    done = plan("msp,knn", "other", recipe="linear_probe", store_features="float16").start()
    for one, other in zip(expected.records, done.records, strict=True):
        assert (other.status, other.id_accuracy) == ("ok", 1.0)
        assert other.metrics["auroc"] == pytest.approx(one.metrics["auroc"], abs=0.05)
