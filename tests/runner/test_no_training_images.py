"""ID sets without training images: which detectors run, on which images they are fitted, and which are scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from oodbench.benchmark import Dataset, ImageSet
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data.fit_images import FitImages, at_most, held_out_rows, parse_part
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, HeadJob, SetRef
from oodbench.benchmark.plan.plan import Cell
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec
from oodbench.benchmark.records.record import OK, SKIPPED, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.verify.repeat import prepare_repetition
from oodbench.benchmark.verify.run import verify
from tests.support import bench, encode_image, noise_images, write_suite

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

CLASSES = ("dark", "grey", "light", "white")
PER_CLASS = 30
BACKBONE = "small_cnn[hidden=16,width=4]"
OF_LOGITS = ("msp", "energy", "max_logit", "entropy")


def shades(count: int, seed: int) -> ImageSet:
    """`count` images of each class, in the order of a folder: class by class."""
    labels = np.repeat(np.arange(len(CLASSES)), count)
    noise = noise_images(len(labels), seed) // 4
    return ImageSet(noise + (48 * labels).astype(np.uint8)[:, None, None, None], labels, CLASSES)


class OnlyTest(Dataset):
    """Labelled test images, and nothing to train on."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    classes = CLASSES

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The images."""
        return shades(PER_CLASS, 0)


class WithTraining(OnlyTest):
    """The same with a training split."""

    splits = ("train", "test")

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The images."""
        return shades(2 * PER_CLASS, 1) if split == "train" else shades(PER_CLASS, 0)


class WithValidation(OnlyTest):
    """The same with a published validation split, and without training images."""

    splits = ("val", "test")

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The images."""
        return shades(PER_CLASS // 2, 2) if split == "val" else shades(PER_CLASS, 0)


class Other(Dataset):
    """OOD images."""

    splits = ("test",)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Noise."""
        return ImageSet(noise_images(50, 3))


Bench = Callable[..., Prepared]


@pytest.fixture
def world(tmp_path: Path, register: Callable[[str, type[Plugin]], None]) -> Bench:
    """Register the sets, and return a function that plans a run of given weights on one of them."""
    for name, kind in (("only", OnlyTest), ("both", WithTraining), ("published", WithValidation), ("other", Other)):
        register(name, kind)

    def plan(detectors: str = "msp", id_set: str = "only", fit: str = "", **options: Any) -> Prepared:
        spec = parse_set(id_set)
        classes = len(CLASSES) if spec.classes is None else len(spec.classes)
        file = tmp_path / f"w{classes}.pt"
        if not file.exists():
            torch.manual_seed(0)
            torch.save(create("backbone", parse_spec(BACKBONE)).build(classes, (3, 32, 32)).state_dict(), file)
        suite = write_suite(
            tmp_path, f"[[id]]\nset = '{id_set}'\nood = [{{ set = 'other' }}]\n{fit}", backbone=BACKBONE
        )
        given = {"checkpoint": file, **options}
        return prepare(detectors, **{"suite": str(suite), "results": tmp_path / "results", "stability": False, **given})

    return plan


def record_of(run: StoredRun, label: str) -> Record:
    (found,) = [record for record in run.records if record.detector == label]
    return found


def cell_of(prepared: Prepared, detector: str) -> Cell:
    (found,) = [cell for cell in prepared.plan.cells if cell.record.detector == detector]
    return found


# Plans and runs


@pytest.mark.slow
def test_every_detector_of_logits_runs_and_those_that_learn_are_skipped_with_the_reason(world: Bench) -> None:
    run = world("all", stability=True, metrics="extended").start()
    for name in OF_LOGITS:
        assert record_of(run, name).status == OK
    skipped = {record.detector: record.reason for record in run.records if record.status == SKIPPED}
    expected = "it learns from training images, and 'only' has none: --fit-from 0.2, or fit = 0.2 in the suite, holds"
    for name in ("mahalanobis", "knn", "react", "gram", "temperature_scaling", "vim"):
        assert skipped[name].startswith(expected), name
    assert "trained by recipe 'joint'" in skipped["joint"]
    of_msp = record_of(run, "msp")
    assert (of_msp.n_id, of_msp.n_ood, of_msp.fitted_on) == (len(CLASSES) * PER_CLASS, 50, {})
    assert of_msp.stability
    assert "ece" in of_msp.extended
    assert "tpr_validation" not in of_msp.extended
    (pair,) = run.info["pairs"]
    assert pair["one_class"] is None
    assert pair["trivial"]["auroc"] > 0.5
    assert any("detectors that learn from them are left out" in note for note in run.info["notes"])
    verification = verify(run.path, run.path.parents[1], run.path)
    assert verification.problems == []
    assert not any(record.status == "failed" for record in run.records)


