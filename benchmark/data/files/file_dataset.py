"""`FileDataset`, the base class of data sets that are read from files in the data folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from oodbench.benchmark.data.channels import count_of
from oodbench.benchmark.data.files.cache import DataCache, DecodedSplit
from oodbench.benchmark.data.files.decode import Decoded, Reader
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.data.files.listing import by_reason
from oodbench.benchmark.data.files.native.names import finder_of_names
from oodbench.benchmark.data.files.native.open_split import hashes_of, pictures_of, streamed_split, wrapped
from oodbench.benchmark.data.files.native.remarks import TOO_LARGE, split_off_size, upright
from oodbench.benchmark.data.pictures.view import DEFAULT_VIEW, PictureView
from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.staging import StagedFiles


class Access(NamedTuple):
    """How a data set reaches its files."""

    data_dir: Path
    cache: DataCache
    skip_bad: bool = False
    """Whether images that cannot be used are left out and counted; if False, they make the set an error."""
    staged: StagedFiles | None = None
    """Fetches files that are absent from the data folder from a shared store; None if no store is shared."""
    view: PictureView = DEFAULT_VIEW
    """How the run's networks get pictures of their own sizes."""


class Opened(NamedTuple):
    """A split read from files."""

    images: ImageSet
    notes: tuple[str, ...]
    """Remarks for the notes under the tables."""
    files: Mapping[str, str]
    """The files it was read from: path -> SHA-256."""


