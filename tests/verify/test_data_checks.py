"""The checks of data sets and forms find those that break the contract, and correct ones pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from oodbench.benchmark import DataError, Dataset, Form, ImageSet, run_checks
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.other_checks import check_dataset, check_form
from oodbench.benchmark.verify.plugin_checks import Result
from oodbench.benchmark.verify.toy_world import toy_world
from tests.support import noise_images, short_id

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]


def noise_set(seed: int, count: int = 6, labelled: bool = True) -> ImageSet:
    images = noise_images(count, seed, (3, 4, 4))
    return ImageSet(images, np.arange(count) % 2, ("a", "b")) if labelled else ImageSet(images)


class Embedded(Dataset):
    classes = ("a", "b")

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return noise_set(len(split))


class Overlapping(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        if split == "train":
            return noise_set(5)
        images = noise_set(4).images.copy()
        images[2] = noise_set(5).images[3]
        return ImageSet(images, np.arange(6) % 2, ("a", "b"))


class WrongChecksum(Embedded):
    checksums: ClassVar[Mapping[str, str]] = {"test": "0" * 64}


class RightChecksum(Embedded):
    checksums: ClassVar[Mapping[str, str]] = {"test": noise_set(4).checksum, "train": noise_set(5).checksum}


class DrawnAgain(Embedded):
    seeds: ClassVar[Any] = itertools.count(100)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return noise_set(next(self.seeds))


class Unlabelled(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        return noise_set(len(split), labelled=False)


class OtherClasses(Embedded):
    classes = ("b", "a")


class Unreadable(Embedded):
    def load(self, split: str, data_dir: Path) -> ImageSet:
        raise OSError("cannot be read")


@pytest.mark.parametrize(
    "plugin, message",
    [
        (Embedded, ""),
        (RightChecksum, ""),
        (Overlapping, "the test split contains an image of the train split"),
        (WrongChecksum, rf"the test split has checksum {noise_set(4).checksum}, the card says 0000"),
        (DrawnAgain, "the train split has checksum [0-9a-f]{64}, it had another when loaded again: [0-9a-f]{64}"),
        (Unlabelled, "the train split and the card differ in classes"),
        (OtherClasses, "the train split and the card differ in classes"),
    ],
    ids=short_id,
)
def test_a_wrong_data_set_is_caught(register: Register, tmp_path: Path, plugin: type[Dataset], message: str) -> None:
    register("checks_data", plugin)
    if not message:
        check_dataset("checks_data", tmp_path)
        return
    with pytest.raises(CheckError, match=message):
        check_dataset("checks_data", tmp_path)


def test_a_data_set_that_cannot_be_read_is_reported(register: Register, tmp_path: Path) -> None:
    register("checks_data", Unreadable)
    with pytest.raises(DataError, match="OSError: cannot be read"):
        check_dataset("checks_data", tmp_path)


class Absent(Embedded):
    def missing(self, data_dir: Path) -> str | None:
        return "Put x.npy there."


def test_a_data_set_that_is_absent_is_skipped_in_a_list_and_refused_alone(register: Register, tmp_path: Path) -> None:
    register("checks_data", Absent)
    assert list(run_checks(["checks_data"], tmp_path)) == [
        Result("dataset", "checks_data", "check_dataset", "skipped", "Put x.npy there.")
    ]
    with pytest.raises(UserError, match=r"^Put x\.npy there\.$"):
        check_dataset("checks_data", tmp_path)


class MissingRaises(Embedded):
    def missing(self, data_dir: Path) -> str | None:
        raise KeyError("x")


def test_a_data_set_whose_missing_raises_is_reported(register: Register, tmp_path: Path) -> None:
    register("checks_data", MissingRaises)
    (result,) = run_checks(["checks_data"], tmp_path)
    assert (result.status, result.reason) == ("failed", "KeyError: 'x'")


class Inverted(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        return 255 - images


class InPlace(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        images += 1
        return images


class Cropped(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        cropped: np.ndarray = images[:, :, 1:].copy()
        return cropped


class Floats(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        floats: np.ndarray = images / 255
        return floats


class MeanSubtracted(Form):
    def apply(self, images: np.ndarray) -> np.ndarray:
        changed: np.ndarray = (images - images.mean(axis=0)).astype(np.uint8)
        return changed


class Random(Form):
    random: ClassVar[np.random.RandomState] = np.random.RandomState()

    def apply(self, images: np.ndarray) -> np.ndarray:
        noise: np.ndarray = self.random.randint(0, 256, images.shape).astype(np.uint8)
        return noise


@pytest.mark.parametrize(
    "plugin, message",
    [
        (Inverted, ""),
        (InPlace, r"apply\(\) must return new uint8 images of the same shape and leave its input unchanged"),
        (Cropped, r"apply\(\) must return new uint8 images of the same shape"),
        (Floats, r"apply\(\) must return new uint8 images of the same shape"),
        (MeanSubtracted, "an image's changed form depends on the other images"),
        (Random, "an image's changed form depends on the other images"),
    ],
    ids=short_id,
)
def test_a_wrong_form_is_caught(register: Register, plugin: type[Form], message: str) -> None:
    before = toy_world().test.images.copy()
    register("checks_form", plugin)
    if not message:
        check_form("checks_form")
        return
    with pytest.raises(CheckError, match=message):
        check_form("checks_form")
    assert np.array_equal(toy_world().test.images, before), "the toy world must stay intact"
