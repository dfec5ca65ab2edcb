"""Finds the images in files, folders and archives, one after the other, to be read when they are scored."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.data.files.archives import TAR, open_tree
from oodbench.benchmark.data.files.listing import OWN_SUFFIXES
from oodbench.benchmark.data.pictures.source import ABSENT, BadImageError, DamagedImageError, read_file
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.store.safe_read import is_file, is_folder
from oodbench.benchmark.store.user_path import user_path


class StoredImage(NamedTuple):
    """An encoded image that has not been read."""

    name: str
    """The path; of a member of an archive, ARCHIVE/MEMBER."""
    read: Callable[[], bytes]
    """Returns its content. Raises `BadImageError` if it cannot be read."""


def images_in(places: Iterable[str | Path]) -> Iterator[StoredImage]:
    """The images at some places: files as they are, folders with all folders in them, zip and tar archives.

    In folders and archives, what has no image's file name, hidden files and those of the system are passed over. A
    place that does not exist, or cannot be opened, is one image that cannot be read.
    """
    for place in map(user_path, places):
        if is_folder(place) or _is_archive(place):
            try:
                yield from _members(place)
            except (OodbenchError, OSError) as error:
                reason = str(error).rstrip(".")
                yield StoredImage(str(place), partial(_fail, f"cannot be opened: {reason}"))
        elif is_file(place):
            yield StoredImage(str(place), partial(read_file, place))
        else:
            yield StoredImage(str(place), partial(_fail, ABSENT))


def _is_archive(place: Path) -> bool:
    name = place.name.lower()
    return is_file(place) and (name.endswith(TAR) or (name.endswith(".zip") and zipfile.is_zipfile(place)))


def _members(place: Path) -> Iterator[StoredImage]:
    tree = open_tree(place, own=True)
    for index, member in enumerate(tree.members):
        if member.name.lower().endswith(OWN_SUFFIXES):
            yield StoredImage(str(place / member.name), partial(_read_one, tree.read_one, index))


def _read_one(read: Callable[[int], bytes], index: int) -> bytes:
    try:
        return read(index)
    except OodbenchError as error:
        raise BadImageError(f"cannot be read: {str(error).rstrip('.')}") from error


def _fail(reason: str) -> bytes:
    raise DamagedImageError(reason)
