"""Decoded pixels of a set on the disk, so that a set that is passed again need not be decoded again.

    cache/data/NAME-KEY.VIEW.pixels        uint8 (n, H, W, C) in the set's order
    cache/data/NAME-KEY.VIEW.pixels.json   its SHA-256 and stamp; written last

VIEW is a hash of what is done to the pictures and of which of them are in the set. The first pass over a set leaves a
mark, the second writes its pixels on the way, and later ones read them, in a fraction of the time. They are read, not
mapped, so that they take no memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.pictures.source import stamp_of
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.safe_read import read_json

GIGABYTE = 10**9


class PixelCache:
    """The decoded pixels of one set.

    Args:
        stem: Of the index's files.
        view: What determines the pixels besides the index.
        rows: The pictures of the set, int64 (n,).
        shape: Of one decoded picture, (H, W, C).
    """

    def __init__(self, stem: Path, view: str, rows: NDArray[np.int64], shape: tuple[int, int, int]) -> None:
        digest = hashlib.sha256(view.encode() + np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()
        self.path = stem.with_name(f"{stem.name}.{digest[:12]}.pixels")
        self._shape, self._count = shape, len(rows)
        self._bytes = int(np.prod(shape))
        self._checked: bool | None = None

    @property
    def side(self) -> Path:
        """Its side file."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def mark(self) -> Path:
        """The file that a first pass leaves."""
        return self.path.with_name(self.path.name + ".once")

    def is_stored(self) -> bool:
        """Whether the pixels are there and undamaged; they are hashed once by this object if their stamp changed."""
        if not self._checked:
            self._checked = self._is_intact()
        return self._checked

    def _is_intact(self) -> bool:
        try:
            stat, side = self.path.stat(), read_json(self.side)
            if stat.st_size != self._count * self._bytes or not isinstance(side, dict):
                return False
            return side.get("stamp") == stamp_of(stat) or side.get("sha256") == file_sha256(self.path)
        except (OSError, ValueError):
            return False

    def read(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels at some places of the set, uint8 (n, H, W, C)."""
        block = np.empty((len(places), *self._shape), np.uint8)
        flat = block.reshape(len(places), self._bytes)
        with self.path.open("rb", buffering=0) as file:
            start = 0
            while start < len(places):
                stop = start + 1
                while stop < len(places) and places[stop] == places[stop - 1] + 1:  # neighbours in one call
                    stop += 1
                file.seek(int(places[start]) * self._bytes)
                wanted = flat[start:stop].data.cast("B")
                while len(wanted):
                    if not (got := file.readinto(wanted)):
                        raise OSError("the file is shorter than it was")
                    wanted = wanted[got:]
                start = stop
        return block

    def passed(self, blocks: Iterator[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        """The blocks of a pass over the whole set, (n, H, W, C); a second pass stores them.

        Pixels that cannot be stored only have to be decoded again.
        """
        if not self.mark.exists():
            yield from blocks
            with suppress(OSError):
                atomic.write(self.mark, b"")
            return
        temporary = self.path.with_name(f".{self.path.name[:40]}.{os.getpid()}-{id(self)}{atomic.SUFFIX}")
        file = None
        try:
            with suppress(OSError):
                file = temporary.open("xb")
            for block in blocks:
                if file is not None:
                    try:
                        file.write(block.data)
                    except OSError:
                        file.close()
                        file = None
                yield block
            if file is not None:
                with suppress(OSError):
                    file.close()
                    self._finish(temporary)
        finally:
            if file is not None:
                file.close()
            temporary.unlink(missing_ok=True)

    def _finish(self, temporary: Path) -> None:
        if temporary.stat().st_size != self._count * self._bytes:
            return
        atomic.flush(temporary)
        sha256 = file_sha256(temporary)
        self.side.unlink(missing_ok=True)
        atomic.rename(temporary, self.path)
        atomic.write(self.side, to_json({"sha256": sha256, "stamp": stamp_of(self.path.stat())}).encode())
        self._checked = True
        self.mark.unlink(missing_ok=True)


def damaged_pixels(stem: Path) -> list[Path]:
    """The files of decoded pixels of an index that do not match their checksums."""
    found = []
    for path in stem.parent.glob(f"{stem.name}.*.pixels"):
        try:
            side = read_json(path.with_name(path.name + ".json"))
            if not isinstance(side, dict) or side.get("sha256") != file_sha256(path):
                found.append(path)
        except (OSError, ValueError):
            found.append(path)
    return found


def drop_pixels(path: Path) -> None:
    """Remove a file of decoded pixels, so that they are decoded again."""
    path.with_name(path.name + ".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
