"""`ListedDataset`, the base class of data sets whose members are listed in text files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from oodbench.benchmark.data.files.cache import DataCache, DecodedSplit, file_hash
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset, Opened
from oodbench.benchmark.data.files.file_source import Source
from oodbench.benchmark.data.lists.reader import ABSENT, ListReader
from oodbench.benchmark.data.pictures.source import stamp_of
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

NAMED = 5
"""Files that an error names."""


@dataclass(frozen=True)
class ListSource(Source):
    """Lists over images that lie elsewhere, or a folder of classes; its reader is a `ListReader`."""

    members: str = ""
    """`ImageList.digest` of the list as released; empty if no copy of it was seen."""

    def find(self, data_dir: Path) -> tuple[Path, ...] | None:
        """The list, if it and some of its images are there."""
        paths = super().find(data_dir)
        return paths if paths and self.list_reader.has_images(paths) else None

    @property
    def list_reader(self) -> ListReader:
        """The reader, by its type."""
        assert isinstance(self.reader, ListReader)
        return self.reader


class UnlessOfSize(Preprocessing):
    """A preprocessing that leaves pictures as they are if they have its size."""

    def __str__(self) -> str:
        """As in the identity of a set of images."""
        return f"{super().__str__()}, unless of this size"

    def apply(self, picture: Image) -> Image:
        """Resize and crop a picture of another size."""
        return picture if (picture.height, picture.width) == self.size else super().apply(picture)


class ListedDataset(FileDataset):
    """A data set whose splits are lists. A subclass declares `sources`, some of them `ListSource`."""

    membership: ClassVar[str] = ""
    """What its lists are, for a note under the tables: "OpenOOD v1.5's lists"."""
    as_they_are: ClassVar[bool] = False
    """Whether images that are stored at the size that networks get are not resized and cropped first."""

    def open(self, split: str, access: Access) -> Opened:
        """As every set of files, with images left as they are if they are to be."""
        how = access.view.preprocessing
        if how is not None and self.as_they_are:
            own = UnlessOfSize(how.resize, how.crop, how.interpolation)
            access = access._replace(view=replace(access.view, preprocessing=own))
        return super().open(split, access)

    def identity(
        self, source: Source, paths: Sequence[Path], cache: DataCache, streamed: bool = False
    ) -> Mapping[str, str]:
        """The lists and their hashes, and a hash of all files that they name, unless these have fingerprints."""
        if not isinstance(source, ListSource):
            return super().identity(source, paths, cache, streamed)
        content = source.list_reader.content(paths)
        if streamed:
            return {str(path): content.digest if path.is_dir() else cache.hash(path) for path in paths}
        name = f"files of {' '.join(str(path.absolute()) for path in paths)}"
        files = hash_of_files(cache, name, source.list_reader.folder(paths), content.names)
        return {str(path): files if path.is_dir() else cache.hash(path) for path in paths} | {"images": files}

    def absent(self, split: str, data_dir: Path) -> str:
        """Say which list, or which images of a list, a split needs."""
        for source in self.sources[split]:
            if isinstance(source, ListSource) and (paths := Source.find(source, data_dir)):
                reader = source.list_reader
                names = reader.content(paths).names
                return (
                    f"The {split} split of '{self.name}' is not in '{data_dir}': '{paths[0]}' is there, but none of "
                    f"its {len(names):,} images, such as '{reader.folder(paths) / names[0]}'. Put them there "
                    f"('bench show {self.name}' says where they come from)."
                )
        return super().absent(split, data_dir)

    def refusal(self, split: str, entry: DecodedSplit) -> str:
        """The error for a list with files that are absent or damaged, which are counted and of which some are named."""
        gone = [bad.removesuffix(f" {ABSENT}") for bad in entry.bad if bad.endswith(f" {ABSENT}")]
        if not gone:
            return super().refusal(split, entry)
        count = len(entry.images) + len(entry.bad)
        more = f" and {len(gone) - NAMED:,} more" if len(gone) > NAMED else ""
        named = ", ".join(f"'{name}'" for name in gone[:NAMED])
        return (
            f"The list of '{self.name}' ({split}) names {len(gone):,} of {count:,} files that are not there: "
            f"{named}{more}. Complete the images, or leave these out with --skip-bad-images."
        )

    def notes(self, split: str, source: Source, entry: DecodedSplit) -> list[str]:
        """The notes of every set of files, and what decides which images are members."""
        notes = super().notes(split, source, entry)
        if self.membership and isinstance(source, ListSource):
            notes.append(f"{self.membership} say which images are members; their SHA-256 are under 'data' in run.json.")
        if self.as_they_are and entry.images.lazy is not None:
            notes.append(f"{self.name}: images of the size that networks get are neither resized nor cropped.")
        return notes

    def difference(
        self, split: str, source: Source, paths: tuple[Path, ...], images: ImageSet, cache: DataCache
    ) -> str:
        """How a split differs from its card; empty if no difference is known."""
        if isinstance(source, ListSource) and source.members:
            digest = source.list_reader.content(paths).digest
            if digest != source.members:
                return (
                    f"its list '{paths[0].name}' is not the released one (members {digest[:12]}, expected "
                    f"{source.members[:12]})"
                )
        return super().difference(split, source, paths, images, cache)


def hash_of_files(cache: DataCache, name: str, folder: Path, names: Sequence[str]) -> str:
    """SHA-256 over the names and hashes of files of a folder, in the order given; it is stored under a name.

    A file that is not there counts as such, so that the hash changes once it is.
    """
    stamps, newest = [], 0.0
    for listed in names:
        try:
            stat = (folder / listed).stat()
        except OSError:
            stamps.append(f"{listed} -\n")
            continue
        stamps.append(f"{listed} {stamp_of(stat)}\n")
        newest = max(newest, stat.st_mtime, stat.st_ctime)
    stamp = hashlib.sha256("".join(stamps).encode(errors="surrogateescape")).hexdigest()

    def compute() -> str:
        digest = hashlib.sha256()
        for listed in names:
            path = folder / listed
            content = file_hash(path) if path.is_file() else "-"
            digest.update(f"{listed} {content}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    return cache.stamped(name, stamp, newest, compute)
