"""Slight changes of images against plain loops, and the part of a set that holds them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark import ImageSet
from oodbench.benchmark.data.changes import CHANGES, QUALITY, changed_images, changes_version
from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.metrics.names import STABILITY
from oodbench.benchmark.metrics.stability import changed_rows
from oodbench.benchmark.plugins.specs import parse_set
from tests.support import noise_images


def plainly(change: str, image: np.ndarray) -> np.ndarray:
    """One change of one colour image, pixel by pixel."""
    levels = {"tint": (13, 0, -13), "brighter": (1, 1, 1), "darker": (-1, -1, -1), "shifted": (0, 0, 0)}[change]
    out = np.empty_like(image)
    for c, y, x in np.ndindex(image.shape):
        source = max(x - 1, 0) if change == "shifted" else x
        out[c, y, x] = min(max(int(image[c, y, source]) + levels[c], 0), 255)
    return out


@pytest.mark.parametrize("change", [name for name in STABILITY if name != "jpeg"])
def test_changes_are_those_of_plain_loops(change: str) -> None:
    images = noise_images(3, shape=(3, 5, 7))
    images[0, :, 0] = np.array([0, 1, 12, 13, 242, 243, 255])  # both ends are clipped
    before = images.copy()
    changed = CHANGES[change](images)
    assert changed.dtype == np.uint8
    assert changed.tolist() == [plainly(change, image).tolist() for image in before]
    assert (images == before).all()


@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_is_that_of_pillow_and_keeps_grey_images_grey(grey: bool) -> None:
    images = noise_images(2, shape=(3, 16, 16))
    images = np.repeat(images[:, :1], 3, axis=1) if grey else images
    for image, changed in zip(images, CHANGES["jpeg"](images), strict=True):
        file = io.BytesIO()
        pixels = Image.fromarray(image.transpose(1, 2, 0)).convert("L" if grey else "RGB")
        pixels.save(file, "JPEG", quality=QUALITY)
        assert (np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) == changed).all()
        assert (changed != image).any()
        assert (changed == changed[:1]).all() == grey


@pytest.mark.parametrize("channels", [1, 3])
def test_all_images_of_a_change_stand_together_with_their_labels(channels: int) -> None:
    images = noise_images(7, shape=(channels, 6, 6))
    test = ImageSet(images, np.arange(7) % 2, ("a", "b"), groups=np.arange(7))
    changed = changed_images(test)
    assert changed.images.shape == (7 * len(STABILITY), 3, 6, 6)
    assert changed.labels is not None
    assert changed.labels.tolist() == (np.arange(7) % 2).tolist() * len(STABILITY)
    assert changed.groups is None
    colour = np.broadcast_to(images, (7, 3, 6, 6))
    for name, block in zip(STABILITY, changed.images.reshape(len(STABILITY), 7, 3, 6, 6), strict=True):
        assert (block == CHANGES[name](colour)).all()


def test_a_grey_network_sees_a_tint_as_two_grey_levels_and_the_other_changes_as_they_are() -> None:
    grey = ImageSet(np.clip(noise_images(5, shape=(1, 8, 8)), 20, 230))
    seen = dict(zip(STABILITY, in_channels(changed_images(grey).images, 1).reshape(5, 5, 1, 8, 8), strict=True))
    assert set(np.unique(seen["tint"].astype(int) - grey.images)) == {2}, "0.299 x 13 - 0.114 x 13 = 2.4"
    assert (seen["brighter"] == grey.images + 1).all()
    assert (seen["darker"] == grey.images - 1).all()
    assert (seen["shifted"][..., 1:] == grey.images[..., :-1]).all()
    as_grey = [np.asarray(Image.open(_as_jpeg(image[0]))) for image in grey.images]
    assert (seen["jpeg"][:, 0] == np.stack(as_grey)).all()


def _as_jpeg(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file


def test_images_that_are_neither_grey_nor_in_colour_are_refused() -> None:
    with pytest.raises(DataError, match="only grey images"):
        changed_images(ImageSet(noise_images(3, shape=(4, 8, 8))))


def test_every_change_has_a_name_and_each_name_a_change() -> None:
    assert tuple(CHANGES) == STABILITY
    assert "pillow" in changes_version(), "which decides the bytes of JPEG"


def test_a_library_has_the_changed_test_images_as_a_part(tmp_path: Path) -> None:
    library = Library(tmp_path)
    changed, test = (library.part(parse_set("digits"), part) for part in ("changed", "test"))
    rows = changed_rows(len(test))
    assert len(changed) == len(rows) * len(STABILITY)
    assert changed.checksum == changed_images(test).checksum == library.part(parse_set("digits"), "changed").checksum
    assert changed.checksum != Library(tmp_path).part(parse_set("glyphs"), "changed").checksum
