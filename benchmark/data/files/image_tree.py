"""Folders of images, packed or not; several files read as one, and parts of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.decode import Decoded, Reader, decode_members, differing_classes
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.errors import DataError


@dataclass(frozen=True)
class ImageTree:
    """Folders of images: a zip, a tar or a folder of CLASS/IMAGE, or of IMAGE where there are no classes."""

    classes: tuple[str, ...] = ()
    """Folder names in the order of their labels; with none, folders mean nothing and there are no labels."""
    fit: Fit = AS_STORED
    under: str = ""
    """Only what lies in this folder of the archive is read."""
    numbered: bool = False
    """File names are positions in the original order ('3/00021.png': image 21, of class 3)."""
    group: int = 0
    """That many neighbours in the original order depend on each other; 0: nothing is known."""
    leave_out: tuple[str, ...] = ()
    """Members, by exact path, known to be unusable; anything else that is no image is an error."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the one file or folder."""
        tree = open_tree(paths[0])
        prefix = f"{self.under}/" if self.under else ""
        names = {
            index: member.name.removeprefix(prefix)
            for index, member in enumerate(tree.members)
            if member.name.startswith(prefix) and member.name not in self.leave_out
        }
        if not names:
            where = f"'{self.under}' in '{tree.path}'" if self.under else f"'{tree.path}'"
            raise DataError(f"{where} holds no file; expected {self.expected()}.")
        order = sorted(names, key=lambda index: self._key(names[index], tree.path))
        labels = self._labels([names[index] for index in order], tree.path) if self.classes else None
        images, bad, modes = decode_members(tree, order, self.fit)
        groups = np.arange(len(order)) // self.group if self.group else None
        return Decoded(images, labels, groups, bad, modes)

    def expected(self) -> str:
        """What should be inside, in words."""
        under = f"{self.under}/" if self.under else ""
        return f"{under}CLASS/IMAGE.png" if self.classes else f"{under}IMAGE.png (or .jpg, .webp)"

    def _key(self, name: str, path: Path) -> Any:
        if not self.numbered:
            return name
        stem = PurePosixPath(name).stem
        if not stem.isdecimal():
            raise DataError(f"'{name}' in '{path}' is not named by its position; expected CLASS/00012.png.")
        return int(stem), name

    def _labels(self, names: Sequence[str], path: Path) -> np.ndarray:
        found = [name.partition("/")[0] if "/" in name else "" for name in names]
        differing_classes(path, set(found), self.classes)
        number = {name: label for label, name in enumerate(self.classes)}
        return np.array([number[name] for name in found], dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Some rows, start to stop, of what another reader reads."""

    reader: Reader
    start: int
    stop: int | None = None

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read all, keep some."""
        return _cut(self.reader.read(paths), self.start, self.stop)


@dataclass(frozen=True)
class Joined:
    """Several files one after the other: part k reads file k, and its rows from start to stop count (None: the end)."""

    parts: tuple[tuple[Reader, int, int | None], ...]

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read all of them and put them together; groups of different files are different groups."""
        pieces = [
            _cut(reader.read([path]), start, stop)
            for (reader, start, stop), path in zip(self.parts, paths, strict=True)
        ]
        first = 0
        groups, bad = [], {}
        shift = 0
        for piece in pieces:
            bad.update({row + first: reason for row, reason in piece.bad.items()})
            first += len(piece.images)
            own = np.arange(len(piece.images)) if piece.groups is None else piece.groups
            groups.append(own + shift)
            shift += int(own.max()) + 1
        labels = [piece.labels for piece in pieces if piece.labels is not None]
        return Decoded(
            np.concatenate([piece.images for piece in pieces]),
            np.concatenate(labels) if len(labels) == len(pieces) else None,
            np.concatenate(groups) if any(piece.groups is not None for piece in pieces) else None,
            bad,
            dict(sum((Counter(piece.modes) for piece in pieces), Counter())),
        )


def _cut(whole: Decoded, start: int, stop: int | None) -> Decoded:
    rows = slice(start, stop)
    kept = range(len(whole.images))[rows]
    if not kept:
        raise DataError(f"a file holds {len(whole.images):,} images; expected more than {start:,}. Get it again.")
    return Decoded(
        whole.images[rows],
        None if whole.labels is None else whole.labels[rows],
        None if whole.groups is None else whole.groups[rows],
        {row - kept.start: reason for row, reason in whole.bad.items() if row in kept},
        whole.modes,
    )
