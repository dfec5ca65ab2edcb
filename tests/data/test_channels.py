"""Conversions between grey and colour, and what all images of a training split share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from oodbench.benchmark import DataError, Form, ImageSet
from oodbench.benchmark.data.channels import LUMA, REPEATED, are_convertible, as_seen, conversion, in_channels, luma
from oodbench.benchmark.data.duplicates import CachedDuplicates, exact_duplicates, near_duplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.forms import changed
from oodbench.benchmark.data.shared_by_all import channel_differences, constant_edges, shared_by_all
from tests.data.image_sets import noisy, smooth
from tests.support import noise_images


def every_colour(red: int) -> NDArray[np.uint8]:
    """The 65,536 colours with a red value, uint8 (1, 3, 256, 256)."""
    green, blue = np.mgrid[:256, :256]
    return np.stack([np.full_like(green, red), green, blue]).astype(np.uint8)[None]


def test_luma_is_that_of_pillow_for_every_colour() -> None:
    for red in range(256):
        colours = every_colour(red)
        expected = np.asarray(Image.fromarray(colours[0].transpose(1, 2, 0)).convert("L"))
        assert np.array_equal(luma(colours)[0, 0], expected)


def test_luma_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise_images(7, shape=(3, 5, 4))
    whole = luma(images)
    for pixels in (1, 45, 60):
        monkeypatch.setattr("oodbench.benchmark.data.channels.BLOCK", pixels)
        assert np.array_equal(luma(images), whole)


def test_grey_is_repeated_exactly_and_comes_back_unchanged() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    repeated = in_channels(grey, 3)
    assert repeated.shape == (1, 3, 16, 16)
    assert np.shares_memory(repeated, grey)
    assert all(np.array_equal(repeated[:, k], grey[:, 0]) for k in range(3))
    assert np.array_equal(in_channels(repeated, 1), grey)
    assert in_channels(grey, 1) is grey


@pytest.mark.parametrize(("have", "want"), [(1, 2), (2, 1), (4, 3), (3, 4)])
def test_there_are_no_other_conversions(have: int, want: int) -> None:
    assert not are_convertible(have, want)
    with pytest.raises(DataError, match=rf"of {have} channels? cannot be converted to {want} channels?; only grey"):
        in_channels(noise_images(2, shape=(have, 4, 4)), want)


def test_a_converted_set_has_a_checksum_of_its_own() -> None:
    grey, colour = ImageSet(noise_images(5, shape=(1, 8, 8))), ImageSet(noise_images(5, shape=(3, 8, 8)))
    assert as_seen(grey, 1) is grey
    seen = [as_seen(grey, 3), as_seen(colour, 1)]
    assert [images.image_shape[0] for images in seen] == [3, 1]
    assert np.array_equal(seen[1].images, luma(colour.images))
    assert len({images.checksum for images in (grey, colour, *seen)}) == 4
    assert as_seen(grey, 3).checksum == seen[0].checksum
    assert (conversion(1, 3), conversion(3, 1), conversion(3, 3)) == (REPEATED, LUMA, "")


# Copies


def test_a_grey_image_and_its_copy_in_three_channels_are_the_same_image(tmp_path: Path) -> None:
    grey, other = smooth(30, 0, (1, 16, 20)), smooth(30, 1, (1, 16, 20))
    tinted = grey.repeat(3, axis=1)
    tinted[:, 0] ^= 64
    near = noisy(grey[4:9].repeat(3, axis=1), 3)
    copies = np.concatenate([grey[:7].repeat(3, axis=1), other.repeat(3, axis=1), tinted, near])
    cached = CachedDuplicates(DataCache(tmp_path))
    for seen, tested, exact, close in ((grey, copies, 7, 12), (copies, grey, 7, 9)):
        assert exact_duplicates(seen, tested) == exact
        assert near_duplicates(seen, tested) == close
        assert cached.exact(ImageSet(seen), ImageSet(tested)) == exact
        assert cached.near(ImageSet(seen), ImageSet(tested)) == close
    assert exact_duplicates(grey, noise_images(3, shape=(2, 16, 20))) == 0


def test_the_number_of_copies_is_that_of_two_grey_sets(tmp_path: Path) -> None:
    seen = smooth(60, 0, (1, 16, 20))
    tested = np.concatenate([noisy(seen[:25], 6), noisy(seen[25:], 20)])
    expected = near_duplicates(seen, tested)
    assert 25 <= expected < 60
    assert near_duplicates(seen.repeat(3, axis=1), tested) == expected
    assert near_duplicates(seen, tested.repeat(3, axis=1)) == expected


# What all images share


def test_equal_channels_are_reported_and_other_images_are_not() -> None:
    grey = noise_images(9, shape=(1, 8, 8))
    repeated = grey.repeat(3, axis=1)
    (note,) = shared_by_all(repeated, "mine")
    assert note.startswith("The three channels of all training images of 'mine' are equal (R = G = B): photographs,")
    assert shared_by_all(grey, "mine") == []
    repeated[8, 2, 7, 7] ^= 1  # one value of one image
    assert shared_by_all(repeated, "mine") == []
    assert channel_differences(noise_images(9)) is None


def test_constant_differences_between_channels_are_reported() -> None:
    base = (noise_images(9, shape=(1, 8, 8)) // 2 + 40).repeat(3, axis=1)
    shifted = base + np.array([13, 0, -13], dtype=np.int8)[:, None, None].astype(np.uint8)
    assert channel_differences(shifted) == (-13, -26)
    (note,) = shared_by_all(shifted, "mine")
    assert "apart by constants (G - R = -13, B - R = -26)" in note


def test_edges_that_never_vary_are_reported() -> None:
    images = noise_images(20, shape=(3, 12, 10))
    assert constant_edges(images) == (0, 0, 0, 0)
    images[:, :, :2], images[:, :, -1:], images[:, :, :, -3:] = 7, 255, images[:1, :, :, -3:]
    assert constant_edges(images) == (2, 1, 0, 3)
    (note,) = shared_by_all(images, "mine")
    assert "have the same 2 rows at the top, 1 row at the bottom and 3 columns at the right: images" in note
    images[19, 1, 0, 4] += 1
    assert constant_edges(images) == (0, 1, 0, 3)


def test_edges_are_those_of_a_naive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.benchmark.data.shared_by_all.BLOCK", 200)
    random = np.random.RandomState(0)
    for _ in range(40):
        images = np.full((6, 2, 7, 9), 5, np.uint8)
        for _ in range(random.randint(1, 4)):
            images[tuple(random.randint(0, size) for size in images.shape)] = random.randint(6, 256)
        same = (images == images[:1]).all(axis=(0, 1))
        rows, columns = same.all(axis=1).tolist(), same.all(axis=0).tolist()
        naive = [line.index(False) for line in (rows, rows[::-1], columns, columns[::-1])]
        assert list(constant_edges(images)) == naive


def test_images_without_differences_give_no_note() -> None:
    assert shared_by_all(np.zeros((5, 1, 8, 8), np.uint8), "mine") == []
    assert shared_by_all(noise_images(1), "mine") == []


# Forms


class Tinted(Form):
    """Changes colours: adds to the first channel and takes from the last."""

    channels = 3

    def apply(self, images: np.ndarray) -> np.ndarray:
        return images + np.array([13, 0, 243], np.uint8)[:, None, None]


class Careless(Form):
    """Reads the third channel of any image."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        return images[:, 2:] if images.shape[1] == 3 else images[:, [2]]


def test_a_form_that_needs_colour_says_so_of_grey_images() -> None:
    form = Tinted()
    form.__class__.name = "tinted"
    assert changed(form, noise_images(4), "photographs").shape == (4, 3, 32, 32)
    with pytest.raises(DataError) as caught:
        changed(form, noise_images(4, shape=(1, 8, 8)), "digits")
    assert str(caught.value) == (
        "Form 'tinted' changes images of 3 channels, and those of 'digits' have 1. Choose another form, or another "
        "data set."
    )


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (1, r"Form 'careless' cannot be applied to 'digits', whose images have 1 channel: IndexError"),
        (3, r"Form 'careless' returned uint8 \(4, 1, 8, 8\) for the images of 'digits'; apply\(\) must return uint8"),
    ],
)
def test_a_form_that_does_not_keep_the_channels_is_a_sentence(channels: int, message: str) -> None:
    Careless.name = "careless"
    with pytest.raises(DataError, match=message):
        changed(Careless(), noise_images(4, shape=(channels, 8, 8)), "digits")
