"""Leakage: exact and near-duplicates between training and test images, and what a detector can reach in fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Dataset, Detector, FitData, ImageSet
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data import duplicates
from oodbench.benchmark.data.duplicates import CachedDuplicates, descriptors, exact_duplicates, near_duplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import NEEDS
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.store import Store
from tests.data.image_sets import image_set, noisy, smooth
from tests.support import prepare_suite, reachable, write_suite

Register = Callable[[str, type[Plugin]], None]


def rms(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """RMS difference of every pair, float64 (N, M), computed naively."""
    differences = one[:, None].astype(np.float64) - other[None]
    result: np.ndarray = np.sqrt((differences**2).mean(axis=(2, 3, 4)))
    return result


@pytest.mark.parametrize("shape", [(3, 16, 20), (1, 5, 7), (3, 1, 1)])
def test_all_exact_copies_are_found_and_nothing_else(shape: tuple[int, int, int]) -> None:
    random = np.random.RandomState(3)
    seen = random.randint(0, 256, (50, *shape)).astype(np.uint8)
    tested = np.concatenate([seen[[4, 4, 49]], random.randint(0, 256, (20, *shape)).astype(np.uint8), seen[:2] ^ 1])
    known = {image.tobytes() for image in seen}
    assert exact_duplicates(seen, tested) == sum(image.tobytes() in known for image in tested) >= 3
    assert exact_duplicates(seen, tested[:, :, :, :0].repeat(2, axis=3)) == 0  # of another shape


def test_pixels_are_compared_when_hashes_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_hashes", lambda images, _: np.zeros(len(images), dtype=np.uint64))
    seen = smooth(9, seed=0)
    assert exact_duplicates(seen, np.concatenate([smooth(7, seed=1), seen[5:6]])) == 1


@pytest.mark.parametrize("shape", [(3, 16, 20), (1, 9, 5), (2, 8, 8)])
def test_the_distance_of_descriptors_is_a_lower_bound(shape: tuple[int, int, int]) -> None:
    random = np.random.RandomState(0)
    images = np.concatenate([smooth(20, 0, shape), random.randint(0, 256, (20, *shape)).astype(np.uint8)])
    described = descriptors(images).astype(np.float64)
    distances = np.sqrt(((described[:, None] - described[None]) ** 2).sum(axis=2))
    assert (distances <= rms(images, images) + 1e-3).all()
    flat = np.full((1, *shape), 10, np.uint8), np.full((1, *shape), 60, np.uint8)
    assert np.linalg.norm(descriptors(flat[0]) - descriptors(flat[1])) == pytest.approx(50, abs=1e-3)


@pytest.mark.parametrize("near", [3.0, 12.0, 30.0])
def test_near_duplicates_match_a_loop_over_all_pairs(near: float) -> None:
    seen = smooth(120, seed=0)
    tested = np.concatenate([noisy(seen[:30], sigma, k) for k, sigma in enumerate((1, 4, 11, 14))] + [smooth(40, 1)])
    expected = int((rms(seen, tested).min(axis=0) <= near).sum())
    assert near_duplicates(seen, tested, near) == expected
    assert 0 < expected < len(tested)


def test_the_block_size_does_not_change_the_result() -> None:
    seen, tested = smooth(60, seed=0), noisy(smooth(60, seed=0), 9)
    size = 3 * seen[0].nbytes
    assert exact_duplicates(seen, seen[:7]) == exact_duplicates(seen, seen[:7], block_bytes=size) == 7
    assert near_duplicates(seen, tested) == near_duplicates(seen, tested, block_bytes=size) == 60
    np.testing.assert_allclose(descriptors(seen, block_bytes=size), descriptors(seen), rtol=1e-5)


def test_identical_images_can_be_searched() -> None:
    blank = np.zeros((100, 3, 8, 8), np.uint8)
    assert near_duplicates(blank[:1], blank) == near_duplicates(blank, blank) == 100
    assert near_duplicates(blank, blank[:1] + 200) == 0


def test_a_pair_is_compared_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ImageSet(smooth(30, 0)), ImageSet(noisy(smooth(30, 0), 5))
    assert CachedDuplicates(DataCache(tmp_path)).near(one, other) == 30
    monkeypatch.setattr(duplicates, "_count_near", lambda *_: pytest.fail("compared again"))
    assert CachedDuplicates(DataCache(tmp_path)).near(one, other) == 30


# What a plan refuses, skips and reports

MATRIX = """
[[id]]
set = "leak_known"
outliers = "leak_outliers"
tuning = "leak_tuning"
ood = [{ set = "leak_clean" }, { set = "leak_copied" }]
"""
SHAPE = (3, 32, 32)


@pytest.fixture
def plan_leaks(tmp_path: Path, register: Register, undrawn: None) -> Callable[..., Prepared]:
    """Plan runs on small sets; 'leak_copied' tests on 10 training images of 'leak_known'."""
    parts = {name: (smooth(80, 2 * k, SHAPE), smooth(60, 2 * k + 1, SHAPE)) for k, name in enumerate(SETS)}
    known, outliers, tuning = (parts[name][0] for name in ("leak_known", "leak_outliers", "leak_tuning"))
    copied = {"leak_copied": known[70:], "leak_of_outliers": outliers[:1], "leak_of_tuning": tuning[:1]}
    copied["leak_by_accident"], copied["leak_near"] = known[:1], noisy(known[:10], 4)
    for name, (train, test) in parts.items():
        repeated = test if name != "leak_by_accident" else smooth(200, 99, SHAPE)
        register(name, image_set(train, np.concatenate([repeated, copied.get(name, test[:0])])))
    return partial(prepare_suite, write_suite(tmp_path, MATRIX, name="leak"))


SETS = (
    "leak_known", "leak_outliers", "leak_tuning", "leak_clean", "leak_copied", "leak_of_outliers", "leak_of_tuning",
    "leak_by_accident", "leak_near",
)  # fmt: skip


def test_an_ood_set_with_training_images_is_refused_or_skipped(plan_leaks: Callable[..., Prepared]) -> None:
    with pytest.raises(UserError, match=r"10 of 70 test images of 'leak_copied' are training images of 'leak_known'\."):
        plan_leaks(ood_sets="leak_copied")
    plan = plan_leaks().plan  # requested through 'all'
    assert {cell.record.ood_set for cell in plan.cells} == {"leak_clean"}
    assert [absence.what for absence in plan.skipped] == ["leak_copied"]


def test_a_single_accidentally_shared_image_is_noted(plan_leaks: Callable[..., Prepared]) -> None:
    prepared = plan_leaks(ood_sets="leak_by_accident")
    expected = "1 of 201 test images of 'leak_by_accident' are training images of 'leak_known', by accident"
    assert any(expected in note for note in prepared.context.library.notes)


def test_an_ood_set_with_outliers_is_refused_whatever_its_family(
    plan_leaks: Callable[..., Prepared], register: Register, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"1 test image of 'leak_of_outliers' is among the outliers 'leak_outliers'"):
        plan_leaks(ood_sets="leak_of_outliers")
    # In a seen cell, which has the distribution of the outliers, new images are scored; a training image is refused.
    library = Library(tmp_path)
    kin = image_set(smooth(9, 51, SHAPE), smooth(60, 50, SHAPE))
    kin.family = "leak_outliers"
    register("leak_kin", kin)
    cells = plan_leaks("msp@confidence", ood_sets="leak_kin").plan.cells
    assert [cell.record.seen for cell in cells] == [True]
    seen = library.split(plan_leaks().plan.suite.entries[0].outliers, "train").images  # type: ignore[arg-type]
    spoilt = image_set(smooth(9, 51, SHAPE), np.concatenate([smooth(2000, 52, SHAPE), seen[:1]]))
    spoilt.family = "leak_outliers"
    register("leak_spoilt", spoilt)
    with pytest.raises(UserError, match="1 test image of 'leak_spoilt' is among the outliers"):  # of 2,001
        plan_leaks("msp@confidence", ood_sets="leak_spoilt")


def test_an_ood_set_with_tuning_images_is_refused(
    plan_leaks: Callable[..., Prepared], tmp_path: Path, register: Register
) -> None:
    with pytest.raises(UserError, match="1 test image of 'leak_of_tuning' is in 'leak_tuning', which protocol"):
        plan_leaks("odin", protocol="val_ood", ood_sets="leak_of_tuning")
    # leave_one_out: images that one set is tuned on are scored in another
    one = smooth(40, 60, SHAPE)
    register("leak_one", image_set(smooth(9, 61, SHAPE), one))
    register("leak_two", image_set(smooth(9, 62, SHAPE), np.concatenate([smooth(40, 63, SHAPE), one[:4]])))
    cells = plan_leaks("odin,msp", protocol="leave_one_out", ood_sets="leak_one,leak_two").plan.cells
    reasons = {(cell.record.label, cell.record.ood_set): cell.record.reason for cell in cells}
    assert "of its scored images are among those of 'leak_one'" in reasons["odin", "leak_two"]
    assert reasons["msp", "leak_two"] == reasons["msp", "leak_one"] == reasons["odin", "leak_one"] == ""


def test_near_duplicates_are_counted_in_the_notes(plan_leaks: Callable[..., Prepared]) -> None:
    run = plan_leaks(ood_sets="leak_near,leak_clean").start()
    (note,) = (note for note in run.info["notes"] if "near-duplicates" in note)
    assert note.startswith("10 of 70 test images of 'leak_near' are near-duplicates of training images of 'leak_known'")
    assert [record.status for record in run.records] == ["ok", "ok"]


# What a detector can reach in fit


class Burglar(Detector):
    """Keeps everything that it is given."""

    needs = frozenset(NEEDS)
    passes = 1
    version = "1"
    received: ClassVar[list[object]] = []

    def reduce(self, maps: Any, features: Tensor, logits: Tensor) -> Tensor:
        """The means of the last maps."""
        means: Tensor = maps[-1].mean(dim=(2, 3))
        return means

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Access everything that the data offers."""
        for batch in data:
            if isinstance(batch, Batch):
                for need in ("logits", "features", "images", "maps", "labels"):
                    assert len(getattr(batch, need)) == len(batch)
                next(batch.batches(7))
        self.received.extend([self, classifier, data])
        self.seen_ = True

    def score(self, batch: Batch) -> Tensor:
        return batch.logits[:, 0]


