"""Declares the files that a split is read from: accepted names, URLs, checksums and the reader.

`own_files` and `idx_pair` are sources that many data sets share: CLASS/IMAGE trees and Parquet files, and IDX pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.decode import Reader
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.parquet import Parquet
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.errors import DataError

PACKED = (".zip", ".tar", ".tar.gz", "")
"""Suffixes of a tree of images; '' is the folder itself."""


@dataclass(frozen=True)
class File:
    """One file of a source: the names that it may have in the data folder, and where it can be downloaded."""

    names: tuple[str, ...]
    """Exact paths within the data folder, in order of preference; a download is stored under the first."""
    urls: tuple[str, ...] = ()
    """Mirrors, in order of preference. They require a checksum, because every download is verified."""
    size: int = 0
    """Size in bytes; 0 if unknown."""
    md5: str = ""
    sha256: str = ""
    one_only: bool = False
    """Whether files under several of the names are an error, because it would be unclear which one counts."""

    def __post_init__(self) -> None:
        if self.urls and not (self.md5 or self.sha256):
            raise ValueError(f"{self.names[0]} has a URL and no checksum")

    def find(self, data_dir: Path) -> Path | None:
        """The file's path; None if it is absent. Raises `DataError` for several paths if `one_only`."""
        found = [data_dir / name for name in self.names if (data_dir / name).exists()]
        if self.one_only and len(found) > 1:
            paths = " and ".join(f"'{path}'" for path in found)
            raise DataError(f"The same images exist as {paths}. Remove all but one, so that it is clear which counts.")
        return found[0] if found else None

    def is_published(self, path: Path, cache: DataCache) -> bool | None:
        """Whether a file is the published one, bit for bit; None if that cannot be checked.

        The checksum is that of the download. A file under another accepted name is packed differently and has none.
        """
        if not (self.md5 or self.sha256) or path.name != Path(self.names[0]).name:
            return None
        if self.sha256:
            return cache.hash(path) == self.sha256
        return cache.hash(path, "md5") == self.md5


def tree_file(stem: str, **known: str) -> File:
    """A tree of images as STEM.zip, STEM.tar, STEM.tar.gz or the folder STEM; exactly one of them may exist."""
    return File(tuple(stem + suffix for suffix in PACKED), one_only=True, **known)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Source:
    """One set of files from which a split can be read."""

    files: tuple[File, ...]
    reader: Reader
    checksum: str = ""
    """`ImageSet.checksum` of the files' content; empty if it was not measured."""
    note: str = ""
    """A note printed under every table, for files that are not the set as published."""

    def find(self, data_dir: Path) -> tuple[Path, ...] | None:
        """The paths of its files; None unless all of them exist."""
        paths = tuple(path for file in self.files if (path := file.find(data_dir)) is not None)
        return paths if len(paths) == len(self.files) else None

    def __str__(self) -> str:
        return " with ".join(file.names[0] for file in self.files)


RAW = {"train": "train", "test": "t10k"}
"""Split -> its name in MNIST's file names."""


def own_files(name: str, classes: tuple[str, ...], fit: Fit = AS_STORED, checksum: str = "") -> tuple[Source, ...]:
    """A user's own copy: NAME.zip (or .tar, .tar.gz, or a folder) of CLASS/IMAGE, or NAME.parquet.

    `checksum` is `ImageSet.checksum` of the tree's content.
    """
    return (
        Source((tree_file(name),), ImageTree(classes, fit), checksum),
        Source((File((f"{name}.parquet",)),), Parquet(classes, fit)),
    )


def idx_pair(
    prefix: str,
    split: str,
    reader: Idx,
    folder: str = "",
    mirrors: tuple[str, ...] = (),
    md5: tuple[str, str] = ("", ""),
    checksum: str = "",
) -> Source:
    """PREFIX-{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz, gzipped or not, or in torchvision's FOLDER/raw.

    `mirrors` are URL prefixes, to which the file names without PREFIX are appended. `md5` is of images and labels.
    """
    files = []
    for what, known in zip(("images-idx3", "labels-idx1"), md5, strict=True):
        raw = f"{RAW[split]}-{what}-ubyte"
        places = [f"{prefix}-{raw}", *([f"{folder}/raw/{raw}"] if folder else [])]
        names = tuple(place + suffix for place in places for suffix in (".gz", ""))
        files.append(File(names, tuple(f"{mirror}{raw}.gz" for mirror in mirrors) if known else (), md5=known))
    return Source(tuple(files), reader, checksum)
