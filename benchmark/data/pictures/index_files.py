"""What an index (`index.py`) consists of, and its files: written atomically, checked, and mapped when they are read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.pictures.source import stamp_of
from oodbench.benchmark.data.pictures.stored import GREY_MODES, THUMBNAIL, Looked
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.safe_read import read_json

ARRAYS = ("fingerprints", "thumbnails", "facts")
"""The arrays of an index, each a file."""

SIZE, CRC, HEIGHT, WIDTH, MODE, FLAGS = range(6)
"""Columns of a picture's facts: bytes of the stored file, its CRC-32, pixels, place in `MODES`, and flags."""

COLUMNS = 6

MODES = ("", "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes; the first for all others."""

USED, ROTATED, TRANSPARENT, SEVERAL = 1, 2, 4, 8
"""Flags of a picture: it can be used; EXIF data state a rotation; it is not opaque; its file holds several pictures."""

KIND = "pictures"
"""Marks the side file of an index."""


class Wrong(NamedTuple):
    """A picture that cannot be used."""

    row: int
    name: str
    reason: str
    """Completes a sentence that begins with its name."""
    damaged: bool
    """Whether it is cut short, or no image; otherwise it is of a kind that is not used."""


class Part(NamedTuple):
    """What the pass finds in n consecutive pictures; rows of pictures that cannot be used are zero but for the hash."""

    fingerprints: NDArray[np.uint8]
    """(n, 32), SHA-256 of the stored bytes."""
    thumbnails: NDArray[np.uint8]
    """(n, 3, 32, 32)."""
    facts: NDArray[np.uint32]
    """(n, `COLUMNS`)."""
    wrong: list[Wrong]

    @classmethod
    def empty(cls, count: int) -> Part:
        """A part that is to be filled."""
        thumbnails = np.zeros((count, 3, THUMBNAIL, THUMBNAIL), np.uint8)
        return cls(np.zeros((count, 32), np.uint8), thumbnails, np.zeros((count, COLUMNS), np.uint32), [])

    def packed(self) -> bytes:
        """As a file."""
        file = io.BytesIO()
        wrong = np.frombuffer(json.dumps(self.wrong).encode(), dtype=np.uint8)
        np.savez(file, fingerprints=self.fingerprints, thumbnails=self.thumbnails, facts=self.facts, wrong=wrong)
        return file.getvalue()

    @classmethod
    def unpacked(cls, content: bytes, count: int) -> Part | None:
        """From a file; None if it is damaged."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                wrong = [Wrong(*found) for found in json.loads(arrays["wrong"].tobytes())]
                part = cls(arrays["fingerprints"], arrays["thumbnails"], arrays["facts"], wrong)
        except Exception:  # NumPy and zipfile raise anything for damaged files
            return None
        shapes = [array.shape for array in part.arrays]
        return part if shapes == [array.shape for array in cls.empty(count).arrays] else None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """In the order of `ARRAYS`."""
        return self.fingerprints, self.thumbnails, self.facts


def facts_of(looked: Looked, size: int, crc: int) -> tuple[int, ...]:
    """A row of facts."""
    flags = USED | ROTATED * looked.rotated | TRANSPARENT * looked.transparent | SEVERAL * looked.several
    return size, crc, looked.height, looked.width, MODES.index(looked.mode) if looked.mode in MODES else 0, flags


class PictureIndex:
    """The index of N pictures, in files whose names begin with `stem`; in memory if that is None.

    Arrays are mapped for as long as a caller uses them, so that they do not count as memory of the process.
    """

    def __init__(self, stem: Path | None, key: str, count: int) -> None:
        self.stem, self.key, self.count = stem, key, count
        self._kept: dict[str, NDArray[Any]] = {}
        self.wrong: list[Wrong] = []

    def array(self, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """One of `ARRAYS`, or a copy of some of its rows."""
        if name in self._kept:
            whole = self._kept[name]
        else:
            assert self.stem is not None
            whole = load_array(array_file(self.stem, name))
        return whole if rows is None else whole[rows]

    @property
    def facts(self) -> NDArray[np.uint32]:
        """(N, `COLUMNS`), in memory."""
        if "facts" not in self._kept:
            self._kept["facts"] = np.array(self.array("facts"))
        return self._kept["facts"]

    @property
    def usable(self) -> NDArray[np.int64]:
        """Numbers of the pictures that can be used."""
        return np.flatnonzero(self.facts[:, FLAGS] & USED)

    @property
    def grey(self) -> bool:
        """Whether every picture that can be used is stored in grey."""
        modes = np.unique(self.facts[self.usable, MODE])
        return len(modes) > 0 and all(MODES[mode] in GREY_MODES for mode in modes)

    @property
    def modes(self) -> dict[str, int]:
        """Pillow's mode -> number of pictures stored in it."""
        modes, counts = np.unique(self.facts[self.usable, MODE], return_counts=True)
        return {MODES[mode] or "other": int(count) for mode, count in zip(modes, counts, strict=True)}

    def flagged(self, flag: int) -> int:
        """Number of pictures with a flag."""
        return int(np.count_nonzero(self.facts[:, FLAGS] & flag))

    def load(self) -> bool:
        """Whether the index is in its files, undamaged; what is wrong with pictures is then known."""
        assert self.stem is not None
        side = read_side(self.stem)
        if side is None or side.get("key") != self.key or not _is_intact(self.stem, side):
            return False
        self.wrong = [Wrong(*found) for found in side["wrong"]]
        return True

    def keep(self, parts: Iterator[Part]) -> None:
        """Hold the parts of the pass in memory."""
        found = list(parts)
        for number, name in enumerate(ARRAYS):
            self._kept[name] = np.concatenate([part.arrays[number] for part in found])
        self.wrong = [wrong for part in found for wrong in part.wrong]

    def store(self, parts: Iterator[Part], made_from: dict[str, Any]) -> None:
        """Write the parts of the pass, one after another, as the index's files.

        Raises `StoreError` if they cannot be written.
        """
        assert self.stem is not None
        side_file(self.stem).unlink(missing_ok=True)
        self.wrong = []
        self._kept.clear()
        try:
            with ExitStack() as stack:
                temporary = {
                    name: stack.enter_context(atomic.temporary_beside(array_file(self.stem, name))) for name in ARRAYS
                }
                self._write(parts, temporary)
                hashes = {name: finish(path, array_file(self.stem, name)) for name, path in temporary.items()}
            stamps = {name: stamp_of(array_file(self.stem, name).stat()) for name in ARRAYS}
            side = {"key": self.key, "kind": KIND, "made_from": made_from, "pictures": self.count, "wrong": self.wrong}
            atomic.write(side_file(self.stem), to_json({**side, "sha256": hashes, "stamps": stamps}).encode())
        except OSError as error:
            raise StoreError(
                f"Cannot write '{self.stem}': {error.strerror or error}. Choose another --results."
            ) from error

    def _write(self, parts: Iterator[Part], paths: dict[str, Path]) -> None:
        with ExitStack() as stack:
            files = [stack.enter_context(paths[name].open("wb")) for name in ARRAYS]
            for part in parts:
                for file, array in zip(files, part.arrays, strict=True):
                    if not file.tell():
                        write_header(file, (self.count, *array.shape[1:]), array.dtype)
                    file.write(array.tobytes())
                self.wrong += part.wrong


def finish(temporary: Path, path: Path) -> str:
    """Move a written file to its place; returns its SHA-256."""
    atomic.flush(temporary)
    sha256 = file_sha256(temporary)
    atomic.rename(temporary, path)
    return sha256


def side_file(stem: Path) -> Path:
    """The side file of an index, which is written last."""
    return stem.with_name(stem.name + ".json")


def array_file(stem: Path, name: str) -> Path:
    """The file of one of `ARRAYS`."""
    return stem.with_name(f"{stem.name}.{name}.npy")


def read_side(stem: Path) -> dict[str, Any] | None:
    """The content of an index's side file; None if it is absent or not one."""
    try:
        side = read_json(side_file(stem))
    except (OSError, ValueError):
        return None
    return side if isinstance(side, dict) and side.get("kind") == KIND else None


def damaged_arrays(stem: Path, side: dict[str, Any]) -> list[Path]:
    """The files of an index that are missing or do not match their checksums."""
    files = {array_file(stem, name): sha256 for name, sha256 in side["sha256"].items() if name in ARRAYS}
    return [path for path, sha256 in files.items() if not path.is_file() or file_sha256(path) != sha256]


def drop(stem: Path) -> None:
    """Remove the files of an index, and what was decoded with it."""
    side_file(stem).unlink(missing_ok=True)
    for path in stem.parent.glob(f"{stem.name}.*"):
        path.unlink(missing_ok=True)


def _is_intact(stem: Path, side: dict[str, Any]) -> bool:
    """Whether the arrays are those that were written; they are hashed only if their stamps have changed."""
    try:
        stamps = {name: stamp_of(array_file(stem, name).stat()) for name in ARRAYS}
    except OSError:
        return False
    return stamps == side.get("stamps") or not damaged_arrays(stem, side)


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Begin a .npy file of an array that is written in pieces."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