def test_the_search_finds_hidden_arrays() -> None:
    target = np.arange(7)

    class Slotted:
        __slots__ = ("inner",)

    slotted = Slotted()
    slotted.inner = {"a": [(target,)]}  # type: ignore[attr-defined]
    for hidden in (
        lambda: target,
        target.__getitem__,
        slotted,
        target[2:],
        iter([target]),
        Batch(1, {"x": lambda _: torch.from_numpy(target)}, ""),
    ):
        assert any(one is target for one in reachable(hidden)), hidden


def test_no_test_split_is_reachable_from_the_arguments_of_fit(
    plan_leaks: Callable[..., Prepared], register: Register
) -> None:
    register("leak_burglar", Burglar)
    Burglar.received.clear()
    prepared = plan_leaks("leak_burglar", ood_sets="leak_clean")
    run = prepared.start()
    assert [record.status for record in run.records] == ["ok"], run.records[0].reason
    library, store = prepared.context.library, prepared.context.store
    found = list(reachable(Burglar.received))
    assert not [one for one in found if isinstance(one, Library | JobContext | Store | ImageSet | Dataset)]
    tests = [library.split(spec, "test").images for spec, split in library._splits if split == "test"]
    cells = prepared.plan.cells
    for key in (cells[0].id_scores, cells[0].ood_scores):
        assert key is not None
        outputs = prepared.plan.jobs[key.digest].outputs  # type: ignore[attr-defined]
        tests += [store.load_array(one) for one in (outputs.logits, outputs.features, *outputs.maps.values())]
    assert len(tests) == 2 + 6
    tensors = [one.detach().numpy() for one in found if isinstance(one, Tensor) and one.device.type == "cpu"]
    arrays = [*tensors, *(one for one in found if isinstance(one, np.ndarray))]
    assert len(arrays) > 20
    rows = {row.tobytes() for test in tests for row in np.asarray(test)}
    for array in arrays:
        assert not any(np.shares_memory(array, test) for test in tests)
        assert array.ndim == 0 or not any(row.tobytes() in rows for row in array)
        assert not any(image_of(array, test) for test in tests[:2])
    Burglar.received.clear()


def image_of(array: np.ndarray, test: np.ndarray) -> bool:
    """Whether an array holds a test image as floats."""
    if array.ndim != 4 or array.shape[1:] != test.shape[1:] or array.dtype != np.float32:
        return False
    floats = (torch.from_numpy(test).float() / 255).numpy()
    return any(np.array_equal(one, other) for one in array for other in floats)


def test_a_split_that_is_a_view_is_copied(plan_leaks: Callable[..., Prepared]) -> None:
    """The `.base` of the careless author's array contains the test split as well."""
    library = plan_leaks(ood_sets="leak_clean").context.library
    (known,) = (
        images for spec, images in library._splits.items() if spec[1] == "train" and spec[0].name == "leak_known"
    )
    assert known.images.base is None