def learnt(job: FitJob) -> tuple[SetRef, SetRef]:
    """The images that a detector learns from, and its validation images."""
    assert job.train is not None
    assert job.validation is not None
    return job.train.data, job.validation.data


def test_a_held_out_part_of_the_test_split_is_fitted_on_and_not_scored(world: Bench) -> None:
    prepared = world("msp,mahalanobis,knn,temperature_scaling", fit="fit = 0.2", metrics="extended", stability=True)
    fits = [job for job in prepared.plan.jobs.values() if isinstance(job, FitJob)]
    library = prepared.context.library
    assert {learnt(job)[0].part for job in fits} == {"train, 0.2 of test held out"}
    (pair,) = prepared.plan.pairs
    parts = [library.part(parse_set("only"), ref.part).images for ref in (pair.id, *learnt(fits[0]))]
    rows = [{image.tobytes() for image in part} for part in parts]
    assert [len(part) for part in parts] == [96, 20, 4]
    assert not rows[0] & (rows[1] | rows[2])
    assert not rows[1] & rows[2]
    assert rows[0] | rows[1] | rows[2] == {image.tobytes() for image in shades(PER_CLASS, 0).images}
    run = prepared.start()
    assert [record.reason for record in run.records] == [""] * 4
    for record in run.records:
        assert record.n_id == 96
        assert record.fitted_on == {"split": "test", "share": 0.2, "images": 20, "validation": 4}
        assert "tpr_validation" in record.extended
    assert (
        "Detectors are fitted on 20 and, for validation, 4 images, of the test split of 'only', which are not scored: "
        "tables are about the other 96 of 120 test images."
    ) in run.info["notes"]
    assert run.info["pairs"][0]["one_class"]["fitted_on"] == 20
    assert verify(run.path, run.path.parents[1], run.path).problems == []


def test_fit_images_per_class_come_evenly_from_the_training_split(world: Bench) -> None:
    prepared = world("mahalanobis", "both", fit="fit_per_class = 10")
    (fit,) = (job for job in prepared.plan.jobs.values() if isinstance(job, FitJob))
    train, validation = learnt(fit)
    assert (train.part, train.images) == ("train, at most 10 per class", 36)
    assert (validation.part, validation.images) == ("validation, at most 10 per class", 4)
    labels = prepared.context.library.part(parse_set("both"), train.part).labels
    assert labels is not None
    assert np.bincount(labels).tolist() == [9] * 4
    passed = {job.outputs.data.part for job in prepared.plan.jobs.values() if isinstance(job, ExtractJob)}
    assert passed == {"test", train.part, validation.part}  # the whole training split is not read
    record = record_of(prepared.start(), "mahalanobis")
    assert record.status == OK
    assert record.n_id == 120
    assert record.fitted_on == {"split": "train", "per_class": 10, "images": 36, "validation": 4}


def test_detectors_learn_from_a_published_validation_split(world: Bench) -> None:
    assert cell_of(world("msp", "published"), "msp").record.status == OK
    with pytest.raises(UserError, match=r"'published' has none: its validation split serves with --fit-from val"):
        world("mahalanobis", "published")
    prepared = world("mahalanobis,temperature_scaling", "published", fit_from="val", fit_per_class=10)
    (fit, _) = (job for job in prepared.plan.jobs.values() if isinstance(job, FitJob))
    train, _ = learnt(fit)
    assert (train.part, train.images) == ("train, of val, at most 10 per class", 36)
    run = prepared.start()
    assert {record.status for record in run.records} == {OK}
    assert record_of(run, "mahalanobis").n_id == 120
    assert record_of(run, "mahalanobis").fitted_on["split"] == "val"


