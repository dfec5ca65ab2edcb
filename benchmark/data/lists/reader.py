"""Reads the images of a list at 32 x 32, for networks of that size."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from oodbench.benchmark.data.files.decode import MAX_IMAGE, Decoded, decode_rows
from oodbench.benchmark.data.files.native.remarks import counted, inspected
from oodbench.benchmark.data.files.pixels import SUFFIXES, Fit, decode
from oodbench.benchmark.data.lists.parse import ImageList, read_lines, read_list
from oodbench.benchmark.data.pictures.source import ListedFiles, PictureFiles, stamp_of
from oodbench.benchmark.errors import DataError

SHORTER = Fit(how="shorter")
"""How OpenOOD prepares images for networks of 32 x 32 pixels."""

ABSENT = "is not there"

WORDNET_ID = re.compile(r"n\d{8}")

SAMPLED = 100
"""Names of a list that are looked for to see whether its images are available."""


@dataclass(frozen=True)
class ListReader:
    """The images that a list names, in its order; of several lists, one after the other."""

    root: str
    """The folder that the paths in the list start from, relative to the list's own folder: '../../images_classic'."""
    classes: int = 0
    """Number of classes; 0 for a set without, whose labels in the list have no meaning."""
    fit: Fit = SHORTER

    def folder(self, paths: Sequence[Path]) -> Path:
        """The folder that the names in `content` start from."""
        return Path(os.path.normpath(paths[0].parent / self.root))

    def content(self, paths: Sequence[Path]) -> ImageList:
        """The names and labels of the images. Raises `DataError` for another format, or for other labels."""
        return _content(self, tuple(paths), tuple(stamp_of(path.stat()) for path in paths))

    def listed(self, paths: Sequence[Path]) -> ImageList:
        """As `content`, read from the files each time. Several lists are one after the other."""
        lists = [read_list(path, self.classes) for path in paths]
        names = tuple(name for one in lists for name in one.names)
        return ImageList(names, np.concatenate([one.labels for one in lists]))

    def has_images(self, paths: Sequence[Path]) -> bool:
        """Whether any of some evenly spaced images is there."""
        names = self.content(paths).names
        folder = self.folder(paths)
        return any((folder / name).is_file() for name in names[:: max(1, len(names) // SAMPLED)])

    def names(self, paths: Sequence[Path]) -> Sequence[str]:
        """The names in the list."""
        return self.content(paths).names

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles:
        """The files, for reading them at their own size."""
        listed = self.content(paths)
        return ListedFiles(self.folder(paths), listed.names, listed.labels if self.classes else None)

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Decode the images; files that are not there are bad images."""
        return self.decoded(paths)

    def decoded(self, paths: Sequence[Path], exif: bool = False) -> Decoded:
        """As `read`; with `exif`, the rotation that EXIF data state is applied."""
        listed = self.content(paths)
        folder = self.folder(paths)
        bad: dict[int, str] = {}

        def stored() -> Iterator[tuple[int, str, bytes]]:
            for row, name in enumerate(listed.names):
                content = _read(folder / name)
                if isinstance(content, bytes):
                    yield row, name, content
                else:
                    bad[row] = f"{name} {content}"

        found: dict[int, list[str]] = {}
        with_remarks = inspected(stored(), found, exif)
        rows = decode_rows(with_remarks, len(listed.names), lambda content: decode(content, self.fit, exif=exif))
        bad |= {row: f"{name} {error}" for row, (name, error) in rows.bad.items()}
        labels = listed.labels if self.classes else None
        return Decoded(rows.images, labels, None, bad, rows.modes, remarks=counted(found, bad))


@dataclass(frozen=True)
class SynsetList(ListReader):
    """ImageNet's validation images in one folder, with a file that has the WordNet id of each in a line of its own.

    Image k is ILSVRC2012_val_%08d.JPEG, numbered from 1. The label of an id is its place in alphabetical order.
    """

    def listed(self, paths: Sequence[Path]) -> ImageList:
        """The names in the order of the lines."""
        lines = read_lines(paths[0])
        ids = sorted(set(lines))
        wrong = next((line for line in lines if not WORDNET_ID.fullmatch(line)), None)
        if wrong is not None:
            raise DataError(
                f"'{paths[0]}' has the line {wrong[:40]!r}; expected a WordNet id such as n01440764 a line."
            )
        if len(ids) != self.classes:
            raise DataError(f"'{paths[0]}' has {len(ids):,} different WordNet ids, expected {self.classes:,}.")
        names = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(lines) + 1))
        label = {name: number for number, name in enumerate(ids)}
        return ImageList(names, np.array([label[line] for line in lines], dtype=np.int64))


@dataclass(frozen=True)
class ClassFolders(ListReader):
    """A folder of class folders, all of them there: labels are their places in alphabetical order of the names.

    ImageNet's folders are named by WordNet ids, whose alphabetical order is that of the labels.
    """

    root: str = ""

    def folder(self, paths: Sequence[Path]) -> Path:
        """The folder itself."""
        return paths[0]

    def content(self, paths: Sequence[Path]) -> ImageList:
        """The images in the order of their paths, read again when a file comes or goes."""
        folders = [paths[0], *(entry for entry in paths[0].iterdir() if entry.is_dir())]
        return _content(self, tuple(paths), tuple(stamp_of(folder.stat()) for folder in folders))

    def listed(self, paths: Sequence[Path]) -> ImageList:
        """The images in the order of their paths."""
        folders = sorted(entry.name for entry in paths[0].iterdir() if entry.is_dir() and entry.name[0] != ".")
        if len(folders) != self.classes:
            raise DataError(f"'{paths[0]}' has {len(folders):,} class folders, expected {self.classes:,}.")
        found = [
            (f"{folder}/{file}", label)
            for label, folder in enumerate(folders)
            for file in sorted(entry.name for entry in (paths[0] / folder).iterdir())
            if file.lower().endswith(SUFFIXES) and file[0] != "."
        ]
        if not found:
            raise DataError(f"'{paths[0]}' has no images in its {len(folders):,} class folders.")
        return ImageList(tuple(name for name, _ in found), np.array([label for _, label in found], dtype=np.int64))


@lru_cache(maxsize=32)
def _content(reader: ListReader, paths: tuple[Path, ...], stamps: tuple[str, ...]) -> ImageList:
    """The content of lists, kept until a file changes: ImageNet's training list takes a second to read."""
    return reader.listed(paths)


def _read(path: Path) -> bytes | str:
    """The content of an image file, or why it is not read, as the end of a sentence."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is not a regular file"
        if size > MAX_IMAGE:
            return f"has {size:,} bytes, more than {MAX_IMAGE:,}"
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
