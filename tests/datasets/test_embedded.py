"""The embedded data sets and the forms do what their cards say."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from oodbench.benchmark import DataError, Dataset, Form, ImageSet
from oodbench.benchmark.plugins.registry import registry
from oodbench.datasets import glyphs
from oodbench.datasets._draw_glyphs import draw
from oodbench.datasets._pixels import upsample_counts

SIZES = {
    "digits": {"train": 1287, "test": 510},
    "glyphs": {"train": 1500, "test": 600},
    "greek": {"test": 600},
    "patches": {"test": 808},
    "drawn-textures": {"test": 500},
    "gaussian": {"test": 1000},
    "uniform": {"test": 1000},
}
EVERY_SPLIT = [(name, split) for name, sizes in SIZES.items() for split in sizes]
LABELLED = [(name, split) for name, split in EVERY_SPLIT if name in ("digits", "glyphs", "greek")]


def card(name: str) -> Dataset:
    found: Dataset = registry.get("dataset", name)()
    return found


def form(name: str) -> Form:
    found: Form = registry.get("form", name)()
    return found


@cache
def load(name: str, split: str) -> ImageSet:
    return card(name).load(split, Path("/nowhere"))


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("name, split", EVERY_SPLIT)
def test_a_split_matches_its_card(name: str, split: str) -> None:
    images = load(name, split)
    grey = name in ("digits", "glyphs", "greek")
    assert card(name).channels == (1 if grey else 3)
    assert images.images.shape == (SIZES[name][split], 1 if grey else 3, 32, 32)
    assert images.classes == card(name).classes
    assert images.checksum == card(name).checksums[split]


@pytest.mark.parametrize("name", SIZES)
def test_card_is_complete(name: str) -> None:
    found = card(name)
    assert found.title
    assert found.licence
    assert found.origin
    assert found.caveats
    assert found.splits == tuple(SIZES[name]) == tuple(found.checksums)
    assert found.missing(Path("/nowhere")) is None


@pytest.mark.parametrize("name, split", EVERY_SPLIT)
def test_no_image_occurs_twice(name: str, split: str) -> None:
    assert len(rows(load(name, split).images)) == SIZES[name][split]


def test_no_image_occurs_in_two_splits() -> None:
    every = [rows(load(name, split).images) for name, split in EVERY_SPLIT]
    assert len(set().union(*every)) == sum(map(len, every))


@pytest.mark.parametrize("name, split", LABELLED)
def test_classes_are_balanced(name: str, split: str) -> None:
    images = load(name, split)
    assert images.labels is not None
    counts = np.bincount(images.labels, minlength=10)
    assert len(counts) == len(images.classes) == 10
    assert counts.min() > 0.08 * len(images)


@pytest.mark.parametrize("name, split", [*LABELLED, ("patches", "test"), ("drawn-textures", "test")])
def test_groups_are_contiguous(name: str, split: str) -> None:
    groups = load(name, split).groups
    assert groups is not None
    assert np.count_nonzero(np.diff(groups)) == len(np.unique(groups)) - 1


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_train_and_test_share_no_group(name: str) -> None:
    train, test = load(name, "train").groups, load(name, "test").groups
    assert train is not None
    assert test is not None
    assert not set(train) & set(test)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_letter_occurs_in_every_font(split: str) -> None:
    letters = load("glyphs", split)
    assert letters.groups is not None
    assert letters.labels is not None
    for font in np.unique(letters.groups):
        assert len(set(letters.labels[letters.groups == font])) == 10


def test_digits_are_those_of_scikit_learn_in_stored_order() -> None:
    stored = load_digits()
    parts = [load("digits", split) for split in ("train", "test")]
    images = np.concatenate([part.images for part in parts])
    assert np.array_equal(images, upsample_counts(stored.images.astype(np.uint8)))
    assert np.array_equal(np.concatenate([part.labels for part in parts if part.labels is not None]), stored.target)


def test_digit_groups_are_forms_with_the_same_list_of_digits() -> None:
    labels, groups = (
        np.concatenate([getattr(load("digits", split), field) for split in ("train", "test")])
        for field in ("labels", "groups")
    )
    forms = ["".join(map(str, labels[groups == group])) for group in np.unique(groups)]
    assert len(forms) == 14
    for digits in forms:
        assert 120 < len(digits) <= 130
        assert difflib.SequenceMatcher(None, forms[0], digits, autojunk=False).ratio() > 0.96
        assert digits.startswith(("0123456789", "123456789"))  # the beginning of the list


def family(font: str) -> str:
    if font.startswith("cm"):
        return "Computer Modern Roman" if font in ("cmr10", "cmti10", "cmb10") else font
    return "STIX" if font.startswith("STIX") else font.partition("-")[0]


def test_font_families_of_train_do_not_occur_in_test_or_greek() -> None:
    with np.load(glyphs.FILE, allow_pickle=False) as stored:
        names = stored["fonts"]
        families = {part: {family(names[i]) for i in stored[f"{part}_fonts"]} for part in ("train", "test", "greek")}
    assert families["train"] == {"DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "Computer Modern Roman"}
    assert families["test"] == {"STIX", "cmss10", "cmtt10"}
    assert families["greek"] == {"STIX", "cmmi10"}


def test_letters_are_recognised_in_other_fonts() -> None:
    train, test = load("glyphs", "train"), load("glyphs", "test")
    pixels = [part.images[:, 0, 2::4, 2::4].reshape(len(part), -1) / 255 for part in (train, test)]
    assert SVC().fit(pixels[0], train.labels).score(pixels[1], test.labels) > 0.95


@pytest.mark.parametrize("pair", [("digits", "glyphs"), ("digits", "greek"), ("glyphs", "greek")], ids="-".join)
@pytest.mark.parametrize("statistic", ["mean", "deviation", "largest gradient"])
def test_no_pixel_statistic_separates_near_sets(pair: tuple[str, str], statistic: str) -> None:
    def score(images: np.ndarray) -> np.ndarray:
        grey = images[:, 0].astype(float)
        if statistic == "largest gradient":
            steps = [abs(np.diff(grey, axis=axis)).max(axis=(1, 2)) for axis in (1, 2)]
            largest: np.ndarray = np.maximum(*steps)
            return largest
        values: np.ndarray = (grey.mean if statistic == "mean" else grey.std)(axis=(1, 2))
        return values

    scores = [score(load(name, "test").images) for name in pair]
    is_second = np.repeat([0, 1], [len(part) for part in scores])
    assert 0.25 < roc_auc_score(is_second, np.concatenate(scores)) < 0.75


def test_upsampling_is_bilinear() -> None:
    counts = np.random.RandomState(0).randint(0, 17, (50, 8, 8)).astype(np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(counts)[:, None].double() * 255 / 16, scale_factor=4, mode="bilinear", align_corners=False
    )
    images = upsample_counts(counts)
    assert images.dtype == np.uint8
    assert np.abs(images - expected.numpy()).max() <= 0.5 + 1e-9


def test_upsampling_keeps_the_extreme_values() -> None:
    assert (upsample_counts(np.full((1, 8, 8), 16, np.uint8)) == 255).all()
    assert (upsample_counts(np.zeros((1, 8, 8), np.uint8)) == 0).all()


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty"])
def test_a_damaged_letter_file_is_reported(tmp_path: Path, damage: str) -> None:
    content = bytearray(glyphs.FILE.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[1000 if damage == "cut short" else 0 :]
    file = tmp_path / "glyphs.npz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"glyphs\.npz' is damaged: its SHA-256 is .*Reinstall oodbench\.$"):
        glyphs.read("train", glyphs.Glyphs.classes, file)


def test_an_absent_letter_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz' cannot be read .*Reinstall oodbench\.$"):
        glyphs.read("train", glyphs.Glyphs.classes, tmp_path / "absent.npz")


def test_drawing_is_reproducible_and_has_the_ink_of_a_digit() -> None:
    import matplotlib
    from PIL import ImageFont

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 160)
    first, second = (draw(font, "B", np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (8, 8)
    assert first.max() <= 16
    assert 230 < first.sum() < 410
    assert first[0].any()
    assert first[-1].any()


def test_gaussian_noise_is_clamped() -> None:
    values = load("gaussian", "test").images
    tail = 0.3093  # P(N(0.5, 1) < 0.5 / 255), the values that round to 0
    assert np.mean(values == 0) == pytest.approx(tail, abs=0.002)
    assert np.mean(values == 255) == pytest.approx(tail, abs=0.002)
    assert values.mean() == pytest.approx(127.5, abs=0.5)


def test_uniform_noise_takes_every_level() -> None:
    levels = np.bincount(load("uniform", "test").images.ravel(), minlength=256) / load("uniform", "test").images.size
    assert levels[1:-1] == pytest.approx(1 / 255, rel=0.06)
    assert levels[[0, -1]] == pytest.approx(0.5 / 255, rel=0.06)  # only half an interval rounds to the extremes


def test_noise_channels_are_independent() -> None:
    for name in ("gaussian", "uniform"):
        red, green = load(name, "test").images[:, :2].swapaxes(0, 1).reshape(2, -1)
        assert abs(np.corrcoef(red, green)[0, 1]) < 0.01


@pytest.mark.parametrize("height, width", [(32, 32), (12, 20), (1, 7)])
def test_permuted_uses_the_same_permutation_for_every_image(height: int, width: int) -> None:
    values = np.random.RandomState(0).randint(0, 256, (5, 3, height, width)).astype(np.uint8)
    positions = np.arange(height * width).reshape(1, 1, height, width)
    low, high = (
        form("permuted").apply((part % 256).astype(np.uint8)).ravel().astype(int)
        for part in (positions, positions // 256)
    )
    order = low + 256 * high
    assert sorted(order) == list(range(height * width))
    assert not np.array_equal(order, positions.ravel())
    changed = form("permuted").apply(values)
    assert changed.shape == values.shape
    assert np.array_equal(changed.reshape(5, 3, -1), values.reshape(5, 3, -1)[:, :, order])


def test_permuted_never_changes() -> None:
    positions = np.arange(1024).reshape(1, 1, 32, 32) // 4
    changed = form("permuted").apply(positions.astype(np.uint8)).ravel()
    assert list(changed[:8]) == [231, 6, 19, 152, 80, 0, 57, 193]


def test_permuted_keeps_the_values_of_each_image() -> None:
    images = load("digits", "test").images
    changed = form("permuted").apply(images)
    assert changed.dtype == np.uint8
    assert np.array_equal(np.sort(changed.reshape(len(images), -1)), np.sort(images.reshape(len(images), -1)))
    assert not rows(changed) & rows(images)


def test_inverting_twice_restores_the_image() -> None:
    images = load("patches", "test").images
    changed = form("inverted").apply(images)
    assert changed.dtype == np.uint8
    assert np.array_equal(changed.astype(int) + images, np.full(images.shape, 255))
    assert np.array_equal(form("inverted").apply(changed), images)


def test_blurred_is_the_mean_of_nine_pixels() -> None:
    images = load("patches", "test").images[:3]
    changed = form("blurred").apply(images)
    padded = np.pad(images.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    for image, channel, row, column in [(0, 0, 0, 0), (1, 2, 31, 17), (2, 1, 14, 15), (0, 1, 31, 31)]:
        mean = padded[image, channel, row : row + 3, column : column + 3].mean()
        assert changed[image, channel, row, column] == np.floor(mean + 0.5)
    assert changed.dtype == np.uint8


def test_faded_halves_the_contrast() -> None:
    assert form("faded").apply(np.array([[[[0, 1, 128, 255]]]], np.uint8)).ravel().tolist() == [64, 64, 128, 191]


@pytest.mark.parametrize("name", ["permuted", "inverted", "blurred", "faded"])
def test_forms_do_not_change_their_input(name: str) -> None:
    images = load("uniform", "test").images[:10].copy()
    before = images.copy()
    form(name).apply(images)
    assert np.array_equal(images, before)
    assert registry.get("form", name).title
