"""The mistakes in a report: which images, in which order, by whom; their pictures; and why there are none."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.comparisons.scored_images import ABSENT, ScoredImages
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.data.pictures.streamed import ArrayImages
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import Pixels, Preprocessing, Rows
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.views.report.collect import MOST, Lookups, report_data
from oodbench.benchmark.views.report.data import Mistake, Mistakes, ReportData, to_json
from oodbench.benchmark.views.report.pictures import SIDE, data_uri
from tests.scored_runs import scored_run
from tests.support import noise_images

COUNT = 40
"""Images of every set."""


class Images(ScoredImages):
    """Image sets by name, or the reasons why there are none, in place of a library."""

    def __init__(self, sets: dict[str, ImageSet | str]) -> None:
        self.sets = sets

    def of(self, record: Record, name: str, count: int) -> ImageSet | str:
        """The set of that name."""
        assert count == COUNT
        return self.sets.get(name, ABSENT)


def image_set(seed: int = 0, side: int = 32, names: Sequence[str] | None = None) -> ImageSet:
    labels = np.arange(COUNT) % 4
    find = None if names is None else lambda: names
    images = noise_images(COUNT, seed, (3, side, side))
    return ImageSet(images, labels, ("cat", "dog", "owl", "newt"), find_names=find)


def random_scores(label: str, name: str, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *label.encode(), *name.encode()]).normal(size=COUNT)


def report(
    folder: Path, sets: dict[str, ImageSet | str] | None = None, count: int = 24, most: int = MOST, **options: Any
) -> ReportData:
    run = scored_run(folder, **{"scores": random_scores, **options})
    lookups = None if sets is None else Lookups(images=lambda _: Images(sets))
    return report_data([run], folder, lookups, pictures=count, most=most)


def on(data: ReportData, place: int | None) -> Mistakes:
    return next(one for one in data.mistakes if one.set == place)


def numbers(data: ReportData, mistakes: Sequence[Mistake]) -> list[int]:
    """The images' positions in their set, from the names of images without names."""
    return [int(data.pictures[one.picture].name.removeprefix("image ")) for one in mistakes]


@pytest.mark.parametrize("place", [None, 0, 1])
def test_mistakes_are_those_of_the_threshold_for_95_percent_of_id(tmp_path: Path, place: int | None) -> None:
    data = report(tmp_path)
    found = on(data, place)
    names = ("glyphs", "uniform")
    assert found.images == COUNT
    for row, of_row in zip(data.rows, found.by_row, strict=True):
        id_scores = random_scores(row.label, "digits", 0)
        threshold = sorted(id_scores)[int(np.ceil(0.95 * COUNT)) - 1]
        scores = id_scores if place is None else random_scores(row.label, names[place], 0)
        if place is None:
            expected = [i for i in np.argsort(-scores) if scores[i] > threshold]
        else:
            expected = [i for i in np.argsort(scores) if scores[i] <= threshold]
        assert of_row.row == data.rows.index(row)
        assert of_row.threshold == threshold
        assert of_row.wrong == len(expected)
        assert numbers(data, of_row.shown) == expected[:24]
        assert [one.score for one in of_row.shown] == pytest.approx(scores[expected[:24]], rel=1e-5)


def test_the_accepted_share_is_the_metric_of_the_cell(tmp_path: Path) -> None:
    data = report(tmp_path, seeds=(0, 1))
    for cell in data.cells:
        of_row = next(one for one in on(data, cell.set).by_row if one.row == cell.row)
        assert of_row.wrong / COUNT == pytest.approx(cell.by_seed[0].values["fpr_at_tpr95"])


def test_the_majority_is_more_than_half_of_the_rows(tmp_path: Path) -> None:
    labels = ("a", "bb", "ccc", "dddd", "random")

    def change(record: Record) -> Record:
        return replace(
            record, sanity=record.label == "random", seen=(record.label, record.ood_set) == ("bb", "uniform")
        )

    data = report(tmp_path, labels=labels, change=change)
    for place, name, voters in (
        (None, "digits", labels[:4]),
        (0, "glyphs", labels[:4]),
        (1, "uniform", ["a", "ccc", "dddd"]),
    ):
        found = on(data, place)
        wrong, ranks = np.zeros(COUNT, int), np.zeros(COUNT)
        for label in voters:
            id_scores, scores = random_scores(label, "digits", 0), random_scores(label, name, 0)
            threshold = np.sort(id_scores)[int(np.ceil(0.95 * COUNT)) - 1]
            wrong += (scores > threshold) if place is None else (scores <= threshold)
            signed = scores if place is None else -scores
            ranks += [np.mean(signed <= one) for one in signed]
        majority = [i for i in range(COUNT) if wrong[i] > len(voters) / 2]
        majority.sort(key=lambda i: (-wrong[i], -ranks[i], i))
        assert found.detectors == len(voters)
        assert found.majority_wrong == len(majority)
        assert numbers(data, found.by_majority) == majority[:24]
        assert [one.votes for one in found.by_majority] == [wrong[i] for i in majority[:24]]
        assert [one.score for one in found.by_majority] == pytest.approx(
            [ranks[i] / len(voters) for i in majority[:24]]
        )
        assert len(found.by_row) == len(labels), "rows that do not vote have lists of their own"


def test_tied_scores_are_in_the_order_of_the_set(tmp_path: Path) -> None:
    data = report(tmp_path, scores=lambda label, name, seed: 0 * random_scores(label, name, seed))
    assert on(data, None).by_row[0].wrong == 0
    assert on(data, 0).by_row[0].wrong == COUNT
    assert numbers(data, on(data, 0).by_row[0].shown) == list(range(24))


