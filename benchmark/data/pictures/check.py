"""Checks what is stored of pictures, for `bench data verify`: indexes and decoded pixels."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.data.pictures.index_files import damaged_arrays, drop, read_side
from oodbench.benchmark.data.pictures.pixel_cache import damaged_pixels, drop_pixels


def remove_damaged(root: Path) -> list[Path]:
    """Hash every file of indexes and decoded pixels in a folder; those that are damaged are removed and returned.

    A damaged index goes with its pixels. They are made again when they are needed.
    """
    found = []
    for path in sorted(root.glob("*.json")):
        stem = path.with_name(path.name.removesuffix(".json"))
        if (side := read_side(stem)) is None:
            continue
        if damaged := damaged_arrays(stem, side):
            drop(stem)
        else:
            damaged = damaged_pixels(stem)
            for pixels in damaged:
                drop_pixels(pixels)
        found += damaged
    return found
