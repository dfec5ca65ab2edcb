"""Opens a split so that its pictures are decoded when they are read, in place of decoding it at 32 x 32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from oodbench.benchmark.data.files.cache import DecodedSplit
from oodbench.benchmark.data.files.decode import Reader
from oodbench.benchmark.data.files.listing import by_reason
from oodbench.benchmark.data.files.tree import LeftOut
from oodbench.benchmark.data.pictures.index import index_of
from oodbench.benchmark.data.pictures.index_files import ROTATED, SEVERAL, TRANSPARENT, PictureIndex
from oodbench.benchmark.data.pictures.source import ABSENT, PictureFiles
from oodbench.benchmark.data.pictures.streamed import ArrayImages, StreamedImages
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages

NOT_ROTATED = "an EXIF rotation is not applied, as in torchvision, timm and OpenOOD"

IS_ROTATED = "the EXIF rotation is applied"

ONE_OF_SEVERAL = "of several pictures in one JPEG (MPO, as phones store them) the first is used"

NO_ALPHA = "transparent pixels are taken as opaque, as by Pillow's convert('RGB')"


@runtime_checkable
class PictureReader(Protocol):
    """A reader of files that hold pictures, which can be read one at a time."""

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
        """The pictures of the split; None if the reader makes something else of the files than pictures as stored.

        `root`: the folder of cached data, None for none. Raises as `Reader.read` does.
        """
        ...


def pictures_of(reader: Reader, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
    """The pictures that a reader reads; None if it can only read arrays of one size."""
    return reader.pictures(paths, root) if isinstance(reader, PictureReader) else None


def streamed_split(
    label: str,
    files: PictureFiles,
    classes: tuple[str, ...],
    view: PictureView,
    root: Path | None,
    hash_again: bool = False,
) -> DecodedSplit:
    """A split of pictures, indexed, without those that cannot be used. Raises `DataError` if none is left."""
    assert view.preprocessing is not None
    if not len(files.names):
        raise DataError(f"'{files.place}' contains no images for '{label}'.")
    index = index_of(label, files, root, view.exif, again=hash_again)
    bad = tuple(
        f"{wrong.name} {wrong.reason}"
        if wrong.reason == ABSENT
        else f"{wrong.name} in {files.place.name} {wrong.reason}"
        for wrong in index.wrong
        if wrong.damaged
    )
    left_out = tuple(LeftOut(w.name, w.reason.partition(";")[0]) for w in index.wrong if not w.damaged)
    rows = index.usable
    if not len(rows):
        why = f" The first: {bad[0]}." if bad else ""
        why += f" Not used: {by_reason(left_out)}." if left_out else ""
        raise DataError(f"None of the {index.count:,} images of '{label}' can be used.{why}")
    images = StreamedImages(files, index, view.preprocessing, view.exif, gigabytes=view.pixel_cache)
    labels, groups = (None if array is None else array[rows] for array in (files.labels, files.groups))
    chosen = ImageSet.read_lazily(images, labels, classes, groups)
    return DecodedSplit(chosen, bad, index.modes, left_out, _remarks(index, view.exif))


def hashes_of(images: LazyImages) -> dict[str, str]:
    """The SHA-256 of the stored pictures, as hexadecimal digits, by their names."""
    return {name: row.tobytes().hex() for name, row in zip(images.names, images.fingerprints, strict=True)}


def wrapped(images: ImageSet, view: PictureView) -> ImageSet:
    """A set of images in memory, brought to the networks' size when they are read."""
    if view.preprocessing is None or images.lazy is not None:
        return images
    lazy = ArrayImages(images.images, view.preprocessing)
    return ImageSet.read_lazily(lazy, images.labels, images.classes, images.groups, images.find_names)


def _remarks(index: PictureIndex, exif: bool) -> Mapping[str, int]:
    counts = {
        IS_ROTATED if exif else NOT_ROTATED: index.flagged(ROTATED),
        ONE_OF_SEVERAL: index.flagged(SEVERAL),
        NO_ALPHA: index.flagged(TRANSPARENT),
    }
    return {remark: count for remark, count in counts.items() if count}
