"""The files that a split may be read from: accepted names, URLs, checksums and the reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.decode import Reader
from oodbench.benchmark.errors import DataError

if TYPE_CHECKING:
    pass


PACKED = (".zip", ".tar", ".tar.gz", "")
"""How a tree of images may be packed; '' is the folder itself."""


@dataclass(frozen=True)
class File:
    """One file of a source: the names that it may have in the data folder, and where it comes from."""

    names: tuple[str, ...]
    """Exact paths within the data folder, in order of preference; a download gets the first."""
    urls: tuple[str, ...] = ()
    """Mirrors, in order. None without a checksum: what cannot be checked is not downloaded."""
    size: int = 0
    """In bytes, where known."""
    md5: str = ""
    sha256: str = ""
    one_only: bool = False
    """Whether two of the names at once are an error, because nobody could tell which of them counts."""

    def __post_init__(self) -> None:
        if self.urls and not (self.md5 or self.sha256):
            raise ValueError(f"{self.names[0]} has a URL and no checksum")

    def find(self, data_dir: Path) -> Path | None:
        """Where it is; None if nowhere."""
        found = [data_dir / name for name in self.names if (data_dir / name).exists()]
        if self.one_only and len(found) > 1:
            told = " and ".join(f"'{path}'" for path in found)
            raise DataError(
                f"The same images are there as {told}. Remove all but one, so that it is clear which counts."
            )
        return found[0] if found else None

    def is_published(self, path: Path, cache: DataCache) -> bool | None:
        """Whether a file is the published one, bit for bit; None where its checksum is not known.

        What lies there under another name than a download gets is another packing.
        """
        if not (self.md5 or self.sha256) or path.name != Path(self.names[0]).name:
            return None
        if self.sha256:
            return cache.hash(path) == self.sha256
        return cache.hash(path, "md5") == self.md5


def tree_file(stem: str, **known: str) -> File:
    """STEM.zip, .tar, .tar.gz or the folder STEM: one of them."""
    return File(tuple(stem + suffix for suffix in PACKED), one_only=True, **known)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Source:
    """One way in which a split may be at hand."""

    files: tuple[File, ...]
    reader: Reader
    checksum: str = ""
    """`ImageSet.checksum` of what the files hold, where it was measured."""
    note: str = ""
    """What is said under every table, where these files are not the set as published."""

    def find(self, data_dir: Path) -> tuple[Path, ...] | None:
        """Where its files are; None unless all are there."""
        found = [file.find(data_dir) for file in self.files]
        whole = tuple(path for path in found if path is not None)
        return whole if len(whole) == len(found) else None

    def __str__(self) -> str:
        return " with ".join(file.names[0] for file in self.files)
