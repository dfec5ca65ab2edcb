"""Lists which files of a data set are available, whether they are the published ones, and which to download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.errors import DataError

PUBLISHED, SAME, OTHER, UNKNOWN = "published", "same", "other", "unknown"
"""Statuses of a file that exists."""

ABSENT, BROKEN = "absent", "broken"
"""Statuses of a file that is missing or cannot be read."""

DESCRIPTIONS = {
    PUBLISHED: "the file that the card describes",
    SAME: "packed differently; the images are those that the card describes",
    OTHER: "not the file that the card describes",
    UNKNOWN: "the card gives no checksum for this file",
}


class Finding(NamedTuple):
    """The status of one file of one split, or of a split that is absent or broken."""

    set: str
    split: str
    status: str
    path: Path | None = None
    size: int = 0
    sha256: str = ""
    reason: str = ""
    """Why the split is absent or broken; empty otherwise."""


def findings(card: FileDataset, data_dir: Path, cache: DataCache) -> Iterator[Finding]:
    """Check every file of every split. Files other than the published one are compared by content where possible."""
    for split in card.splits:
        try:
            found = card.source(split, data_dir)
            if found is None:
                yield Finding(card.name, split, ABSENT, reason=card.absent(split, data_dir))
                continue
            source, paths = found
            statuses = [_status(file, path, cache) for file, path in zip(source.files, paths, strict=True)]
            if source.checksum and set(statuses) != {PUBLISHED}:
                content = card.open(split, Access(data_dir, cache, skip_bad=True)).images.checksum
                statuses = [s if s == PUBLISHED else SAME if content == source.checksum else OTHER for s in statuses]
            for status, path in zip(statuses, paths, strict=True):
                yield Finding(card.name, split, status, path, _size(path), cache.hash(path))
        except DataError as error:
            yield Finding(card.name, split, BROKEN, reason=str(error))


def _status(file: File, path: Path, cache: DataCache) -> str:
    same = file.is_published(path, cache)
    return UNKNOWN if same is None else PUBLISHED if same else OTHER


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def to_fetch(card: FileDataset, data_dir: Path) -> list[File]:
    """The files to download to make every split available. Raises `DataError` for a split without URLs."""
    files: list[File] = []
    for split in card.splits:
        if card.source(split, data_dir):
            continue
        source = next((s for s in card.sources[split] if _downloadable(s)), None)
        if source is None:
            raise DataError(card.absent(split, data_dir))
        files += [file for file in source.files if file not in files and file.find(data_dir) is None]
    return files


def _downloadable(source: Source) -> bool:
    return all(file.urls for file in source.files)
