"""Where the pictures of a set are stored: their encoded bytes by number, with names, labels and groups.

`PictureFiles` is what the index and `StreamedImages` read from. `ListedFiles` are files of their own, by path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MAX_ENCODED = 1 << 28
"""Bytes of one encoded picture; larger ones are left out."""


ABSENT = "is not there"
"""What is wrong with a picture without a file."""


class BadImageError(Exception):
    """An image cannot be used. The text is the reason and completes a sentence that begins with the image's name."""


class DamagedImageError(BadImageError):
    """An image is cut short, or it is none."""


class PictureFiles(Protocol):
    """N encoded pictures in the order of their set. May be read by several threads at the same time."""

    place: Path
    """The folder or archive, or the root of a list, for messages."""

    @property
    def names(self) -> Sequence[str]:
        """The N paths within `place`, with '/'; each picture has its own."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) class numbers from 0; None for a set without classes."""
        ...

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """(N,): pictures with the same number depend on each other; None if every picture is its own."""
        ...

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """A text for each of these pictures that changes when its stored bytes do, found without reading them."""
        ...

    def read(self, row: int) -> bytes:
        """The encoded picture number `row`.

        Raises `DamagedImageError` if it is not there or cannot be read, `BadImageError` if it is too large.
        """
        ...


class ListedFiles:
    """Pictures that are files of their own below a folder, by path: a list of paths and labels, or a folder's files."""

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.place, self.names, self.labels, self.groups = root, paths, labels, groups

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """Inode, size, modification and change time of each file; '-' for one that is not there."""
        return [stamp_of_file(self.place / self.names[row]) for row in rows]

    def read(self, row: int) -> bytes:
        """The file's content."""
        return read_file(self.place / self.names[row])


class SomePictures:
    """Some rows of other pictures, in a given order."""

    def __init__(self, files: PictureFiles, rows: NDArray[np.int64]) -> None:
        self.place, self._files, self._rows = files.place, files, rows
        self.names = [files.names[row] for row in rows]
        self.labels = None if files.labels is None else files.labels[rows]
        self.groups = None if files.groups is None else files.groups[rows]

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """Those of the other pictures."""
        return self._files.stamps([int(self._rows[row]) for row in rows])

    def read(self, row: int) -> bytes:
        """As from the other pictures."""
        return self._files.read(int(self._rows[row]))


class JoinedPictures:
    """Several files of pictures in sequence, named after their file. Groups are renumbered: none spans two files."""

    def __init__(self, parts: Sequence[PictureFiles]) -> None:
        self.place, self._parts = parts[0].place.parent, parts
        self.names = [f"{part.place.name}/{name}" for part in parts for name in part.names]
        self._starts = np.cumsum([0, *(len(part.names) for part in parts)])
        labels = [part.labels for part in parts if part.labels is not None]
        self.labels = np.concatenate(labels) if len(labels) == len(parts) else None
        self.groups = self._joined_groups() if any(part.groups is not None for part in parts) else None

    def _joined_groups(self) -> NDArray[np.int64]:
        found, shift = [], 0
        for part in self._parts:
            numbers = np.arange(len(part.names)) if part.groups is None else part.groups
            found.append(numbers + shift)
            shift += int(numbers.max(initial=-1)) + 1
        return np.concatenate(found)

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """Those of the parts."""
        return [self._parts[part].stamps([inside])[0] for part, inside in map(self._place, rows)]

    def read(self, row: int) -> bytes:
        """As from its part."""
        part, inside = self._place(row)
        return self._parts[part].read(inside)

    def _place(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return part, row - int(self._starts[part])


def read_file(path: Path) -> bytes:
    """The content of a picture's file. Raises as `PictureFiles.read` does."""
    try:
        with path.open("rb") as file:
            refuse_large(os.fstat(file.fileno()).st_size)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedImageError(ABSENT) from None
    except IsADirectoryError:
        raise BadImageError("is a folder") from None
    except OSError as error:
        raise DamagedImageError(f"cannot be read ({error.strerror or error})") from None


def refuse_large(size: int) -> None:
    """Raise `BadImageError` for an encoded picture of more than `MAX_ENCODED` bytes."""
    if size > MAX_ENCODED:
        raise BadImageError(f"has {size:,} bytes, more than {MAX_ENCODED:,}")


def stamp_of_file(path: Path) -> str:
    """`stamp_of` a file; '-' if it is not there."""
    try:
        return stamp_of(path.stat())
    except OSError:
        return "-"


def stamp_of(stat: os.stat_result) -> str:
    """Changes with a file: programs can set the modification time, but the system sets the change time."""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
