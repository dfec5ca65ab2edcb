"""How many images a forward call of a pass has."""

from __future__ import annotations

BLOCK = 256
"""Images per forward call for images of 32 x 32 pixels and fewer, and in runs that do not resize images."""

SMALLEST = 8
"""Images per forward call for the largest images."""

PIXELS = 1 << 18
"""Pixels of a block, one channel counted: 256 images of 32 x 32. Larger ones do not stay in a processor's caches: in
blocks of 8 a network of 224 x 224 takes less than half the time of blocks of 64."""


def block_of(image_shape: tuple[int, int, int], preprocessing: str, wanted: int = 0) -> int:
    """Images per forward call for images of a shape (C, H, W).

    The largest power of two with at most `PIXELS` pixels, from `SMALLEST` to `BLOCK`: 256 up to 32 x 32, 64 at 64 x 64,
    8 from 182 x 182 on. Runs without preprocessing keep `BLOCK`, whatever their images' size.

    Args:
        image_shape: Of the network's input.
        preprocessing: How pictures are resized, as in `Plan`; empty if they are not.
        wanted: A number that was asked for, which counts; 0 for none.
    """
    if wanted:
        return wanted
    if not preprocessing:
        return BLOCK
    _, height, width = image_shape
    block = BLOCK
    while block > SMALLEST and block * height * width > PIXELS:
        block //= 2
    return block
