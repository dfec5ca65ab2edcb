"""Leakage: every split that a plan uses is compared with every other, before any work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark import Form
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data import duplicates
from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.records.record import WARNING
from tests.data.image_sets import image_set, noisy, smooth
from tests.support import bench, prepare_suite, write_suite

Register = Callable[[str, type[Plugin]], None]
Plan = Callable[..., Prepared]

SHAPE = (3, 32, 32)

MATRIX = """
[[id]]
set = "known"
outliers = "outliers"
tuning = "tuning"
shifted = ["known+same"]
ood = [{ set = "near" }, { set = "far" }]

[[id]]
set = "other"
ood = [{ set = "far" }]
"""

NAMES = ("known", "outliers", "tuning", "near", "far", "other")
TRAIN, TEST = 100, 200
"""Images of every set; one test image is less than 1%, ten are more."""


class Same(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        copied: np.ndarray = images.copy()
        return copied


def splits(name: str) -> dict[str, np.ndarray]:
    """The images of a set; no two sets or splits share any."""
    seed = 2 * NAMES.index(name)
    return {"train": smooth(TRAIN, seed, SHAPE), "test": smooth(TEST, seed + 1, SHAPE)}


@pytest.fixture
def plan(tmp_path: Path, register: Register, undrawn: None) -> Plan:
    """Plan a run on small sets; `copies`: (set, split, first image, images) to overwrite, and what with."""
    register("same", Same)

    def run(
        copies: tuple[str, str, str, str, int] | None = None,
        changed: Callable[[np.ndarray], np.ndarray] = np.copy,
        detectors: str = "msp",
        **options: object,
    ) -> Prepared:
        images = {name: splits(name) for name in NAMES}
        if copies is not None:
            to, to_split, of, of_split, count = copies
            source = images[of][of_split]
            # The last images of a training split without groups are validation images; copies are of the first.
            images[to][to_split][len(images[to][to_split]) - count :] = changed(source[:count])
        for name in NAMES:
            register(name, image_set(images[name]["train"], images[name]["test"]))
        return prepare_suite(write_suite(tmp_path, MATRIX), detectors, **options)

    return run


REFUSED = {
    "ID test in ID training": (
        ("known", "test", "known", "train", 10),
        {},
        "10 of 200 test images of 'known' are training images of 'known'. Remove them from one split, or choose "
        "another --id.",
    ),
    "ID training in ID test": (
        ("known", "train", "known", "test", 10),
        {},
        "10 of 200 test images of 'known' are training images of 'known'.",
    ),
    "ID test among outliers": (
        ("outliers", "train", "known", "test", 10),
        {},
        "10 test images of 'known' are among the outliers 'outliers' that training may see. Choose other outliers",
    ),
    "ID test among tuning images": (
        ("tuning", "train", "known", "test", 10),
        {"protocol": "val_ood", "detectors": "odin"},
        "10 test images of 'known' are in 'tuning', which protocol 'val_ood' tunes on. Choose another tuning set",
    ),
    "OOD test in ID training": (
        ("near", "test", "known", "train", 10),
        {},
        "10 of 200 test images of 'near' are training images of 'known'. Choose another --ood for 'known'.",
    ),
    "OOD test in ID test": (
        ("near", "test", "known", "test", 10),
        {},
        "10 of 200 test images of 'near' are test images of 'known'. Choose another --ood for 'known'.",
    ),
    "OOD test among outliers": (
        ("near", "test", "outliers", "train", 10),
        {},
        "10 test images of 'near' are among the outliers 'outliers' that training may see. Choose another --ood",
    ),
    "OOD test among tuning images": (
        ("near", "test", "tuning", "train", 1),
        {"protocol": "val_ood", "detectors": "odin"},
        "1 test image of 'near' is in 'tuning', which protocol 'val_ood' tunes on. Choose another --ood",
    ),
    "outliers tested on under their own name": (
        ("outliers", "test", "outliers", "train", 10),
        {"ood_sets": "outliers"},
        "10 test images of 'outliers' are among the outliers 'outliers' that training may see. Choose another --ood",
    ),
    "tuning images tested on under their own name": (
        ("tuning", "test", "tuning", "train", 10),
        {"protocol": "val_ood", "detectors": "odin", "ood_sets": "tuning"},
        "10 test images of 'tuning' are in 'tuning', which protocol 'val_ood' tunes on. Choose another --ood",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_test_images_that_something_has_seen_are_refused(plan: Plan, case: str) -> None:
    copies, options, expected = REFUSED[case]
    named = {"id_sets": "known", "ood_sets": "near", **options}
    with pytest.raises(UserError) as refused:
        plan(copies, **named)
    assert expected in str(refused.value)
    assert not any(" are " in note for note in plan(None, **named).context.library.notes)


def test_an_id_folder_that_tests_on_its_training_images_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for row, image in enumerate(smooth(40, 1, SHAPE)):
            path = tmp_path / "mine" / split / "ab"[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    name = f"folder:{tmp_path / 'mine'}"
    refused = bench("run", "--id", name, "--ood", "gaussian", "--detectors", "msp", "--results", tmp_path / "results")
    assert refused.exit_code == 2
    assert "40 of 40 test images of 'folder:mine' are training images of 'folder:mine'. Remove them" in refused.output
    assert not (tmp_path / "results/runs").exists()


def test_what_all_includes_and_spoils_its_test_images_is_left_out_with_the_reason(plan: Plan) -> None:
    prepared = plan(("known", "test", "known", "train", 10))
    assert {cell.record.id_set for cell in prepared.plan.cells} == {"other"}
    reason = "10 of 200 test images of 'known' are training images of 'known'"
    assert [(absence.what, absence.reason) for absence in prepared.plan.skipped] == [("known", reason)]
    prepared = plan(("near", "test", "known", "test", 10))
    assert {cell.record.ood_set for cell in prepared.plan.cells} == {"far"}
    assert [absence.what for absence in prepared.plan.skipped] == ["near"]


NOTED = {
    ("known", "test", "known", "train", 1): "1 of 200 test images of 'known' are training images of 'known': they are "
    "repeated in the set.",
    ("known", "test", "outliers", "train", 1): "1 test image of 'known' is among the outliers 'outliers' that "
    "training may see, by accident: the sets share them.",
    ("near", "test", "known", "test", 1): "1 of 200 test images of 'near' are test images of 'known', by accident: the "
    "sets share them.",
    ("known", "train", "known", "train", 8): "8 of 10 validation images of 'known' are training images of 'known': "
    "what is chosen or measured on them looks better than it is.",
    ("outliers", "train", "known", "train", 8): "8 of 100 outliers 'outliers' are training images of 'known'.",
    ("far", "test", "near", "test", 10): "10 of 200 test images of 'far' are test images of 'near': a mean over both "
    "counts them twice.",
}


@pytest.mark.parametrize("copies", NOTED)
def test_what_spoils_few_or_no_test_images_is_noted(plan: Plan, copies: tuple[str, str, str, str, int]) -> None:
    assert plan(copies, id_sets="known").context.library.notes == [NOTED[copies]]


def test_tuning_images_that_trained_are_noted(plan: Plan) -> None:
    notes = plan(
        ("tuning", "train", "known", "train", 5), detectors="odin", id_sets="known", protocol="val_ood"
    ).context.library.notes
    expected = "5 of 100 images of 'tuning', which protocol 'val_ood' tunes on, are training images of 'known'."
    assert notes == [expected]


def test_shifted_images_that_trained_are_refused_if_they_are_scored(plan: Plan, register: Register) -> None:
    class Trained(Form):
        def apply(self, images: np.ndarray) -> np.ndarray:
            return splits("known")["train"][np.arange(len(images)) % TRAIN]

    register("same", Trained)
    with pytest.raises(UserError, match="200 of 200 test images of 'known\\+same' are training images of 'known'"):
        plan(id_sets="known", metrics="extended")
    assert plan(id_sets="known").context.library.notes == []


def test_id_test_images_in_a_form_of_the_id_set_are_a_warning_under_the_tables(plan: Plan, logged: list[str]) -> None:
    prepared = plan(id_sets="known", ood_sets="known+same,far")
    expected = (
        "200 of 200 test images of 'known+same' are test images of 'known': they are scored as ID and as OOD, and no "
        "detector can tell them apart."
    )
    assert logged == [expected]
    run = prepared.start()
    assert [record.status for record in run.records] == ["ok", "ok"]
    assert next(record.metrics["auroc"] for record in run.records if record.ood_set == "known+same") == 0.5
    assert f"{WARNING}{expected}" in (run.path / "table.md").read_text(encoding="utf-8")
    assert "Note: Warning" not in (run.path / "table.md").read_text(encoding="utf-8")


def test_settings_are_not_chosen_on_id_test_images(plan: Plan) -> None:
    sets = {"id_sets": "known", "ood_sets": "known+same,far", "protocol": "leave_one_out"}
    cells = {cell.record.ood_set: cell.record.reason for cell in plan(detectors="odin", **sets).plan.cells}
    assert cells["known+same"] == ""
    assert (
        cells["far"] == "100 of 200 test images of 'known' are among those of 'known+same' that settings are chosen on"
    )


NEAR = {
    ("known", "test", "known", "train", 10): "10 of 200 test images of 'known' are near-duplicates of training images "
    "of 'known' (RMS difference at most 12 of 255 grey levels); they are scored all the same.",
    ("known", "test", "outliers", "train", 10): "10 of 200 test images of 'known' are near-duplicates of the outliers "
    "'outliers' (RMS difference at most 12 of 255 grey levels); they are scored all the same.",
    ("far", "test", "known", "test", 10): "10 of 200 test images of 'far' are near-duplicates of test images of "
    "'known' (RMS difference at most 12 of 255 grey levels); they are scored all the same.",
    ("known", "train", "known", "train", 8): "Other near-duplicates (RMS difference at most 12 of 255 grey levels): 8 "
    "of 10 validation images of 'known' and training images of 'known'.",
    ("far", "test", "near", "test", 10): "Other near-duplicates (RMS difference at most 12 of 255 grey levels): 10 of "
    "200 test images of 'far' and test images of 'near'.",
    ("outliers", "train", "known", "train", 10): "Other near-duplicates (RMS difference at most 12 of 255 grey "
    "levels): 10 of 100 outliers 'outliers' and training images of 'known'.",
}


@pytest.mark.parametrize("copies", NEAR)
def test_near_duplicates_between_any_two_splits_are_noted_and_never_refused(
    plan: Plan, copies: tuple[str, str, str, str, int]
) -> None:
    prepared = plan(copies, partial(noisy, sigma=4), detectors="msp@confidence", id_sets="known")
    assert prepared.plan.skipped == []
    assert prepared.start().info["notes"] == [NEAR[copies]]


def test_counts_are_stored_and_sets_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (ImageSet(smooth(30, seed)) for seed in range(3))
    copied = ImageSet(np.concatenate([two.images, one.images[:4]]))
    hashed: list[int] = []
    hashes_of = duplicates._hashes

    def counted(images: np.ndarray, block_bytes: int) -> np.ndarray:
        hashed.append(len(images))
        return hashes_of(images, block_bytes)

    monkeypatch.setattr(duplicates, "_hashes", counted)
    counts = CachedDuplicates(DataCache(tmp_path))
    assert [counts.exact(one, copied), counts.exact(three, copied), counts.exact(one, two)] == [4, 0, 0]
    assert len(hashed) == 4
    again = CachedDuplicates(DataCache(tmp_path))
    assert [again.exact(one, copied), again.exact(three, copied), again.exact(one, two)] == [4, 0, 0]
    assert len(hashed) == 4


@pytest.mark.slow
def test_the_default_suite_and_its_forms_share_no_images(tmp_path: Path) -> None:
    prepared = prepare("msp", results=tmp_path, metrics="extended", threads=1)
    assert prepared.plan.skipped == []
    assert prepared.context.library.notes == []
    for form in ("permuted", "blurred", "faded", "inverted"):
        prepared = prepare("msp", id_sets="digits", ood_sets=f"digits+{form}", results=tmp_path, threads=1)
        assert prepared.context.library.notes == []
