"""Small pictures of every kind that a set may hold."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture in colour with some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = random.integers(-9, 10, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, rotated: int = 0) -> bytes:
    """A picture as a file, with an EXIF orientation if that is not 0."""
    file = io.BytesIO()
    more = {}
    if rotated:
        exif = Image.Exif()
        exif[ORIENTATION] = rotated
        more["exif"] = exif
    picture.save(file, kind, **more)
    return file.getvalue()


@lru_cache(maxsize=1)
def _varied() -> tuple[tuple[str, bytes], ...]:
    transparent = photo(41, 29, 5).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    return (
        ("bmp/plain.bmp", encoded(photo(25, 33, 1), "BMP")),
        ("cmyk.jpg", encoded(photo(60, 45, 2).convert("CMYK"), "JPEG")),
        ("colour.jpg", encoded(photo(64, 48, 3), "JPEG")),
        ("grey.jpg", encoded(photo(37, 52, 4).convert("L"), "JPEG")),
        ("one.png", encoded(photo(1, 1, 6), "PNG")),
        ("palette.png", encoded(photo(50, 50, 7).quantize(17), "PNG")),
        ("rotated.jpg", encoded(photo(44, 31, 8), "JPEG", rotated=6)),
        ("tall.webp", encoded(photo(20, 90, 9), "WEBP")),
        ("transparent.png", encoded(transparent, "PNG")),
    )


def varied() -> dict[str, bytes]:
    """Nine pictures by their paths in a set: of several sizes, formats and modes, all of them usable."""
    return dict(_varied())
