"""Brings images to a network's channels: grey images repeated in three, colour images as their luma (ITU-R 601).

A set has the channels that its images are stored with, and a network those of its ID set, unless its backbone, the
suite or a file of weights fixes them. Where the two differ, everything that passes images to a network (training,
extraction, detectors that read images, figures) and everything that compares images across sets calls this module, and
nothing else converts.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import COLOUR, GREY, ImageSet

REPEATED, LUMA = "grey repeated in three channels", "colour as luma (ITU-R 601)"

CONVERSIONS = {(GREY, COLOUR): REPEATED, (COLOUR, GREY): LUMA}
"""(channels of the images, channels of the network) -> how the images are converted."""

WEIGHTS = (19595, 38470, 7471)
"""0.299, 0.587 and 0.114 (ITU-R BT.601-7, section 2.5.1) in units of 1 / 65,536, which they add up to, as in Pillow."""

BLOCK = 1 << 20
"""Pixels converted at a time, so that the temporary sums, of four bytes a pixel, stay small."""


def conversion(have: int, want: int) -> str:
    """How images with `have` channels are converted for a network with `want`; empty if they are not.

    Raises `DataError` for numbers of channels between which there is no conversion.
    """
    if have == want:
        return ""
    if (have, want) not in CONVERSIONS:
        raise DataError(
            f"Images of {count_of(have)} cannot be converted to {count_of(want)}; only grey images (1 channel) and "
            "colour images (3) can be converted into each other."
        )
    return CONVERSIONS[have, want]


def are_convertible(have: int, want: int) -> bool:
    """Whether images with `have` channels can be shown to a network with `want`."""
    return have == want or (have, want) in CONVERSIONS


def count_of(channels: int) -> str:
    """'1 channel', '3 channels'."""
    return f"{channels} channel{'s' * (channels != 1)}"


def in_channels(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Images uint8 (N, C, H, W) with another number of channels, uint8 (N, channels, H, W).

    The same array if it has as many; for grey in three channels a read-only view that takes no memory. Raises
    `DataError` where there is no conversion.
    """
    how = conversion(images.shape[1], channels)
    if how == REPEATED:
        return np.broadcast_to(images, (len(images), channels, *images.shape[2:]))
    return luma(images) if how == LUMA else images


def luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of red, green and blue, uint8 (N, 3, H, W) -> (N, 1, H, W): 0.299 R + 0.587 G + 0.114 B.

    In integers, rounded half up, bit for bit as Pillow's `convert("L")`. Three equal channels give back their value.
    """
    grey = np.empty((len(images), 1, *images.shape[2:]), np.uint8)
    step = max(1, BLOCK // max(1, images.shape[2] * images.shape[3]))
    for start in range(0, len(images), step):
        block = images[start : start + step].astype(np.uint32)
        total = sum((block[:, k] * np.uint32(weight) for k, weight in enumerate(WEIGHTS)), start=np.uint32(1 << 15))
        grey[start : start + step, 0] = total >> 16
    return grey


def as_seen(images: ImageSet, channels: int) -> ImageSet:
    """An image set as a network with a number of channels sees it; the set itself if it has as many.

    Of a set that is decoded when it is read, its thumbnails.

    The checksum of a converted set is derived from that of the stored one, which need not be computed again.
    """
    if images.lazy is not None:
        images = replace(images, images=images.small).with_checksum(f"thumbnails of {images.checksum}")
    how = conversion(images.image_shape[0], channels)
    if not how:
        return images
    checksum = hashlib.sha256(f"{images.checksum} {how}".encode()).hexdigest()
    return replace(images, images=in_channels(images.images, channels)).with_checksum(checksum)