def test_options_override_the_suite_and_keys_differ_by_what_is_fitted_on(world: Bench) -> None:
    scores = {}
    declared: dict[str, dict[str, Any]] = {
        "suite": {},
        "train": {"fit_from": "train"},
        "share": {"fit_from": 0.3},
        "fewer": {"fit_from": "0.3", "fit_per_class": 5},
    }
    for name, options in declared.items():
        cell = cell_of(world("mahalanobis", "both", fit="fit = 0.2", **options), "mahalanobis")
        assert cell.id_scores
        assert cell.ood_scores
        scores[name] = cell.ood_scores.digest
    assert len(set(scores.values())) == 4
    plain = cell_of(world("mahalanobis", "both"), "mahalanobis")
    assert plain.ood_scores
    assert plain.ood_scores.digest == scores["train"]


def test_class_subsets_of_a_set_without_training_images(world: Bench) -> None:
    run = world("msp,mahalanobis", "only[0,2,3]", fit_from=0.2).start()
    assert {(record.status, record.n_id) for record in run.records} == {(OK, 72)}


def test_what_trains_is_refused_in_one_sentence(world: Bench) -> None:
    with pytest.raises(UserError, match=r"^Nothing to run: Data set 'only' has no train split, only test\.$"):
        world("msp", checkpoint="")
    with pytest.raises(UserError, match="its classifier is to be trained by recipe 'joint', and --checkpoint trains"):
        world("joint")


def test_a_head_learns_from_what_detectors_learn_from(world: Bench) -> None:
    prepared = world("msp,knn", recipe="linear_probe", fit_from=0.2)
    (head,) = (job for job in prepared.plan.jobs.values() if isinstance(job, HeadJob))
    assert head.train.data.part == "train, 0.2 of test held out"
    run = prepared.start()
    assert [(record.reason, record.n_id) for record in run.records] == [("", 96)] * 2
    with pytest.raises(UserError, match="recipe 'linear_probe' learns from training images, and there are none: --fit"):
        world("msp", recipe="linear_probe")


@pytest.mark.slow
def test_a_tuned_run_chooses_settings_on_held_out_images_and_is_repeated(world: Bench) -> None:
    options = {"protocol": "leave_one_out", "ood_sets": "other,uniform", "fit_from": 0.3}
    run = world("energy,knn", **options).start()
    assert {(record.status, record.n_id, record.n_ood) for record in run.records} >= {(OK, 84, 25)}
    tuned = [record.tuned["on"] for record in run.records]
    assert all(tuned)
    repetition = prepare_repetition(run.path)
    for prepared in repetition.commands():
        prepared.start()
    assert {cell.verdict for cell in repetition.compare().cells} == {"exactly"}


def test_settings_cannot_be_chosen_without_validation_images(world: Bench) -> None:
    with pytest.raises(
        UserError, match="its settings are chosen on validation images, and 'only' has none: --fit-from"
    ):
        world("energy", protocol="leave_one_out")
    with pytest.raises(
        UserError, match=r"'published' has no training images; its validation split serves with --fit-from val"
    ):
        world("energy", "published", protocol="leave_one_out")


