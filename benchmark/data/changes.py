"""Slight changes of ID test images, which leave what they show as it is, to see whether a score notices them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from oodbench.benchmark.data.channels import conversion, in_channels
from oodbench.benchmark.data.pictures.derived import DerivedImages
from oodbench.benchmark.metrics.names import STABILITY, STABILITY_VERSION
from oodbench.benchmark.metrics.stability import changed_rows
from oodbench.benchmark.plugins.dataset import COLOUR, ImageSet

Pixels = NDArray[np.uint8]

TINT = 13
"""Grey levels added to red and taken from blue."""

QUALITY = 90
"""Of JPEG, on Pillow's scale."""


def tint(images: Pixels) -> Pixels:
    """Red raised and blue lowered by `TINT` grey levels."""
    return _raised(images, (TINT, 0, -TINT))


def brighter(images: Pixels) -> Pixels:
    """Every pixel raised by one grey level."""
    return _raised(images, (1, 1, 1))


def darker(images: Pixels) -> Pixels:
    """Every pixel lowered by one grey level."""
    return _raised(images, (-1, -1, -1))


def shifted(images: Pixels) -> Pixels:
    """All pixels moved to the right by one, the left column repeated."""
    return np.concatenate([images[..., :1], images[..., :-1]], axis=3)


def jpeg(images: Pixels) -> Pixels:
    """Compressed as JPEG and decompressed; grey images as grey ones."""
    return np.stack([_through_jpeg(image) for image in images])


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "tint": tint,
    "brighter": brighter,
    "darker": darker,
    "shifted": shifted,
    "jpeg": jpeg,
}
"""By the names of `STABILITY`; each takes and returns colour images, uint8 (N, 3, H, W)."""


def changed_images(test: ImageSet) -> ImageSet:
    """Up to `stability.IMAGES` test images under every change, in the order of `STABILITY`, all in colour.

    Grey images are repeated in three channels, so that there is something to tint. A grey network gets all of them as
    luma, as it gets any colour image: there a tint is a change of two grey levels, and the other changes are grey.

    Those of pictures that are decoded when they are read are changed then.

    Raises `DataError` for images that are neither grey nor in colour.
    """
    chosen = test.take(changed_rows(len(test)))
    labels = None if chosen.labels is None else np.tile(chosen.labels, len(STABILITY))
    if (lazy := chosen.lazy) is not None:
        conversion(lazy.shape[1], COLOUR)  # raises the error for other channels
        functions = [_in_colour(CHANGES[name]) for name in STABILITY]
        made = DerivedImages(lazy, functions, changes_version(), channels=COLOUR)
        return ImageSet.read_lazily(made, labels, test.classes)
    images = in_channels(chosen.images, COLOUR)
    changed = np.concatenate([CHANGES[name](images) for name in STABILITY])
    return replace(chosen, images=changed, labels=labels, groups=None)


def changes_version() -> str:
    """What the changed images depend on besides the images: this code, and the encoder of JPEG."""
    encoder = features.version("libjpeg_turbo") or features.version("jpg")
    return f"changes {STABILITY_VERSION}, pillow {PIL.__version__}, jpeg {encoder}"


def _in_colour(change: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Pixels]:
    return lambda images: change(in_channels(images, COLOUR))


def _raised(images: Pixels, levels: tuple[int, ...]) -> Pixels:
    raised: Pixels = np.clip(images.astype(np.int16) + np.reshape(levels, (-1, 1, 1)), 0, 255).astype(np.uint8)
    return raised


def _through_jpeg(image: Pixels) -> Pixels:
    """One image, uint8 (3, H, W)."""
    is_grey = bool((image == image[:1]).all())
    file = io.BytesIO()
    Image.fromarray(image[0] if is_grey else np.moveaxis(image, 0, -1)).save(file, "JPEG", quality=QUALITY)
    decoded = np.asarray(Image.open(file), dtype=np.uint8)
    return np.stack([decoded] * len(image)) if is_grey else np.moveaxis(decoded, -1, 0)
