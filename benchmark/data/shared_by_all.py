"""Finds what all training images of a set have in common, by which other images are recognised without looking at them.

A network or GAN that trains on such images can learn that whatever differs there is out-of-distribution: grey images
stored in three equal channels make colour such a cue, and a frame of one value makes the margin one. A detector that
is perfect on images that differ in it has shown little.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.plugins.dataset import COLOUR

BLOCK = 1 << 22
"""Bytes of pixels processed at a time."""

SIDES = ("top", "bottom", "left", "right")


def shared_by_all(images: NDArray[np.uint8], name: str) -> list[str]:
    """One sentence, for the notes under a table, for each property that all images of a training split have.

    Args:
        images: uint8 (N, C, H, W), at least two; for fewer there is nothing to compare.
        name: The set's name.

    Returns:
        Sentences on constant differences between the channels, and on rows and columns at the edge that are the same in
        all images; empty if there are none.
    """
    if len(images) < 2:
        return []
    found = []
    if images.shape[1] == COLOUR and (between := channel_differences(images)) is not None:
        how = (
            "equal (R = G = B)"
            if not any(between)
            else f"apart by constants (G - R = {between[0]}, B - R = {between[1]})"
        )
        found.append(
            f"The three channels of all training images of '{name}' are {how}: photographs, noise and generated images "
            "can be recognised by their colour alone. Store such images in grey, in one channel."
        )
    if sides := {side: width for side, width in zip(SIDES, constant_edges(images), strict=True) if width}:
        lines = [f"{width} {_line(side, width)} at the {side}" for side, width in sides.items()]
        found.append(
            f"All training images of '{name}' have the same {_listed(lines)}: images that differ there can be "
            "recognised by these pixels alone."
        )
    return found


def channel_differences(images: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Green minus red and blue minus red, if both are the same everywhere in uint8 (N, 3, H, W); None if they vary."""
    first = images[0, :, 0, 0].astype(np.int16)
    expected = (first[1:] - first[0])[:, None, None]
    for block in _blocks(images):
        if not (block[:, 1:].astype(np.int16) - block[:, :1] == expected).all():
            return None
    return int(expected[0, 0, 0]), int(expected[1, 0, 0])


def constant_edges(images: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """How many rows at the top and bottom, and columns at the left and right, are the same in all images (N, C, H, W).

    All zero if the images do not differ at all.
    """
    height, width = images.shape[2:]
    varies: NDArray[np.bool_] = np.zeros((height, width), dtype=bool)
    for block in _blocks(images):
        varies |= (block != images[:1]).any(axis=(0, 1))
        if varies[[0, -1]].any(axis=1).all() and varies[:, [0, -1]].any(axis=0).all():
            return 0, 0, 0, 0
    rows, columns = np.flatnonzero(varies.any(axis=1)), np.flatnonzero(varies.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1])


def _blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, BLOCK // max(1, images[0].nbytes))
    return (images[start : start + rows] for start in range(0, len(images), rows))


def _line(side: str, width: int) -> str:
    return ("row" if side in ("top", "bottom") else "column") + "s" * (width != 1)


def _listed(texts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
