"""Names of the images of a split that was decoded at one size: the cache of decoded images does not store them.

They are listed again from the files when they are asked for, without decoding, and without the images that could not be
used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from oodbench.benchmark.data.files.cache import DecodedSplit
from oodbench.benchmark.data.files.decode import Reader
from oodbench.benchmark.data.files.native.open_split import pictures_of
from oodbench.benchmark.errors import OodbenchError


@runtime_checkable
class NamedReader(Protocol):
    """A reader of images that are files of their own, in a folder, an archive or a list."""

    def names(self, paths: Sequence[Path]) -> Sequence[str]:
        """The name of every image, in the order of `Reader.read`. Raises as `read` does."""
        ...


def finder_of_names(
    reader: Reader, paths: Sequence[Path], root: Path | None, entry: DecodedSplit
) -> Callable[[], Sequence[str] | None]:
    """A function that finds the names of a decoded split's images; it returns None if they have none.

    `root`: the folder of cached data, None for none.
    """

    def find() -> Sequence[str] | None:
        try:
            every = _every_name(reader, paths, root)
        except (OodbenchError, OSError):  # the files are gone, and the decoded images are not
            return None
        unused = {left.name for left in entry.left_out} | {name for bad in entry.bad for name in _beginnings(bad)}
        names = [name for name in every or () if name not in unused]
        return names if len(names) == len(entry.images) else None

    return find


def _every_name(reader: Reader, paths: Sequence[Path], root: Path | None) -> Sequence[str] | None:
    if isinstance(reader, NamedReader):
        return reader.names(paths)
    files = pictures_of(reader, paths, root)
    return None if files is None else files.names


def _beginnings(text: str) -> set[str]:
    """What may be the name at the beginning of a text on an image that cannot be used: 'a b.png in c.zip is ...'."""
    words = text.split(" ")
    return {" ".join(words[:count]) for count in range(1, len(words))}
