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

from oodbench.benchmark.errors import DataError

MAX_ENCODED = 1 << 28
"""Bytes of one encoded picture; larger ones are left out."""


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
        """A text for each of these pictures that changes when its stored bytes do, found without reading them.

        Raises `DataError` for one that is not there.
        """
        ...

    def read(self, row: int) -> bytes:
        """The encoded picture number `row`; empty if it has more than `MAX_ENCODED` bytes.

        Raises `DataError` if it cannot be read.
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
        """Inode, size, modification and change time of each file."""
        return [stamp_of(self._stat(row)) for row in rows]

    def read(self, row: int) -> bytes:
        """The file's content; empty if it is too large."""
        try:
            with self._path(row).open("rb") as file:
                return file.read() if os.fstat(file.fileno()).st_size <= MAX_ENCODED else b""
        except OSError as error:
            raise self._unreadable(row, error) from error

    def _path(self, row: int) -> Path:
        return self.place / self.names[row]

    def _stat(self, row: int) -> os.stat_result:
        try:
            return self._path(row).stat()
        except OSError as error:
            raise self._unreadable(row, error) from error

    def _unreadable(self, row: int, error: OSError) -> DataError:
        return DataError(f"'{self._path(row)}' cannot be read: {error.strerror or error}.")


def stamp_of(stat: os.stat_result) -> str:
    """Changes with a file: programs can set the modification time, but the system sets the change time."""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
