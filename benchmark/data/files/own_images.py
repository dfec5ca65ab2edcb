"""Reads a user's own images: more formats than data sets with a card, and what is not usable is left out and counted.

A damaged image remains an error unless such images may be skipped, because a truncated download or a failing disk looks
the same as one bad file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark.data.files.archives import TAR, open_tree
from oodbench.benchmark.data.files.decode import Decoded, decode_rows
from oodbench.benchmark.data.files.listing import LISTING_VERSION, OWN_SUFFIXES, Listing, by_reason, list_images
from oodbench.benchmark.data.files.native.remarks import counted, inspected
from oodbench.benchmark.data.files.native.shards import Shards, shards_in
from oodbench.benchmark.data.files.native.trees import TreePictures, seekable
from oodbench.benchmark.data.files.pixels import BadImageError, DamagedImageError, Fit, decode
from oodbench.benchmark.data.files.tree import LeftOut, Member, Tree
from oodbench.benchmark.data.pictures.source import PictureFiles, read_file, stamp_of_file
from oodbench.benchmark.data.pictures.stored import FORMATS, foreign_format
from oodbench.benchmark.errors import DataError


@dataclass(frozen=True)
class OwnImages:
    """One split of a folder, archive or single image of a user's own, as `list_images` finds it."""

    split: str
    fit: Fit
    version: int = LISTING_VERSION

    def listed(self, tree: Tree) -> Listing:
        """What is in the folder."""
        return list_images(tree)

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Decode the images of the split, sorted by path."""
        return self.decoded(paths)

    def decoded(self, paths: Sequence[Path], exif: bool = False) -> Decoded:
        """As `read`; with `exif`, the rotation that EXIF data state is applied."""
        tree = open_own(paths[0])
        listing = self.listed(tree)
        entries = listing.splits[self.split]
        found: dict[int, list[str]] = {}
        stored = inspected(_stored(tree, {entry.position: row for row, entry in enumerate(entries)}), found, exif)
        rows = decode_rows(stored, len(entries), lambda content: decode_own(content, self.fit, exif))
        labels = np.array([entry.label for entry in entries], dtype=np.int64) if listing.classes else None
        damaged, left_out = {}, {}
        for row, (name, error) in rows.bad.items():
            if isinstance(error, DamagedImageError):
                damaged[row] = f"{name} in {tree.path.name} {error}"
            else:
                left_out[row] = LeftOut(name, str(error).partition(";")[0])
        return Decoded(rows.images, labels, None, damaged, rows.modes, left_out, counted(found, rows.bad))

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles:
        """The pictures of the split, sorted by path, for reading them at their own size."""
        tree = open_own(seekable(paths[0], root))
        listing = self.listed(tree)
        entries = listing.splits[self.split]
        labels = np.array([entry.label for entry in entries], dtype=np.int64) if listing.classes else None
        return TreePictures(tree, [entry.position for entry in entries], labels, place=paths[0])


def decode_own(content: bytes, fit: Fit, exif: bool = False) -> tuple[np.ndarray, str]:
    """As `decode`, with more formats. Raises `DamagedImageError` for a damaged image, `BadImageError` for others."""
    if not content:
        raise DamagedImageError("is empty")
    try:
        return decode(content, fit, FORMATS, one_of_several=True, exif=exif)
    except DamagedImageError:
        if kind := foreign_format(content):
            raise BadImageError(f"is {kind}, which is not read") from None
        raise


def open_own(path: Path) -> Tree:
    """Open a folder (also one of tar shards), zip, tar or single image.

    Raises `DataError` for another file, and as `open_tree` does.
    """
    if path.is_file() and path.name.lower().endswith(OWN_SUFFIXES):
        return SingleImage(path)
    if path.is_dir() or path.name.lower().endswith((*TAR, ".zip")) or zipfile.is_zipfile(path):
        tree = open_tree(path, own=True)
        shards = shards_in(tree) if path.is_dir() else []
        return Shards(path, shards) if shards else tree
    raise DataError(f"'{path}' is not a folder, zip, tar or image. Unpack it, or pack it as a zip.")


class SingleImage:
    """An image file as a folder with one image."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = [Member(path.name, path.stat().st_size)]
        self.left_out: list[LeftOut] = []
        self.linked: Mapping[str, str] = {}

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (0, content) if it is wanted."""
        for index in wanted:
            try:
                yield index, self.path.read_bytes()
            except OSError as error:
                raise DataError(f"'{self.path}' cannot be read: {error.strerror}.") from error

    def read_one(self, index: int) -> bytes:
        """The content of the file."""
        return read_file(self.path)

    def stamp(self, index: int) -> str:
        """Inode, size and times of the file."""
        return stamp_of_file(self.path)


def notes_on(name: str, listing: Listing) -> tuple[str, ...]:
    """The notes on what was listed: remarks, and how many files were left out and why."""
    notes = [f"{name}: {remark}." for remark in listing.remarks]
    if left_out := listing.left_out:
        notes.append(f"{name}: {len(left_out):,} of {listing.files:,} files skipped: {by_reason(left_out)}.")
    return tuple(notes)


def _stored(tree: Tree, row_of: Mapping[int, int]) -> Iterator[tuple[int, str, bytes]]:
    return ((row_of[index], tree.members[index].name, content) for index, content in tree.read(row_of))
