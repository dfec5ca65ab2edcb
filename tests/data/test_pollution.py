"""Pollution: training images of other classes among those of an ID set of one class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark import DataError, ImageSet
from oodbench.benchmark.data.fit_images import FitImages, parse_part
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.pollution import is_pollution, other_classes, polluted
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.id_sets.parts import fit_notes, parts_of, recorded
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.specs import parse_set

THREE = parse_set("digits[3]")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def rows_of(images: ImageSet) -> list[bytes]:
    return [image.tobytes() for image in images.images]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5])
def test_the_share_of_other_classes_is_that_of_all_training_images(library: Library, share: float) -> None:
    parts = parts_of(THREE, FitImages(pollution=share), library, is_given=False)
    assert parts.train == parts.training == f"train, {share:g} polluted"
    clean, mixed = library.part(THREE, "train"), library.part(THREE, parts.train)
    added = mixed.take(np.arange(len(clean), len(mixed)))
    assert len(added) == round(share / (1 - share) * len(clean)) > 0
    assert rows_of(mixed)[: len(clean)] == rows_of(clean)
    assert mixed.classes == clean.classes == ("3",)
    assert not mixed.labels.any()  # type: ignore[union-attr]
    whole = library.split(parse_set("digits"), "train")
    labels = dict(zip(rows_of(whole), whole.labels, strict=True))  # type: ignore[arg-type]
    counts = np.bincount([labels[image] for image in rows_of(added)], minlength=10)
    assert counts[3] == 0
    assert np.delete(counts, 3).max() - np.delete(counts, 3).min() <= max(1, 0.1 * counts.max())
    assert len(set(rows_of(added))) == len(added)


def test_no_image_that_is_scored_or_validates_is_changed(library: Library) -> None:
    parts = parts_of(THREE, FitImages(pollution=0.2), library, is_given=False)
    assert (parts.scored, parts.validation) == ("test", "validation")
    others = library.split(parse_set("digits[0-2,4-9]"), "test")
    mixed = set(rows_of(library.part(THREE, parts.train)))
    for scored in (others, library.split(THREE, "test")):
        assert not mixed & set(rows_of(scored))


def test_images_and_groups_stay_together(library: Library) -> None:
    mixed = library.part(THREE, "train, 0.5 polluted")
    whole = library.split(parse_set("digits"), "train")
    groups = dict(zip(rows_of(whole), whole.groups, strict=True))  # type: ignore[arg-type]
    assert [groups[image] for image in rows_of(mixed)] == mixed.groups.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("fit", [FitImages(pollution=0.05), FitImages(per_class=50, pollution=0.2)])
def test_a_part_names_its_pollution(fit: FitImages) -> None:
    for role in ("train", "fitted"):
        assert parse_part(fit.part(role)) == (role, fit)
    assert "polluted" not in fit.part("validation") + fit.part("scored")


def test_fewer_images_are_polluted_by_the_same_share(library: Library) -> None:
    fit = FitImages(per_class=50, pollution=0.1)
    assert len(library.part(THREE, fit.part("train"))) == 45 + 5


def test_a_pollution_is_recorded_and_noted(library: Library) -> None:
    parts = parts_of(THREE, FitImages(pollution=0.1), library, is_given=False)
    count = len(library.part(THREE, parts.train))
    assert recorded(parts, library) == {
        "split": "train",
        "pollution": 0.1,
        "images": count,
        "validation": len(library.part(THREE, "validation")),
    }
    (note,) = fit_notes(parts, library)
    assert note.endswith(
        f"; {round(0.1 * count)} of the former are of its other classes (pollution 0.1), for networks too."
    )


@pytest.mark.parametrize("name", ["digits", "digits[3,5]"])
def test_only_a_single_class_can_be_polluted(library: Library, name: str) -> None:
    shown = name.replace("[", ".").replace("]", ".")
    message = rf"'{shown}' cannot be polluted: .* such as --id digits.0., or leave out --pollution"
    with pytest.raises(UserError, match=message):
        library.part(parse_set(name), "train, 0.1 polluted")
    with pytest.raises(UserError, match=message):
        other_classes(parse_set(name), 10)


@pytest.mark.parametrize("fit", [FitImages(0.2, pollution=0.1), FitImages(val=True, pollution=0.1)])
def test_pollution_is_of_the_training_split(library: Library, fit: FitImages) -> None:
    with pytest.raises(UserError, match=r"'digits\[3\]' cannot be polluted where detectors learn from other images"):
        parts_of(THREE, fit, library, is_given=False)


def test_too_few_images_of_other_classes_are_refused() -> None:
    images = ImageSet(np.zeros((6, 1, 2, 2), np.uint8), np.zeros(6, np.int64), ("a",))
    with pytest.raises(
        DataError, match=r"'mine' has 2 training images of other classes, and a pollution of 0.5 takes 6"
    ):
        polluted(images, images.take(np.arange(2)), 0.5, "mine")
    assert polluted(images, images, 0.05, "mine") is images


@pytest.mark.parametrize("value", [0.0001, -0.1, 0.6, True, "0.1", float("nan"), None])
def test_other_shares_are_refused(value: object, tmp_path: Path) -> None:
    assert not is_pollution(value)
    text = str(value).lower() if isinstance(value, bool | float) else f'"{value}"'
    path = tmp_path / "mine.toml"
    path.write_text(f'schema = 1\nextends = "digits"\n[protocol]\npollution = {text}\n', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"pollution in \[protocol\] is .*; it must be 0, or a share of the training im"
    ):
        read_suite(str(path))


@pytest.mark.parametrize("value", ["0", "0.001", "0.2", "0.5"])
def test_a_suite_states_its_pollution(value: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'schema = 1\nextends = "digits"\n[protocol]\npollution = {value}\n', encoding="utf-8")
    assert read_suite(str(path)).pollution == float(value)
    assert read_suite("digits").pollution == 0