def test_a_repeated_image_among_fit_and_scored_images_is_found(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shades(PER_CLASS, 0)
    images = whole.images.copy()
    images[29], images[59] = images[0], images[30]  # the last of two classes, which are held out
    copied = ImageSet(images, whole.labels, CLASSES)
    monkeypatch.setattr(OnlyTest, "load", lambda *_: copied)
    with pytest.raises(UserError, match="2 of 96 test images of 'only' are images of 'only' that detectors are fitted"):
        world("mahalanobis", fit_from=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_from": "0.95"}, r"--fit-from is 0\.95; it must be .train., .val., or the share"),
        ({"fit_from": "some"}, "--fit-from is some; it must be"),
        ({"fit_per_class": 1}, "--fit-per-class must be a whole number from 2; got 1"),
        ({"fit": "fit = true"}, "fit of 'only' is True; it must be"),
        ({"fit": "fit_per_class = 0"}, "fit_per_class of 'only' is 0; it must be a whole number from 2"),
        ({"fit_from": "val"}, "Data set 'only' has no val split, only test"),
    ],
)
def test_wrong_declarations_are_refused(world: Bench, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        world("mahalanobis", **options)


def test_the_command_line_takes_both_options(world: Bench, tmp_path: Path) -> None:
    world("msp")
    arguments = ("--suite", tmp_path / "tiny.toml", "--checkpoint", tmp_path / "w4.pt")
    more = ("--detectors", "mahalanobis", "--fit-from", "0.4", "--fit-per-class", "5", "--results", tmp_path / "r")
    result = bench("run", *arguments, *more, "--dry-run", "--no-stability")
    assert result.exit_code == 0, result.output
    assert "only (train, 0.4 of test held out, at most 5 per class)" in result.output


# Parts and rows


@pytest.mark.parametrize(
    "fit",
    [FitImages(), FitImages(0.2), FitImages(0.25, per_class=7), FitImages(per_class=50), FitImages(val=True)],
)
def test_the_name_of_a_part_says_its_rule(fit: FitImages) -> None:
    assert parse_part(fit.part("train")) == ("train", fit)
    assert parse_part("outliers") == ("outliers", FitImages())


def test_the_same_images_are_held_out_in_every_process(world: Bench, tmp_path: Path) -> None:
    spec, part = parse_set("only"), FitImages(0.3).part("scored")
    assert len({Library(tmp_path).part(spec, part).checksum for _ in range(2)}) == 1


def test_groups_are_never_split_between_fitted_and_scored_images() -> None:
    labels = np.tile(np.arange(3), 40)
    groups = np.arange(120) // 12
    test = ImageSet(noise_images(120), labels, ("a", "b", "c"), groups)
    fitted, scored = held_out_rows(test, FitImages(0.25), "x")
    assert not set(groups[fitted]) & set(groups[scored])
    assert set(groups[fitted]) == {7, 8, 9}
    fitted, fewer = held_out_rows(test, FitImages(0.25, per_class=3), "x")
    assert np.bincount(labels[fitted]).tolist() == [3, 3, 3]
    assert np.array_equal(fewer, scored)  # the rest of a held-out group is not scored either


def test_where_one_group_is_held_out_its_images_are_divided_by_class(tmp_path: Path) -> None:
    """The test split of digits has four writers."""
    library, fit, spec = Library(tmp_path), FitImages(0.2), parse_set("digits")
    parts = {role: library.part(spec, fit.part(role)) for role in ("train", "validation", "scored")}
    writers = {
        role: set(np.unique(images.groups).tolist()) for role, images in parts.items() if images.groups is not None
    }
    assert writers["train"] == writers["validation"]
    assert len(writers["train"]) == 1
    assert not writers["train"] & writers["scored"]
    assert sum(map(len, parts.values())) == len(library.part(spec, "test"))


def test_too_few_images_of_a_class_are_refused() -> None:
    test = ImageSet(noise_images(5), np.array([0, 0, 0, 1, 1]), ("a", "b"))
    with pytest.raises(DataError, match="'x' has 2 test images of class 'b', too few to hold some out"):
        held_out_rows(test, FitImages(0.2), "x")


def test_at_most_so_many_of_each_class_evenly_spaced() -> None:
    labels = np.array([0] * 10 + [1] * 2)
    assert np.flatnonzero(at_most(labels, np.ones(12, dtype=bool), 5)).tolist() == [0, 2, 4, 6, 8, 10, 11]
    assert at_most(labels, labels == 1, 0).tolist() == [False] * 10 + [True] * 2


# Folders


@pytest.mark.parametrize("top", ["val", "test"])
def test_a_folder_of_val_or_test_alone_is_an_id_set_for_given_weights(world: Bench, tmp_path: Path, top: str) -> None:
    images = shades(12, 5)
    assert images.labels is not None
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = tmp_path / "mine" / top / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image.transpose(1, 2, 0)))
    world("msp")  # writes weights for four classes
    options = {"id_sets": f"folder:{tmp_path / 'mine'}", "ood_sets": "other"}
    run = world("msp,energy,mahalanobis", fit_from=0.25, **options).start()
    assert [record.reason for record in run.records] == [""] * 3
    assert {record.n_id for record in run.records} == {36}
    assert run.records[0].fitted_on["images"] + run.records[0].fitted_on["validation"] == 12
    with pytest.raises(UserError, match=r"has none: --fit-from 0\.2, or fit = 0.2 in the suite, holds out test images"):
        world("mahalanobis", **options)
    with pytest.raises(UserError, match=r"no train split.*With given weights \(--checkpoint\), it needs none\."):
        world("msp", checkpoint="", **options)