class FileDataset(Dataset):
    """A data set that is read from files in the data folder. A subclass declares `sources` and needs no code."""

    sources: ClassVar[Mapping[str, tuple[Source, ...]]] = {}
    """For each split, the sources that it may be read from, in order of preference."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Splits that the set can do without, such as "val", which otherwise is carved out of the training split."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Number of images in each split, as published."""

    def missing(self, data_dir: Path) -> str | None:
        """Say which file to put where for the first required split that is absent; None if all are available."""
        required = (split for split in self.splits if split not in self.optional)
        return next((self.absent(split, data_dir) for split in required if not self.source(split, data_dir)), None)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split without the cache, which `open` uses."""
        return self.open(split, Access(data_dir, DataCache(None))).images

    def source(self, split: str, data_dir: Path) -> tuple[Source, tuple[Path, ...]] | None:
        """The first source of a split whose files all exist, and their paths."""
        for source in self.sources[split]:
            if paths := source.find(data_dir):
                return source, paths
        return None

    def available_files(self, split: str, data_dir: Path) -> tuple[Path, ...]:
        """The files that a split would be read from; empty if it is absent."""
        found = self.source(split, data_dir)
        return found[1] if found else ()

    def absent(self, split: str, data_dir: Path) -> str:
        """Say which files a split needs and how to get them."""
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
        """Return one split, from the cache or decoded from its files.

        Raises `DataError` if the files are absent or cannot be read, or if images cannot be used and `skip_bad` is off.
        """
        found = self.source(split, access.data_dir)
        if found is None and access.staged is not None and access.staged.fetch(self.sources[split]):
            found = self.source(split, access.data_dir)
        if found is None:
            raise DataError(self.absent(split, access.data_dir))
        source, paths = found
        label = f"{self.name}-{split}"
        entry = self._streamed(split, source, paths, access)
        hashes = self.identity(source, paths, access.cache, streamed=entry is not None)
        if entry is None:
            read = lambda: self._read(split, self.reader(source, access.view), paths)  # noqa: E731
            entry = access.cache.find(label, hashes, self.reader(source, access.view), self.classes, read)
        if entry.bad and not access.skip_bad:
            raise DataError(self.refusal(split, entry))
        notes = self.notes(split, source, entry)
        if difference := self.difference(split, source, paths, entry.images, access.cache):
            notes.append(
                f"{self.name} ({split}) is not what its card describes: {difference}; it compares with no others."
            )
        images = entry.images
        if images.lazy is None:
            images = images.with_names(finder_of_names(source.reader, paths, access.cache.root, entry))
        return Opened(wrapped(images, access.view), tuple(notes), {str(path): hashes[str(path)] for path in paths})

    def identity(
        self, source: Source, paths: Sequence[Path], cache: DataCache, streamed: bool = False
    ) -> Mapping[str, str]:
        """What a split is read from: the path of every file of its source -> SHA-256.

        If it is `streamed`, each of its pictures has a fingerprint as well.
        """
        return {str(path): cache.hash(path) for path in paths}

    def reader(self, source: Source, view: PictureView) -> Reader:
        """What reads a source as images of 32 x 32; pictures at their own size are rotated where they are read."""
        return upright(source.reader) if view.exif else source.reader

    def _read(self, split: str, reader: Reader, paths: tuple[Path, ...]) -> Decoded:
        with self._readable(split, paths):
            return reader.read(paths)

    def _streamed(self, split: str, source: Source, paths: tuple[Path, ...], access: Access) -> DecodedSplit | None:
        """The split as pictures at their own size, if the run's networks get these and its files hold them."""
        if access.view.preprocessing is None:
            return None
        with self._readable(split, paths):
            files = pictures_of(source.reader, paths, access.cache.root)
        if files is None:
            return None
        label, cache = f"{self.name}-{split}", access.cache
        streamed = streamed_split(label, files, self.classes, access.view, cache.root, cache.hash_again)
        if (
            files.place in paths
            and files.place.is_dir()
            and not access.cache.hash_again
            and (lazy := streamed.images.lazy) is not None
        ):
            access.cache.just_read[files.place] = lambda: hashes_of(lazy)
        return streamed

    @contextmanager
    def _readable(self, split: str, paths: tuple[Path, ...]) -> Iterator[None]:
        """Turn whatever readers raise for a wrong or inaccessible file into a `DataError`."""
        try:
            yield
        except OodbenchError:
            raise
        except Exception as error:
            names = " and ".join(f"'{path}'" for path in paths)
            raise DataError(
                f"The {split} split of '{self.name}' cannot be read from {names}: {type(error).__name__}: "
                f"{first_line(error)}. Download it again, or check its permissions."
            ) from error

    def refusal(self, split: str, entry: DecodedSplit) -> str:
        """The error for a split with bad images."""
        more = f", and {len(entry.bad) - 1} more" if len(entry.bad) > 1 else ""
        return (
            f"'{self.name}' ({split}) has images that cannot be used: {entry.bad[0]}{more}. Repair the file, or leave "
            "such images out with --skip-bad-images."
        )

    def lacks(self, split: str) -> str:
        """Say that the set has no such split."""
        return f"Data set '{self.name}' has no {split} split, only {', '.join(self.splits)}."

    def listed(self) -> tuple[str, ...]:
        """What is known of the files from their names, for `bench data list`."""
        return ()

    def notes(self, split: str, source: Source, entry: DecodedSplit) -> list[str]:
        """Remarks on a split, printed under the tables."""
        notes = [source.note] if source.note else []
        if bad := entry.bad:
            notes.append(
                f"{self.name} ({split}): {len(bad)} of {len(entry.images) + len(bad):,} images could not be used and "
                f"were left out: {'; '.join(bad[:3])}{'; ...' if len(bad) > 3 else ''}."
            )
        of = f"of {len(entry.images) + len(entry.bad) + len(entry.left_out):,} images"
        if entry.left_out:
            notes.append(f"{self.name} ({split}): {len(entry.left_out):,} {of} skipped: {by_reason(entry.left_out)}.")
        remarks, too_large = split_off_size(entry.remarks, len(entry.images))
        notes += [f"{self.name} ({split}): {remark}: {n:,} {of}." for remark, n in sorted(remarks.items())]
        notes += [TOO_LARGE.format(self.name)] if too_large and self.native else []
        return notes

    def difference(
        self, split: str, source: Source, paths: tuple[Path, ...], images: ImageSet, cache: DataCache
    ) -> str:
        """How a split differs from its card; empty if no difference is known."""
        if self.channels is not None and images.image_shape[0] != self.channels:
            return f"images of {count_of(images.image_shape[0])} in place of {self.channels}"
        if source.checksum and images.lazy is None:  # measured on images of 32 x 32
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
