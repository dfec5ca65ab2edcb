"""Forms and slight changes of pictures that are decoded when they are read: the same pixels as of an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oodbench.benchmark.data.changes import changed_images
from oodbench.benchmark.data.channels import as_seen
from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.library import _in_form
from oodbench.benchmark.data.splits import only_classes
from oodbench.benchmark.plugins.dataset import Form, ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.stages.training.training_images import ReadImages, rows_of, training_images


class OfArray(LazyImages):
    """Pretends to decode the images of an array; `read` counts how many."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels, self.read = pixels, 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.pixels.shape

    def __getitem__(self, rows: Rows) -> Pixels:
        chosen = self.pixels[rows]
        self.read += len(chosen)
        return chosen

    def select(self, rows: Rows) -> OfArray:
        return OfArray(self.pixels[rows])

    @property
    def thumbnails(self) -> Pixels:
        return self.pixels[..., ::2, ::2]

    @property
    def fingerprints(self) -> NDArray[np.uint8]:
        return np.stack([np.frombuffer(bytes(image.ravel()[:32]), np.uint8) for image in self.pixels])

    @property
    def names(self) -> list[str]:
        return [f"{k}.jpg" for k in range(len(self.pixels))]

    @property
    def view(self) -> str:
        return "as they are"


def pixels(count: int, channels: int = 3, side: int = 16) -> Pixels:
    return np.random.RandomState(count).randint(0, 256, (count, channels, side, side)).astype(np.uint8)


def pair(count: int, channels: int = 3) -> tuple[ImageSet, ImageSet]:
    """The same images as an array, and decoded when they are read."""
    labels, classes = np.arange(count) % 3, ("a", "b", "c")
    return (
        ImageSet(pixels(count, channels), labels, classes),
        ImageSet.read_lazily(OfArray(pixels(count, channels)), labels, classes),
    )


class Mirrored(Form):
    name = "mirrored"

    def apply(self, images: np.ndarray) -> np.ndarray:
        return images[..., ::-1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [7, 400])
def test_slight_changes_are_those_of_an_array(count: int, channels: int) -> None:
    stored, lazy = map(changed_images, pair(count, channels))
    assert np.array_equal(stored.images, lazy.images[:])
    assert np.array_equal(stored.labels, lazy.labels)  # type: ignore[arg-type]
    rows = np.array([3, 0, len(stored) - 1])
    assert np.array_equal(stored.images[rows], lazy.take(rows).images[:])


def test_a_form_is_that_of_an_array() -> None:
    stored, lazy = (_in_form(images, Mirrored, "photographs", "1") for images in pair(9))
    assert np.array_equal(stored.images, lazy.images[:])
    assert np.array_equal(stored.images[2:5], lazy.images[2:5])
    assert lazy.names == [f"{k}.jpg" for k in range(9)]
    assert lazy.checksum != pair(9)[1].checksum


def test_an_image_is_decoded_once_for_all_its_changes() -> None:
    _, whole = pair(5)
    assert isinstance(whole.lazy, OfArray)
    changed = changed_images(whole)
    base: Any = changed.lazy
    base._base.read = 0
    changed.images[:]
    assert base._base.read == 5


def test_nothing_decodes_a_set_to_select_compare_or_describe_it() -> None:
    _, lazy = pair(30)
    images: Any = lazy.images
    subset = only_classes(lazy, parse_set("x[0,2]"))
    assert subset.classes == ("a", "c")
    assert subset.names is not None
    assert len(subset) == 20
    assert CachedDuplicates(DataCache(None)).exact(lazy, lazy) == 30
    assert CachedDuplicates(DataCache(None)).near(lazy, lazy) == 30
    assert as_seen(lazy, 1).image_shape == (1, 8, 8)
    assert len(lazy.checksum) == 64
    assert images.read == 0


def test_a_whole_set_does_not_become_an_array_by_accident() -> None:
    with pytest.raises(TypeError, match="decoded block by block"):
        np.asarray(pair(3)[1].images)


@pytest.mark.parametrize("gigabytes", [1.0, 0.0])
def test_training_draws_the_same_batches_from_memory_and_from_pictures(gigabytes: float) -> None:
    stored, lazy = pair(12, 1)
    cpu, rows = torch.device("cpu"), torch.tensor([11, 0, 5, 5])
    expected, found = (training_images(images, 3, cpu, gigabytes) for images in (stored, lazy))
    assert isinstance(found, ReadImages) is (gigabytes == 0)
    assert len(found) == 12
    assert torch.equal(rows_of(expected, rows), rows_of(found, rows))
