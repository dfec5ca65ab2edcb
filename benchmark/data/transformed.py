"""ID validation images made unlike the ID set, on which the protocol `val_id` chooses settings without any OOD image.

    shuffled    the pixels of each image in another order, channels together
    jigsaw      each image cut into 4 x 4 patches, in another order
    noisy       Gaussian noise with a standard deviation of 64 grey levels
    blurred     the mean over a square of about a quarter of the image's shorter side
    mixed       the mean of two images of different classes

What is drawn is drawn for each image from a hash of its pixels, so that an image becomes the same wherever it stands.
Two keep the pixel values and lose shapes, two lose details and keep shapes; `mixed` shows parts of the classes and none
of them. None is meant to look like a particular OOD set.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.pictures.derived import DerivedImages
from oodbench.benchmark.data.pictures.paired import PairedImages
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages

Pixels = NDArray[np.uint8]
Change = Callable[[ImageSet], ImageSet]

TRANSFORMS_VERSION = "1"
"""What a transformed set depends on besides its images and labels; increase it when a transformation changes."""

GRID = 4
"""Patches of a jigsaw in each direction."""

NOISE = 64.0
"""Standard deviation of the noise, in grey levels."""


def shuffled(images: Pixels) -> Pixels:
    """The pixels of each image in another order; the channels of a pixel stay together."""
    result = np.empty_like(images)
    for image, out in zip(images, result, strict=True):
        order = _random(image).permutation(image[0].size)
        out[:] = image.reshape(len(image), -1)[:, order].reshape(image.shape)
    return result


def jigsaw(images: Pixels) -> Pixels:
    """Each image's patches in another order; of sides that `GRID` does not divide, the rest stays where it is."""
    height, width = images.shape[2:]
    rows, columns = min(GRID, height), min(GRID, width)
    tall, wide = height // rows, width // columns
    result: Pixels = images.copy()
    for image, out in zip(images, result, strict=True):
        for place, source in enumerate(_other_order(_random(image), rows * columns)):
            (top, left), (start, side) = divmod(place, columns), divmod(int(source), columns)
            patch = image[:, start * tall : (start + 1) * tall, side * wide : (side + 1) * wide]
            out[:, top * tall : (top + 1) * tall, left * wide : (left + 1) * wide] = patch
    return result


def noisy(images: Pixels) -> Pixels:
    """Gaussian noise added to every pixel and channel by itself, rounded and clipped to what a pixel can be."""
    result = np.empty_like(images)
    for image, out in zip(images, result, strict=True):
        out[:] = np.clip(np.rint(image + _random(image).normal(0.0, NOISE, image.shape)), 0, 255)
    return result


def blurred(images: Pixels) -> Pixels:
    """The mean over a square around each pixel, its side an odd number, at least 3; borders are repeated."""
    reach = max(1, min(images.shape[2:]) // 8)
    side = 2 * reach + 1
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    total = padded.astype(np.int64)
    for axis in (2, 3):
        sums = np.cumsum(total, axis=axis)
        first = np.take(sums, [side - 1], axis=axis)
        steps = np.take(sums, range(side, sums.shape[axis]), axis=axis)
        total = np.concatenate([first, steps - np.take(sums, range(sums.shape[axis] - side), axis=axis)], axis=axis)
    means: Pixels = ((2 * total + side * side) // (2 * side * side)).astype(np.uint8)  # rounded half up
    return means


def mixed(images: Pixels, others: Pixels) -> Pixels:
    """The mean of two images, pixel by pixel, rounded half up."""
    means: Pixels = ((images.astype(np.uint16) + others + 1) // 2).astype(np.uint8)
    return means


ALONE: dict[str, Callable[[Pixels], Pixels]] = {
    "shuffled": shuffled,
    "jigsaw": jigsaw,
    "noisy": noisy,
    "blurred": blurred,
}
"""Transformations of each image by itself, uint8 (N, C, H, W) -> the same shape."""

MIXED = "mixed"

TRANSFORMED = tuple(f"{name} validation" for name in (*ALONE, MIXED))
"""The roles of transformed validation images, in the order in which settings are tried on them."""


def transformed(validation: ImageSet, role: str) -> ImageSet:
    """Validation images under one of `TRANSFORMED`, as many and in the same order, with the labels of the originals.

    Those of pictures that are decoded when they are read are transformed then. Raises `DataError` for images of one
    class that are to be mixed, and for images without pixels.
    """
    name = role.partition(" ")[0]
    if not validation.has_pixels:
        raise DataError("There are no pixels that could be transformed.")
    what = f"transformed {name} {TRANSFORMS_VERSION}"
    partners = partners_of(validation.labels) if name == MIXED else None
    if (lazy := validation.lazy) is None:
        pixels = validation.images
        made = ALONE[name](pixels) if partners is None else mixed(pixels, pixels[partners])
        return replace(validation, images=made)
    if partners is None:
        pictures: LazyImages = DerivedImages(lazy, [ALONE[name]], what)
    else:
        pictures = PairedImages(lazy, partners, mixed, what)
    labels, classes = validation.labels, validation.classes
    return ImageSet.read_lazily(pictures, labels, classes, validation.groups, validation.find_names)


def named_sources(names: Sequence[str]) -> str:
    """What settings were chosen on, from sets as notes show them: the transformations of one set in one parenthesis."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for name in names:
        spec, _, part = name.partition(" (")
        kind, is_made, rest = part.partition(" validation")
        found.setdefault((spec, rest) if is_made else (name, None), []).append(kind)
    return ", ".join(
        spec if rest is None else f"{spec} ({', '.join(kinds)} validation{rest}"
        for (spec, rest), kinds in found.items()
    )


def partners_of(labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """For each image one of another class, as row numbers (N,): evenly spaced over all images of other classes.

    Raises `DataError` for images without labels, or of one class.
    """
    if labels is None or len(np.unique(labels)) < 2:
        raise DataError("Images of one class cannot be mixed with images of another.")
    partners = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        partners[own] = others[np.arange(len(own)) * len(others) // len(own)]
    return partners


def _random(image: Pixels) -> np.random.RandomState:
    """Random numbers of one image. RandomState, because NumPy guarantees that its streams never change."""
    return np.random.RandomState(zlib.crc32(np.ascontiguousarray(image).data))


def _other_order(random: np.random.RandomState, count: int) -> NDArray[np.int64]:
    """A random order of some things that is not their own, if there are two or more."""
    order = random.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = random.permutation(count)
    return order
