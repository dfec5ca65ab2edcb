"""Reads a user's own images: more formats than data sets with a card, and what is not usable is left out and counted.

A damaged image remains an error unless such images may be skipped, because a truncated download or a failing disk looks
the same as one bad file.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from oodbench.benchmark.data.files.archives import TAR, open_tree
from oodbench.benchmark.data.files.decode import Decoded, decode_rows
from oodbench.benchmark.data.files.listing import LISTING_VERSION, OWN_SUFFIXES, Listing, by_reason, list_images
from oodbench.benchmark.data.files.native.shards import Shards, shards_in
from oodbench.benchmark.data.files.native.trees import TreePictures, seekable
from oodbench.benchmark.data.files.pixels import FORMATS, BadImageError, DamagedImageError, Fit, decode
from oodbench.benchmark.data.files.tree import LeftOut, Member, Tree
from oodbench.benchmark.data.pictures.source import PictureFiles, read_file, stamp_of_file
from oodbench.benchmark.data.pictures.stored import foreign_format
from oodbench.benchmark.errors import DataError

OWN_FORMATS = (*FORMATS, "TIFF", "GIF")
"""Pillow's names of the formats that are read."""

ORIENTATION = 0x0112
"""The EXIF tag of an image's rotation; 1 is none."""

ROTATED = "an EXIF rotation is not applied, as in torchvision, timm and OpenOOD"

TWO_PICTURES = "of several pictures in one JPEG (MPO, as phones store them) the first is used"


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
        tree = open_own(paths[0])
        listing = self.listed(tree)
        entries = listing.splits[self.split]
        found: dict[int, str] = {}
        stored = _inspected(_stored(tree, {entry.position: row for row, entry in enumerate(entries)}), found)
        rows = decode_rows(stored, len(entries), lambda content: decode_own(content, self.fit))
        labels = np.array([entry.label for entry in entries], dtype=np.int64) if listing.classes else None
        damaged, left_out = {}, {}
        for row, (name, error) in rows.bad.items():
            if isinstance(error, DamagedImageError):
                damaged[row] = f"{name} in {tree.path.name} {error}"
            else:
                left_out[row] = LeftOut(name, str(error).partition(";")[0])
        remarks = Counter(remark for row, remark in found.items() if row not in rows.bad)
        return Decoded(rows.images, labels, None, damaged, rows.modes, left_out, remarks)

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles:
        """The pictures of the split, sorted by path, for reading them at their own size."""
        tree = open_own(seekable(paths[0], root))
        listing = self.listed(tree)
        entries = listing.splits[self.split]
        labels = np.array([entry.label for entry in entries], dtype=np.int64) if listing.classes else None
        return TreePictures(tree, [entry.position for entry in entries], labels, place=paths[0])


def decode_own(content: bytes, fit: Fit) -> tuple[np.ndarray, str]:
    """As `decode`, with more formats. Raises `DamagedImageError` for a damaged image, `BadImageError` for others."""
    if not content:
        raise DamagedImageError("is empty")
    try:
        return decode(content, fit, OWN_FORMATS, one_of_several=True)
    except DamagedImageError:
        if kind := foreign_format(content):
            raise BadImageError(f"is {kind}, which is not read") from None
        raise


def remark_on(content: bytes) -> str:
    """What to note of an image that is used; empty if there is nothing. Only the header is read."""
    try:
        with Image.open(io.BytesIO(content), formats=OWN_FORMATS) as image:
            if "exif" in image.info and image.getexif().get(ORIENTATION, 1) in range(2, 9):
                return ROTATED
            return TWO_PICTURES if image.format == "MPO" else ""
    except Exception:  # a damaged image or damaged EXIF data; decoding decides whether the image can be used
        return ""


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


def _inspected(stored: Iterator[tuple[int, str, bytes]], found: dict[int, str]) -> Iterator[tuple[int, str, bytes]]:
    """The same images; `found` receives row -> remark on the way."""
    for row, name, content in stored:
        if remark := remark_on(content):
            found[row] = remark
        yield row, name, content
