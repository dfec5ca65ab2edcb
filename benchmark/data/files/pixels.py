"""Decodes one image file with Pillow: uint8 (3, 32, 32), or (1, 32, 32) for one stored in grey.

What Pillow would convert silently is refused.
"""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from oodbench.benchmark.data.pictures.stored import GREY_MODES as GREY_MODES
from oodbench.benchmark.data.pictures.stored import MAX_SIDE as MAX_SIDE
from oodbench.benchmark.data.pictures.stored import BadImageError as BadImageError
from oodbench.benchmark.data.pictures.stored import DamagedImageError as DamagedImageError
from oodbench.benchmark.data.pictures.stored import is_rotated, one_if_large, refuse_kind, refuse_size
from oodbench.benchmark.errors import first_line
from oodbench.benchmark.plugins.pictures import Preprocessing

SIDE = 32
"""Height and width of every image of a file-based data set."""

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp")
"""File names that count as images."""

# EXIF data say nothing about pixels, and a line for each of many photographs would hide what matters.
for _text in ("Corrupt EXIF data", "Metadata Warning", "Truncated File Read"):
    warnings.filterwarnings("ignore", _text, UserWarning)


@dataclass(frozen=True)
class Fit:
    """How a stored image becomes 32 x 32: unchanged, cropped, or resized bilinearly with antialiasing (Pillow)."""

    stored: tuple[int, int] | None = None
    """(height, width) that every image must have; None if sizes may differ."""
    how: Literal["squeeze", "crop", "cut", "shorter"] = "squeeze"
    """Resize the whole image (aspect ratio not kept), resize its centre square, take its centre 32 x 32 pixels, or
    resize its shorter side and then take the centre, as torchvision's `Resize(32)` and `CenterCrop(32)` do."""


AS_STORED = Fit(stored=(SIDE, SIDE))

OF_SHORTER_SIDE = Preprocessing(SIDE, (SIDE, SIDE))


def decode(
    content: bytes,
    fit: Fit,
    formats: tuple[str, ...] = FORMATS,
    one_of_several: bool = False,
    exif: bool = False,
) -> tuple[np.ndarray, str]:
    """Decode an image file: uint8 (C, 32, 32), and Pillow's mode of the stored image ('RGB', 'L', ...).

    `formats`: those that are tried, by Pillow's names. With `one_of_several`, a JPEG with several pictures (MPO) is
    decoded to its first; with `exif`, the image is rotated as its EXIF data state.
    C is 1 for images stored in black and white or in grey, and 3 for all others: palette and CMYK images are converted
    to RGB. Raises `BadImageError` for files that are not images or are truncated (then `DamagedImageError`), for sizes
    other than `fit.stored`, transparent pixels, more than 8 bits per channel, or several frames.
    """
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            _refuse(image, content, fit, one_of_several)
            with one_if_large(image.size):
                image.load()
                mode = image.mode
                upright = ImageOps.exif_transpose(image) if exif and is_rotated(image) else image
                return _fitted(_plain(upright), fit), mode
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise DamagedImageError("is no image in a known format") from None
    except Exception as error:  # for damaged files, decoders raise anything from SyntaxError to struct.error
        raise DamagedImageError(f"cannot be decoded ({first_line(error)})") from error


def _refuse(image: Image.Image, content: bytes, fit: Fit, one_of_several: bool) -> None:
    """Raise `BadImageError` for what the header alone shows, before anything is decoded."""
    refuse_size(image)
    size = (image.height, image.width)
    if fit.how == "cut" and min(size) < SIDE:
        raise BadImageError(f"is {size[1]}x{size[0]} pixels, expected at least {SIDE}x{SIDE}")
    if fit.stored is not None and size != fit.stored:
        raise BadImageError(f"is {size[1]}x{size[0]} pixels, expected {fit.stored[1]}x{fit.stored[0]}")
    refuse_kind(image, content, one_of_several)


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode L if it is stored in grey, else in RGB. Raises `BadImageError` for transparent pixels."""
    plain = "L" if image.mode in GREY_MODES else "RGB"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadImageError("has transparent pixels; flatten it onto a background")
    # Three equal channels have their value as luma, so that grey with an opaque alpha channel comes back unchanged.
    return image if image.mode == plain else image.convert(plain)


def _fitted(image: Image.Image, fit: Fit) -> np.ndarray:
    if fit.how == "shorter":
        image = OF_SHORTER_SIDE.apply(image)
    elif image.size != (SIDE, SIDE):
        side = SIDE if fit.how == "cut" else min(image.size)
        if fit.how != "squeeze":
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if fit.how != "cut":
            image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    planes: np.ndarray = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return planes


def resized(images: np.ndarray) -> np.ndarray:
    """Resize grey uint8 (N, H, W) to (N, 1, 32, 32), or colour (N, 3, H, W) to (N, 3, 32, 32), as `Fit()` does."""
    grey = images.ndim == 3
    result = np.empty((len(images), 1 if grey else 3, SIDE, SIDE), np.uint8)
    for row, image in enumerate(images):
        small = Image.fromarray(image if grey else image.transpose(1, 2, 0))
        if small.size != (SIDE, SIDE):
            small = small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small)
        result[row] = pixels if grey else pixels.transpose(2, 0, 1)
    return result


def resized_all(images: np.ndarray) -> np.ndarray:
    """As `resized`, in a thread pool."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.concatenate(list(pool.map(resized, np.array_split(images, max(1, len(images) // 1024)))))
