"""One stored picture: what its header says, whether it can be used, and its pixels in mode RGB or L.

Pictures are converted as torchvision, timm and OpenOOD do, with Pillow's `convert("RGB")`: palettes are looked up, CMYK
becomes RGB, and an alpha channel is dropped. What cannot be shown in 8 bits a channel, or is several pictures, is not
used.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PpmImagePlugin, TiffImagePlugin, UnidentifiedImageError

from oodbench.benchmark.data.pictures.source import BadImageError as BadImageError
from oodbench.benchmark.data.pictures.source import DamagedImageError as DamagedImageError
from oodbench.benchmark.errors import first_line

FORMATS = ("PNG", "JPEG", "WEBP", "PPM", "BMP", "TIFF", "GIF")
"""Pillow's names of the formats that are read."""

GREY_MODES = frozenset({"1", "L", "LA", "La"})
"""Pillow's modes of images stored in black and white or in grey."""

WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})

MAX_PIXELS = 89_000_000
"""Pixels that a picture may declare, checked before it is decoded: a file of a few kilobytes can declare gigabytes.
Phones take photographs of 64 million; above 89 million, Pillow itself warns."""

MAX_SIDE = 65_535
"""Limit of height and width: the memory for resizing grows with the larger of them."""

LARGE = 4_000_000
"""Pictures with more pixels are decoded one at a time, so that memory does not grow with the number of cores."""

THUMBNAIL = 32
"""Height and width of a thumbnail."""

MAX_BYTE = 255
"""The largest value of 8 bits."""

ORIENTATION = 0x0112
"""The EXIF tag of a picture's rotation; 1 is none."""

FOREIGN = {
    b"8BPS": "a Photoshop file",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\x00\x00\x01\x00": "an icon",
    b"%PDF": "a PDF",
    b"<svg": "SVG",
    b"<?xml": "SVG or other XML",
}
"""How files in formats that are not read begin."""

BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC"}
"""The same for files whose bytes 4 to 8 are 'ftyp', by the bytes that follow."""

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_BIT_DEPTH = 24
"""Offset of the bit depth in a PNG file's header."""

_one_large = threading.Lock()


class Looked(NamedTuple):
    """What the index keeps of a picture that can be used."""

    height: int
    width: int
    """As stored, without a rotation that EXIF data state."""
    mode: str
    """Pillow's mode of the stored picture."""
    rotated: bool
    """Whether EXIF data state a rotation."""
    transparent: bool
    """Whether a pixel is not opaque."""
    several: bool
    """Whether the file holds several pictures (MPO, as phones store them), of which the first is used."""
    thumbnail: NDArray[np.uint8]
    """The whole picture squeezed, uint8 (3, 32, 32)."""


def picture(content: bytes, grey: bool = False, exif: bool = False) -> Image.Image:
    """Decode a picture, in in mode RGB, or in L for a grey set; with `exif`, rotated as its EXIF data state.

    Raises `BadImageError` for one that cannot be used, and `DamagedImageError` for a damaged one.
    """
    with opened(content) as (image, _):
        upright = ImageOps.exif_transpose(image) if exif and is_rotated(image) else image
        return _converted(upright, "L" if grey else "RGB")


def look(content: bytes, exif: bool = False) -> Looked:
    """Decode a picture for the index. Raises as `picture` does.

    A JPEG is decoded at up to an eighth of its size, which takes a fraction of the time and finds the same damage.
    """
    with opened(content, (THUMBNAIL, THUMBNAIL)) as (image, (width, height)):
        mode, several = image.mode, image.format == "MPO"
        rotated = is_rotated(image)
        transparent = is_transparent(image)
        upright = ImageOps.exif_transpose(image) if exif and rotated else image
        small = _converted(upright, "RGB")
        if small.size != (THUMBNAIL, THUMBNAIL):
            small = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
        return Looked(height, width, mode, rotated, transparent, several, pixels)


def is_rotated(image: Image.Image) -> bool:
    """Whether the EXIF data of an opened picture state a rotation; False for damaged EXIF data."""
    try:
        return "exif" in image.info and image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data raise anything
        return False


def foreign_format(content: bytes) -> str:
    """The format of a file that is not damaged but in a format that is not read; empty if it is in none of those."""
    if content[4:8] == b"ftyp":
        return BRANDS.get(content[8:12], "a film")
    return next((kind for start, kind in FOREIGN.items() if content.startswith(start)), "")


@contextmanager
def opened(content: bytes, at_least: tuple[int, int] | None = None) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """A decoded picture, at `at_least` (width, height) or more if that is given, and its stored width and height.

    Raises `BadImageError` for one that cannot be used, and `DamagedImageError` for a damaged one.
    """
    if not content:
        raise DamagedImageError("is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            refuse_size(image)
            refuse_kind(image, content)
            size = image.size
            with one_if_large(size):
                if at_least is not None:
                    image.draft(None, at_least)
                image.load()
                yield image, size
    except BadImageError:
        raise
    except UnidentifiedImageError:
        if kind := foreign_format(content):
            raise BadImageError(f"is {kind}, which is not read") from None
        raise DamagedImageError("is no image in a known format") from None
    except Exception as error:  # for damaged files, decoders raise anything from SyntaxError to struct.error
        raise DamagedImageError(f"cannot be decoded ({first_line(error)})") from error


def one_if_large(size: tuple[int, int]) -> AbstractContextManager[object]:
    """What to hold while a picture of a width and height is decoded: of large ones, one is decoded at a time."""
    return _one_large if size[0] * size[1] > LARGE else nullcontext()


def refuse_size(image: Image.Image) -> None:
    """Raise `BadImageError` for a size in the header that would exhaust memory, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"declares {width}x{height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise BadImageError(f"declares {width}x{height} pixels, more than {MAX_SIDE:,} on a side")


def refuse_kind(image: Image.Image, content: bytes, one_of_several: bool = True) -> None:
    """Raise `BadImageError` for more than 8 bits a channel, and for several frames.

    With `one_of_several`, a JPEG with several pictures (MPO) is one: its first.
    """
    if is_deep(image, content):
        raise BadImageError("has more than 8 bits a channel; convert it to 8")
    if getattr(image, "is_animated", False) and not (image.format == "MPO" and one_of_several):
        raise BadImageError("has several frames; store one")


def is_deep(image: Image.Image, content: bytes) -> bool:
    """Whether a picture has more than 8 bits per channel, which Pillow reduces to 8 silently for colour images."""
    if image.mode.startswith(("I", "F")) or (content.startswith(_PNG) and content[_PNG_BIT_DEPTH] == 16):
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return bool(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8)
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        arguments: Any = image.tile[0][3]  # the mode and, for values to be rescaled, the largest value
        return isinstance(arguments, tuple) and arguments[-1] > MAX_BYTE
    return False


def is_transparent(image: Image.Image) -> bool:
    """Whether a pixel of a decoded picture is not opaque."""
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return False
    return bool(image.convert("RGBA").getchannel("A").getextrema() != (255, 255))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The picture in a mode, as one that stays readable after its file is closed."""
    return image.copy() if image.mode == mode else image.convert(mode)
