"""One stored image -> uint8 (3, 32, 32). Decoding is Pillow's; what it would let pass in silence is refused here."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from oodbench.benchmark.errors import first_line

SIDE = 32
"""Height and width of every image that a data set of files yields."""

MAX_PIXELS = 50_000_000
"""An image that declares more is refused before it is decoded: a few kilobytes can declare gigabytes."""

MAX_SIDE = 65_535
"""Of an image's height and width: resizing takes memory with the larger one."""

LARGE = 4_000_000
"""Images of more pixels are decoded one at a time, so that memory does not grow with the number of processors."""

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp")
"""File names that count as images."""

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_BIT_DEPTH = 24
"""Offset of the bit depth in a PNG file's header."""

_one_large = threading.Lock()


class BadImageError(Exception):
    """One image that cannot be used; its text is the reason, to follow the image's name."""


@dataclass(frozen=True)
class Fit:
    """How a stored image becomes 32 x 32: as it is, or bilinearly with antialiasing (Pillow)."""

    stored: tuple[int, int] | None = None
    """(height, width) that every image must have; None where sizes differ."""
    how: Literal["squeeze", "crop", "cut"] = "squeeze"
    """The whole image (aspect not kept), its centre square (edges lost), or its centre 32 x 32 pixels, not resized."""

    @property
    def told(self) -> str:
        """In words, for notes and cards."""
        if self.stored == (SIDE, SIDE):
            return "as stored"
        if self.how == "cut":
            return f"the centre {SIDE}x{SIDE} pixels"
        what = "the centre square" if self.how == "crop" else "the whole image"
        return f"{what} resized to {SIDE}x{SIDE}, bilinear with antialiasing"


AS_STORED = Fit(stored=(SIDE, SIDE))


def decode(content: bytes, fit: Fit) -> tuple[np.ndarray, str]:
    """Decode one file's bytes: uint8 (3, 32, 32), and the mode that it was stored in ('RGB', 'L', ...).

    Raises `BadImageError` for what is no image, is cut short, is of another size than `fit.stored`, has transparent
    pixels, more than 8 bits a channel, or several frames. Grey, palette and CMYK images are converted to RGB.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _refuse(image, content, fit)
            alone: AbstractContextManager[object] = nullcontext()
            if image.width * image.height > LARGE:
                alone = _one_large
            with alone:
                image.load()
                mode = image.mode
                return _fitted(_rgb(image), fit), mode
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("is no image in a known format") from None
    except Exception as error:  # a damaged file makes decoders raise anything from SyntaxError to struct.error
        raise BadImageError(f"cannot be decoded ({first_line(error)})") from error


def _refuse(image: Image.Image, content: bytes, fit: Fit) -> None:
    """Refuse by the header, before anything is decoded."""
    size = (image.height, image.width)
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError(f"declares {size[1]}x{size[0]} pixels, more than {MAX_PIXELS:,}")
    if max(size) > MAX_SIDE:
        raise BadImageError(f"declares {size[1]}x{size[0]} pixels, more than {MAX_SIDE:,} on a side")
    if fit.how == "cut" and min(size) < SIDE:
        raise BadImageError(f"is {size[1]}x{size[0]} pixels, expected at least {SIDE}x{SIDE}")
    if fit.stored is not None and size != fit.stored:
        raise BadImageError(f"is {size[1]}x{size[0]} pixels, expected {fit.stored[1]}x{fit.stored[0]}")
    deep = content.startswith(_PNG) and content[_PNG_BIT_DEPTH] == 16  # Pillow drops the low bytes of an RGB one
    if deep or image.mode.startswith(("I", "F")):
        raise BadImageError("has more than 8 bits a channel; convert it to 8")
    if getattr(image, "n_frames", 1) > 1:
        raise BadImageError("has several frames; store one")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadImageError("has transparent pixels; flatten it onto a background")
    return image if image.mode == "RGB" else image.convert("RGB")


def _fitted(image: Image.Image, fit: Fit) -> np.ndarray:
    if image.size != (SIDE, SIDE):
        side = SIDE if fit.how == "cut" else min(image.size)
        if fit.how != "squeeze":
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if fit.how != "cut":
            image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels: np.ndarray = np.asarray(image).transpose(2, 0, 1)
    return pixels


def resized(images: np.ndarray) -> np.ndarray:
    """Arrays uint8 (N, H, W) or (N, 3, H, W) -> (N, 3, 32, 32), as by `Fit()`; grey is repeated in three channels."""
    grey = images.ndim == 3
    result = np.empty((len(images), 3, SIDE, SIDE), np.uint8)
    for row, image in enumerate(images):
        small = Image.fromarray(image if grey else image.transpose(1, 2, 0))
        if small.size != (SIDE, SIDE):
            small = small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small)
        result[row] = pixels if grey else pixels.transpose(2, 0, 1)
    return result


def resized_all(images: np.ndarray) -> np.ndarray:
    """`resized`, in a pool of threads."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.concatenate(list(pool.map(resized, np.array_split(images, max(1, len(images) // 1024)))))
