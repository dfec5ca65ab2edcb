"""Reads a list of images: one `path label` a line, the path within a folder, the label a whole number or -1."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from oodbench.benchmark.data.files.decode import MAX_IMAGES, in_range
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.store.safe_read import read_bounded

MAX_LIST = 1 << 29
"""Bytes of a list; that of ImageNet's 1.28 million training images has 80 MB."""

UNLABELLED = -1
"""The label of an image of no ID class."""

MAX_LABEL_DIGITS = 7


class ImageList(NamedTuple):
    """The content of a list."""

    names: tuple[str, ...]
    """Paths of the images within the list's folder of images, in the list's order."""
    labels: np.ndarray
    """int64 (N,); -1 for images without a class."""

    @property
    def digest(self) -> str:
        """SHA-256 over names and labels, whatever ends the list's lines."""
        lines = (f"{name} {label}\n" for name, label in zip(self.names, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_list(path: Path, classes: int = 0) -> ImageList:
    """Read a list for a set with a number of classes; with 0 classes, its labels have no meaning.

    Raises `DataError`, which names the line, for a line that is not `path label`, a path that leads out of the folder,
    and, in a list with classes, for labels that are not one of theirs.
    """
    names, labels = [], []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, label = [*line.rsplit(None, 1), ""][:2]
        name = name.strip()
        if not is_label(label):
            raise DataError(
                f"Line {number} of the list '{path}' is {line.strip()[:80]!r}; expected a path and a whole number, the "
                f"label, such as 'cat/001.png 3', or {UNLABELLED} for an image of no class."
            )
        if leads_out(name):
            raise DataError(f"Line {number} of the list '{path}' has a path that leads out of its folder: '{name}'.")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise DataError(f"The list '{path}' names no images; expected lines such as 'cat/001.png 3'.")
    if len(names) > MAX_IMAGES:
        raise DataError(f"The list '{path}' names {len(names):,} images, but at most {MAX_IMAGES:,} are read.")
    numbers = np.array(labels, dtype=np.int64)
    if classes:
        in_range(numbers, classes, path)
    return ImageList(tuple(names), numbers)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without white space around them."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _text(path: Path) -> str:
    try:
        return read_bounded(path, MAX_LIST).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"The list '{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"The list '{path}' cannot be read: {error}.") from error


def is_label(text: str) -> bool:
    """Whether a text is a label: a whole number, or -1."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= MAX_LABEL_DIGITS


def leads_out(name: str) -> bool:
    """Whether a path could lead out of the folder that it is relative to."""
    if name[0] != "/" and not any(sign in name for sign in ("..", ":", "\\")):  # nearly all, of a million
        return False
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0]
