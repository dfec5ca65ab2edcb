"""Reads the images of a list at 32 x 32, for networks of that size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from oodbench.benchmark.data.files.cache import stamp_of
from oodbench.benchmark.data.files.decode import MAX_IMAGE, Decoded, decode_all
from oodbench.benchmark.data.files.pixels import Fit
from oodbench.benchmark.data.lists.parse import ImageList, read_list

SHORTER = Fit(how="shorter")
"""How OpenOOD prepares images for networks of 32 x 32 pixels."""

ABSENT = "is not there"

SAMPLED = 100
"""Names of a list that are looked for to see whether its images are available."""


@dataclass(frozen=True)
class ListReader:
    """The images that a list names, in its order."""

    root: str
    """The folder that the paths in the list start from, relative to the list's own folder: '../../images_classic'."""
    classes: int = 0
    """Number of classes; 0 for a set without, whose labels in the list have no meaning."""
    fit: Fit = SHORTER

    def folder(self, path: Path) -> Path:
        """The folder that the paths in a list start from."""
        return Path(os.path.normpath(path.parent / self.root))

    def content(self, path: Path) -> ImageList:
        """The names and labels in a list. Raises `DataError` for a list of another format, or with other labels."""
        return _content(path, stamp_of(path.stat()), self.classes)

    def has_images(self, path: Path) -> bool:
        """Whether any of some evenly spaced images of a list is there."""
        names = self.content(path).names
        folder = self.folder(path)
        return any((folder / name).is_file() for name in names[:: max(1, len(names) // SAMPLED)])

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Decode the images of a list, which is the only path; files that are not there are bad images."""
        listed = self.content(paths[0])
        folder = self.folder(paths[0])
        bad: dict[int, str] = {}

        def stored() -> Iterator[tuple[int, str, bytes]]:
            for row, name in enumerate(listed.names):
                content = _read(folder / name)
                if isinstance(content, bytes):
                    yield row, name, content
                else:
                    bad[row] = f"{name} {content}"

        images, undecodable, modes = decode_all(stored(), len(listed.names), self.fit)
        labels = listed.labels if self.classes else None
        return Decoded(images, labels, None, {**bad, **undecodable}, modes)


@lru_cache(maxsize=8)
def _content(path: Path, stamp: str, classes: int) -> ImageList:
    """A list's content, kept until the file changes: ImageNet's training list takes a second to read."""
    return read_list(path, classes)


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
