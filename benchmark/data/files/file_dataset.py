"""Data sets that are files: which files, by exact names, where they come from, and which reader takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.decode import Decoded
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.staging import StagedFiles


class Access(NamedTuple):
    """How a data set reaches its files."""

    data_dir: Path
    cache: DataCache
    skip_bad: bool = False
    """Whether images that cannot be used are left out, and counted, instead of the set being refused."""
    staged: StagedFiles | None = None
    """Where files come from that are not in the data folder, if a store is shared."""


class Opened(NamedTuple):
    """A split as it was found."""

    images: ImageSet
    notes: tuple[str, ...]
    """What a reader of the numbers should know."""
    files: Mapping[str, str]
    """Path -> SHA-256 of what it was read from."""


class FileDataset(Dataset):
    """A data set that is files in the data folder. A subclass is its card: it declares `sources` and writes no code."""

    sources: ClassVar[Mapping[str, tuple[Source, ...]]] = {}
    """For each split, the ways in which it may be at hand, in order of preference."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Images in each split, as published."""

    def missing(self, data_dir: Path) -> str | None:
        """Say which file to put where for the first split that is not at hand."""
        return next((self.absent(split, data_dir) for split in self.splits if not self.source(split, data_dir)), None)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split, decoded anew; `open` remembers."""
        return self.open(split, Access(data_dir, DataCache(None))).images

    def source(self, split: str, data_dir: Path) -> tuple[Source, tuple[Path, ...]] | None:
        """The first source of a split whose files are all there, and where they are."""
        for source in self.sources[split]:
            if paths := source.find(data_dir):
                return source, paths
        return None

    def available_files(self, split: str, data_dir: Path) -> tuple[Path, ...]:
        """The files that a split would be read from; none where it is absent."""
        found = self.source(split, data_dir)
        return found[1] if found else ()

    def absent(self, split: str, data_dir: Path) -> str:
        """Say what is missing and how to get it."""
        accepted = [" with ".join(_describe(file) for file in source.files) for source in self.sources[split]]
        fetch = any(all(file.urls for file in source.files) for source in self.sources[split])
        how = (
            f"'bench data fetch {self.name}' downloads it" if fetch else f"'bench show {self.name}' says how to get it"
        )
        return (
            f"The {split} split of '{self.name}' is not in '{data_dir}'. Put one of these there: {'; '.join(accepted)} "
            f"({how})."
        )

    def open(self, split: str, access: Access) -> Opened:
        """Return one split from the cache or, decoded, from its files."""
        found = self.source(split, access.data_dir)
        if found is None and access.staged is not None and access.staged.fetch(self.sources[split]):
            found = self.source(split, access.data_dir)
        if found is None:
            raise DataError(self.absent(split, access.data_dir))
        source, paths = found
        hashes = {str(path): access.cache.hash(path) for path in paths}
        label = f"{self.name}-{split}"
        entry = access.cache.find(label, hashes, source.reader, self.classes, lambda: self._read(split, source, paths))
        if entry.bad and not access.skip_bad:
            others = f", and {len(entry.bad) - 1} more" if len(entry.bad) > 1 else ""
            raise DataError(
                f"'{self.name}' ({split}) is refused: {entry.bad[0]}{others}. Mend the file, or leave such images out "
                "with --skip-bad-images."
            )
        notes = self._notes(split, source, entry.images, entry.bad)
        if difference := self._difference(split, source, paths, entry.images, access.cache):
            notes.append(
                f"{self.name} ({split}) is not what its card describes: {difference}; it compares with no others."
            )
        return Opened(entry.images, tuple(notes), hashes)

    def _read(self, split: str, source: Source, paths: tuple[Path, ...]) -> Decoded:
        try:
            return source.reader.read(paths)
        except OodbenchError:
            raise
        except (
            Exception
        ) as error:  # a file of the wrong kind, or one that may not be read, makes readers raise anything
            told = " and ".join(f"'{path}'" for path in paths)
            raise DataError(
                f"The {split} split of '{self.name}' cannot be read from {told}: {type(error).__name__}: "
                f"{first_line(error)}. Get it again, or mend its permissions."
            ) from error

    def _notes(self, split: str, source: Source, images: ImageSet, bad: tuple[str, ...]) -> list[str]:
        notes = [source.note] if source.note else []
        if bad:
            notes.append(
                f"{self.name} ({split}): {len(bad)} of {len(images) + len(bad):,} images could not be used and were "
                f"left out: {'; '.join(bad[:3])}{'; ...' if len(bad) > 3 else ''}."
            )
        return notes

    def _difference(
        self, split: str, source: Source, paths: tuple[Path, ...], images: ImageSet, cache: DataCache
    ) -> str:
        """How a split differs from what its card promises; empty if it does not, as far as can be told."""
        if source.checksum:
            same = images.checksum == source.checksum
            return "" if same else f"content {images.checksum[:12]} in place of {source.checksum[:12]}"
        if len(images) != self.sizes.get(split, len(images)):
            return f"{len(images):,} images in place of {self.sizes[split]:,}"
        for file, path in zip(source.files, paths, strict=True):
            if file.is_published(path, cache) is False:
                return f"'{path.name}' is not the published file"
        return ""


def _describe(file: File) -> str:
    return file.names[0] + (f" (or {', '.join(n or 'its folder' for n in file.names[1:])})" if file.names[1:] else "")
