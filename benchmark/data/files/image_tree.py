"""Readers for folders of images, packed or not, for subsets of a file's rows, and for several files in sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.class_names import class_folder, label_of_folder
from oodbench.benchmark.data.files.decode import Decoded, Reader, decode_members, differing_classes
from oodbench.benchmark.data.files.native.open_split import pictures_of
from oodbench.benchmark.data.files.native.trees import TreePictures, tree_at
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.data.files.tree import Tree
from oodbench.benchmark.data.pictures.source import JoinedPictures, PictureFiles, SomePictures
from oodbench.benchmark.errors import DataError


@dataclass(frozen=True)
class ImageTree:
    """A folder, zip or tar of CLASS/IMAGE or, for a set without classes, of IMAGE."""

    classes: tuple[str, ...] = ()
    """Class names in the order of their labels; `class_names.label_of_folder` says which folders stand for them. If
    empty, folders have no meaning and there are no labels."""
    fit: Fit = AS_STORED
    under: str = ""
    """The folder in the archive that is read; all of it by default."""
    numbered: bool = False
    """Whether file names are positions in the original order ('3/00021.png': image 21, of class 3)."""
    group: int = 0
    """Number of neighbouring images in the original order that form a group; 0 for no groups."""
    leave_out: tuple[str, ...] = ()
    """Exact paths of members known to be unusable; any other member that is not an image is an error."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the folder or archive."""
        tree = open_tree(paths[0])
        order, labels, groups = self._members(tree)
        images, bad, modes = decode_members(tree, order, self.fit)
        return Decoded(images, labels, groups, bad, modes)

    def names(self, paths: Sequence[Path]) -> list[str]:
        """The paths of the images in the folder or archive, in the set's order."""
        tree = open_tree(paths[0])
        return [tree.members[index].name for index in self._members(tree)[0]]

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
        """The same images, for reading them at their own size; None for images that are stored in one size, or cut."""
        if self.fit.stored is not None or self.fit.how == "cut":
            return None
        tree = tree_at(paths[0], root)
        return TreePictures(tree, *self._members(tree), place=paths[0])

    def _members(self, tree: Tree) -> tuple[list[int], np.ndarray | None, np.ndarray | None]:
        """Positions of the images among the tree's members in the set's order, their labels and groups."""
        prefix = f"{self.under}/" if self.under else ""
        names = {
            index: member.name.removeprefix(prefix)
            for index, member in enumerate(tree.members)
            if member.name.startswith(prefix) and member.name not in self.leave_out
        }
        if not names:
            where = f"'{self.under}' in '{tree.path}'" if self.under else f"'{tree.path}'"
            raise DataError(f"{where} contains no files; expected {self.expected()}.")
        order = sorted(names, key=lambda index: self._key(names[index], tree.path))
        labels = self._labels([names[index] for index in order], tree.path) if self.classes else None
        return order, labels, np.arange(len(order)) // self.group if self.group else None

    def expected(self) -> str:
        """The expected layout, for messages."""
        under = f"{self.under}/" if self.under else ""
        return f"{under}CLASS/IMAGE.png" if self.classes else f"{under}IMAGE.png (or .jpg, .webp)"

    def _key(self, name: str, path: Path) -> Any:
        if not self.numbered:
            return name
        stem = PurePosixPath(name).stem
        if not stem.isdecimal():
            raise DataError(f"'{name}' in '{path}' is not named after its position; expected CLASS/00012.png.")
        return int(stem), name

    def _labels(self, names: Sequence[str], path: Path) -> np.ndarray:
        folders = [class_folder(name, self.classes) for name in names]
        differing_classes(path, set(folders), self.classes)
        number = label_of_folder(set(folders), self.classes)
        return np.array([number[name] for name in folders], dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Rows start to stop (exclusive; None: the end) of another reader's images."""

    reader: Reader
    start: int
    stop: int | None = None

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read all rows and select those."""
        return _select(self.reader.read(paths), self.start, self.stop)

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
        """The same rows of the pictures that the reader reads, if it reads pictures."""
        files = pictures_of(self.reader, paths, root)
        return None if files is None else SomePictures(files, np.arange(len(files.names))[self.start : self.stop])


@dataclass(frozen=True)
class Joined:
    """Several files in sequence: part k is (reader, start, stop) and selects rows of file k (stop None: the end)."""

    parts: tuple[tuple[Reader, int, int | None], ...]

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read and concatenate the parts. Groups are renumbered, so that no group spans two files.

        Grey parts are repeated in three channels if another part is in colour.
        """
        pieces = [
            _select(reader.read([path]), start, stop)
            for (reader, start, stop), path in zip(self.parts, paths, strict=True)
        ]
        first = 0
        groups, bad = [], {}
        shift = 0
        for piece in pieces:
            bad.update({row + first: reason for row, reason in piece.bad.items()})
            first += len(piece.images)
            numbers = np.arange(len(piece.images)) if piece.groups is None else piece.groups
            groups.append(numbers + shift)
            shift += int(numbers.max()) + 1
        labels = [piece.labels for piece in pieces if piece.labels is not None]
        channels = max(piece.images.shape[1] for piece in pieces)
        return Decoded(
            np.concatenate([in_channels(piece.images, channels) for piece in pieces]),
            np.concatenate(labels) if len(labels) == len(pieces) else None,
            np.concatenate(groups) if any(piece.groups is not None for piece in pieces) else None,
            bad,
            dict(sum((Counter(piece.modes) for piece in pieces), Counter())),
        )

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
        """The same pictures in sequence; None unless every part reads pictures."""
        parts = []
        for (reader, start, stop), path in zip(self.parts, paths, strict=True):
            files = Rows(reader, start, stop).pictures([path], root)
            if files is None:
                return None
            parts.append(files)
        return JoinedPictures(parts)


def _select(whole: Decoded, start: int, stop: int | None) -> Decoded:
    rows = slice(start, stop)
    selected = range(len(whole.images))[rows]
    if not selected:
        raise DataError(
            f"A file contains {len(whole.images):,} images; expected more than {start:,}. Download it again."
        )
    return Decoded(
        whole.images[rows],
        None if whole.labels is None else whole.labels[rows],
        None if whole.groups is None else whole.groups[rows],
        {row - selected.start: reason for row, reason in whole.bad.items() if row in selected},
        whole.modes,
    )