# Pictures


def decoded(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head in ("data:image/webp;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def test_pictures_are_the_images_that_were_scored(tmp_path: Path) -> None:
    flat = np.zeros((COUNT, 3, 32, 32), np.uint8) + (6 * np.arange(COUNT, dtype=np.uint8))[:, None, None, None]
    names = [f"cats/{row}.png" for row in range(COUNT)]
    sets: dict[str, ImageSet | str] = {
        "digits": image_set(1), "glyphs": ImageSet(flat, find_names=lambda: names), "uniform": image_set(2)
    }  # fmt: skip
    data = report(tmp_path, sets)
    for one in on(data, 0).by_row[0].shown:
        picture = data.pictures[one.picture]
        row = names.index(picture.name)
        assert decoded(picture.uri).size == (32, 32)
        assert np.asarray(decoded(picture.uri).convert("L"), float) == pytest.approx(6 * row, abs=3)
        assert picture.label == "", "the set has no classes"
    assert {data.pictures[one.picture].label for one in on(data, None).by_row[0].shown} <= {"cat", "dog", "owl", "newt"}
    assert all(one.note == "" for one in data.mistakes)


def test_detectors_share_pictures(tmp_path: Path) -> None:
    sets: dict[str, ImageSet | str] = {name: image_set(i) for i, name in enumerate(("digits", "glyphs", "uniform"))}
    data = report(tmp_path, sets, labels=("a", "b"), scores=lambda label, name, seed: random_scores("", name, seed))
    assert len({picture.uri for picture in data.pictures}) == len(data.pictures)
    first, second = on(data, 0).by_row
    assert first.shown == second.shown


def test_large_pictures_become_small(tmp_path: Path) -> None:
    lazy = ArrayImages(noise_images(COUNT, 3, (3, 150, 150)), Preprocessing((300, 200)))
    sets: dict[str, ImageSet | str] = {"digits": image_set(), "glyphs": ImageSet.read_lazily(lazy), "uniform": ABSENT}
    data = report(tmp_path, sets)
    picture = data.pictures[on(data, 0).by_row[0].shown[0].picture]
    assert decoded(picture.uri).size == (SIDE * 2 // 3, SIDE)


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_pixels_give_equal_text(channels: int) -> None:
    pixels = noise_images(1, 4, (channels, 40, 50))[0]
    assert data_uri(pixels) == data_uri(pixels.copy())
    assert decoded(data_uri(pixels)).size == (50, 40)


def test_no_images_and_no_names_for_private_data(tmp_path: Path) -> None:
    sets: dict[str, ImageSet | str] = {"digits": image_set(names=["secret"] * COUNT)}
    data = report(tmp_path, sets, count=0)
    assert (data.mistakes, data.pictures) == ([], [])


class Broken(ArrayImages):
    """Pictures that have changed since they were scored."""

    def __getitem__(self, rows: Rows) -> Pixels:
        """Fail as pictures in files do."""
        raise DataError("'a.png' in 'photos' has changed while it was in use. Leave the images as they are.")


def test_sets_that_cannot_be_read_have_a_reason(tmp_path: Path) -> None:
    broken = ImageSet.read_lazily(Broken(noise_images(COUNT), Preprocessing((32, 32))))
    data = report(tmp_path, {"digits": ABSENT, "glyphs": broken})
    assert on(data, None).note == "No pictures of digits: not in --data-dir."
    assert on(data, 0).note.startswith(
        "No pictures of glyphs: the images cannot be read: 'a.png' in 'photos' has changed"
    )
    assert all(picture.uri == "" for picture in data.pictures)
    assert numbers(data, on(data, None).by_row[0].shown)


def test_given_outputs_have_names_only(tmp_path: Path) -> None:
    names = tuple(f"{row}.jpg" for row in range(COUNT))
    arrays = GivenArrays(COUNT, names=names)
    photos = ImageSet.read_lazily(GivenImages("digits", "test", arrays))
    data = report(tmp_path, {"digits": photos})
    assert on(data, None).note == "No pictures of digits: only outputs of a network, or scores, were given."
    shown = [data.pictures[one.picture] for one in on(data, None).by_row[0].shown]
    assert shown
    assert all(picture.name in names and not picture.uri for picture in shown)


def test_a_report_without_a_library_has_no_pictures(tmp_path: Path) -> None:
    data = report(tmp_path)
    assert {one.note for one in data.mistakes} == {
        f"No pictures of {name}: the images were not looked up." for name in ("digits", "glyphs", "uniform")
    }


# Size


def test_lists_are_cut_to_one_length_where_pictures_would_take_too_much(tmp_path: Path) -> None:
    sets: dict[str, ImageSet | str] = {name: image_set(i) for i, name in enumerate(("digits", "glyphs", "uniform"))}
    whole = report(tmp_path, sets)
    most = len(to_json(whole)) - 5_000
    cut = report(tmp_path, sets, most=most)
    shown = {len(of_row.shown) for place in (0, 1) for of_row in on(cut, place).by_row}
    assert len(shown) == 1
    (length,) = shown
    assert 0 < length < 24
    assert on(cut, 0).note == f"{length} images of each detector in place of 24, to keep the report small."
    assert on(cut, 0).by_row[0].wrong == on(whole, 0).by_row[0].wrong
    assert len(on(cut, 0).by_majority) == len(on(whole, 0).by_majority)
    assert len(to_json(cut)) <= most
