"""Transformed validation images: each transformation as it is defined, one image at a time, in memory or decoded."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.fit_images import FitImages, parse_part
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.transformed import ALONE, TRANSFORMED, partners_of, transformed
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.pictures.test_derived import OfArray, pair, pixels

SIZES = [(1, 8, 8), (3, 16, 16), (1, 9, 14), (3, 3, 5), (1, 1, 1)]
SHAPES = pytest.mark.parametrize("shape", SIZES, ids=lambda shape: "x".join(map(str, shape)))


def images(shape: tuple[int, int, int], count: int = 6) -> np.ndarray:
    return np.random.RandomState(sum(shape)).randint(0, 256, (count, *shape)).astype(np.uint8)


def seeded(image: np.ndarray) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(image.tobytes()))


def shuffled_by_hand(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[1:]
    order, out = seeded(image).permutation(height * width), np.zeros_like(image)
    for place, source in enumerate(order):
        out[:, place // width, place % width] = image[:, source // width, source % width]
    return out


def jigsaw_by_hand(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[1:]
    rows, columns = min(4, height), min(4, width)
    random, out = seeded(image), np.array(image)
    order = random.permutation(rows * columns)
    while rows * columns > 1 and order.tolist() == sorted(order):
        order = random.permutation(rows * columns)
    for y in range(rows * (height // rows)):
        for x in range(columns * (width // columns)):
            source = order[y // (height // rows) * columns + x // (width // columns)]
            from_y = source // columns * (height // rows) + y % (height // rows)
            from_x = source % columns * (width // columns) + x % (width // columns)
            out[:, y, x] = image[:, from_y, from_x]
    return out


def noisy_by_hand(image: np.ndarray) -> np.ndarray:
    noise = seeded(image).normal(0, 64, image.size)
    values = [min(255.0, max(0.0, round(v + n))) for v, n in zip(image.ravel().tolist(), noise, strict=True)]
    return np.reshape(np.array(values, np.uint8), image.shape)


def blurred_by_hand(image: np.ndarray) -> np.ndarray:
    channels, height, width = image.shape
    reach, out = max(1, min(height, width) // 8), np.zeros_like(image)
    for c, y, x in np.ndindex(channels, height, width):
        around = [
            int(image[c, min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)])
            for i in range(-reach, reach + 1)
            for j in range(-reach, reach + 1)
        ]
        out[c, y, x] = math.floor(sum(around) / len(around) + 0.5)
    return out


BY_HAND = {
    "shuffled": shuffled_by_hand,
    "jigsaw": jigsaw_by_hand,
    "noisy": noisy_by_hand,
    "blurred": blurred_by_hand,
}


@SHAPES
@pytest.mark.parametrize("name", ALONE)
def test_a_transformation_is_as_defined_and_leaves_the_original_alone(name: str, shape: tuple[int, int, int]) -> None:
    given = images(shape)
    before = given.copy()
    made = ALONE[name](given)
    assert np.array_equal(given, before)
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.stack([BY_HAND[name](image) for image in given]))
    assert np.array_equal(ALONE[name](given[2:3])[0], made[2])  # whatever the other images are


@pytest.mark.parametrize("name", ["shuffled", "jigsaw"])
def test_order_changes_and_values_do_not(name: str) -> None:
    given = images((3, 16, 16), 20)
    made = ALONE[name](given)
    assert not any(np.array_equal(one, other) for one, other in zip(given, made, strict=True))
    assert np.array_equal(np.sort(given.reshape(20, 3, -1)), np.sort(made.reshape(20, 3, -1)))


def test_every_image_is_mixed_with_one_of_another_class() -> None:
    labels = np.array([0] * 9 + [2] * 2 + [1])
    partners = partners_of(labels)
    assert (labels[partners] != labels).all()
    assert set(partners[labels == 0]) == {9, 10, 11}  # all others, as evenly as they can be
    made = transformed(ImageSet(images((1, 4, 4), 12), labels, tuple("abc")), "mixed validation")
    given = images((1, 4, 4), 12).astype(int)
    assert np.array_equal(made.images, (given + given[partners] + 1) // 2)
    assert np.array_equal(made.labels if made.labels is not None else [], labels)
    for one in (np.zeros(3, int), None):
        with pytest.raises(DataError, match="Images of one class cannot be mixed"):
            partners_of(one)


@pytest.mark.parametrize("role", TRANSFORMED)
def test_pictures_are_transformed_when_they_are_read(role: str) -> None:
    array, lazy = pair(30)
    expected, made = transformed(array, role).images, transformed(lazy, role)
    pictures = made.lazy
    assert pictures is not None
    assert made.images.shape == expected.shape
    assert np.array_equal(made.images[np.array([4, 29, 4])], expected[[4, 29, 4]])
    assert np.array_equal(np.concatenate(list(pictures.blocks(7))), expected)
    few = made.take(np.array([3, 1]))
    assert np.array_equal(few.images[:], expected[[3, 1]])
    assert few.names == ["3.jpg", "1.jpg"]
    assert len(pictures.thumbnails) == 30
    assert made.checksum != lazy.checksum
    others = {other: transformed(lazy, other).checksum for other in TRANSFORMED}
    assert len(set(others.values())) == len(TRANSFORMED)


def test_only_what_is_needed_is_decoded() -> None:
    source = OfArray(pixels(30))
    made = transformed(ImageSet.read_lazily(source, np.arange(30) % 3, ("a", "b", "c")), "mixed validation")
    made.images[np.array([0, 0])]
    assert source.read == 2


@pytest.mark.parametrize("fit", [FitImages(), FitImages(held_out=0.2), FitImages(per_class=20)])
def test_the_parts_of_a_set_are_those_of_its_validation_images(fit: FitImages, tmp_path: Path) -> None:
    library, digits = Library(tmp_path), parse_set("digits[0-2]")
    validation = library.part(digits, fit.part("validation"))
    for role in TRANSFORMED:
        part = fit.part(role)
        assert parse_part(part) == (role, fit)
        made = library.part(digits, part)
        assert np.array_equal(made.images, transformed(validation, role).images)
        assert made.labels is not None
        assert validation.labels is not None
        assert np.array_equal(made.labels, validation.labels)
    with pytest.raises(DataError, match="'odd validation' is no part of"):
        library.part(digits, "odd validation")
