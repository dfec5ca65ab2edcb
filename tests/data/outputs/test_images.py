"""Images of which only arrays are given: they have names and no pixels, and are identified without their arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from tests.support import given_arrays


def image_set(arrays: GivenArrays, name: str = "photos", split: str = "test") -> ImageSet:
    return ImageSet.read_lazily(GivenImages(name, split, arrays), arrays.labels, ("cat", "dog", "owl", "newt"))


def test_reading_pixels_is_an_error_that_says_so() -> None:
    images = image_set(given_arrays(6, "test"))
    assert not images.has_pixels
    for read in (lambda: images.images[:2], lambda: images.small, lambda: np.asarray(images.images)):
        with pytest.raises(DataError, match="'photos' has arrays and no images"):
            read()


def test_some_of_them_keep_their_names_labels_and_rows() -> None:
    some = image_set(given_arrays(6, "test")).take(np.array([4, 1])).take(np.array([1]))
    assert some.names == ["test/1.png"]
    assert some.labels is not None
    assert some.labels.tolist() == [1]
    lazy = some.lazy
    assert isinstance(lazy, GivenImages)
    assert lazy.rows is not None
    assert lazy.rows.tolist() == [1]


def test_names_alone_identify_images_with_names() -> None:
    arrays = given_arrays(6, "test", seed=0)
    same = replace(given_arrays(6, "test", seed=1), labels=None)
    assert image_set(arrays).checksum == image_set(same, "other").checksum
    renamed = replace(arrays, names=("test/x.png", *(arrays.names or ())[1:]))
    assert image_set(arrays).checksum != image_set(renamed).checksum


def test_images_without_names_are_those_of_their_set_with_their_labels() -> None:
    arrays, other = (given_arrays(6, "test", names=False, seed=seed) for seed in (0, 1))
    assert image_set(arrays).names is None
    assert image_set(arrays).checksum == image_set(other).checksum
    assert image_set(arrays).checksum != image_set(arrays, "others").checksum
    assert image_set(arrays).checksum != image_set(given_arrays(7, "test", names=False)).checksum
    assert image_set(arrays).checksum != image_set(replace(arrays, labels=np.zeros(6, np.int64))).checksum


def test_they_are_copies_of_no_other_images() -> None:
    images, duplicates = image_set(given_arrays(6, "test")), CachedDuplicates(DataCache(None))
    assert (duplicates.exact(images, images), duplicates.near(images, images)) == (0, 0)
