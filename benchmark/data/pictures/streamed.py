"""`StreamedImages`: the pictures of a set, decoded and brought to the networks' size when they are read."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodbench.benchmark.data.pictures.ahead import DecodedAhead
from oodbench.benchmark.data.pictures.index_files import CRC, SIZE, PictureIndex
from oodbench.benchmark.data.pictures.pixel_cache import GIGABYTE, PixelCache
from oodbench.benchmark.data.pictures.source import PictureFiles
from oodbench.benchmark.data.pictures.stored import THUMBNAIL, BadImageError, picture
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.pictures import HASHED, Pixels, Preprocessing, Rows


class StreamedImages(DecodedAhead):
    """Pictures in files, folders and archives, of which an index is known."""

    def __init__(
        self,
        files: PictureFiles,
        index: PictureIndex,
        preprocessing: Preprocessing,
        exif: bool = False,
        rows: NDArray[np.int64] | None = None,
        gigabytes: float = 0.0,
        wider: Sequence[tuple[PixelCache, NDArray[np.int64]]] = (),
    ) -> None:
        """Describe images; none is decoded.

        Args:
            files: The pictures.
            index: Of all of them.
            preprocessing: How they are brought to one size.
            exif: Whether they are rotated as their EXIF data state.
            rows: The number of each image among the files; by default those that can be used.
            gigabytes: Gigabytes (10^9 bytes) of pixels up to which they may stay decoded on the disk.
            wider: Decoded pixels of sets that these images were selected from, with their places there.
        """
        self.files, self.index, self.preprocessing, self.exif = files, index, preprocessing, exif
        self.rows = index.usable if rows is None else rows
        self._grey, self._gigabytes = index.grey, gigabytes
        self._own: PixelCache | None = None
        if index.stem is not None and self.nbytes <= gigabytes * GIGABYTE:
            _, channels, height, width = self.shape
            self._own = PixelCache(index.stem, self.view, self.rows, (height, width, channels))
        own = [] if self._own is None else [(self._own, np.arange(len(self.rows)))]
        self._decoded = [*own, *wider]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W); C is 1 if every picture of the split is stored in grey."""
        return len(self.rows), 1 if self._grey else 3, *self.preprocessing.size

    def ahead(self, batches: Iterable[NDArray[Any]], busy: int = 0) -> Iterator[Pixels]:
        """As in `DecodedAhead`, or read from pixels that are decoded already."""
        for pixels, places in self._decoded:
            if pixels.is_stored():
                return (pixels.read(places[batch]).transpose(0, 3, 1, 2) for batch in batches)
        return super().ahead(batches, busy)

    def blocks(self, size: int, busy: int = 0) -> Iterator[Pixels]:
        """All images in order; if they are passed for the second time, they are stored decoded."""
        blocks = super().blocks(size, busy)
        if self._own is None or any(pixels.is_stored() for pixels, _ in self._decoded):
            return blocks
        passed = self._own.passed(block.transpose(0, 2, 3, 1) for block in blocks)
        return _channels_first(passed)

    def decode(self, row: int) -> NDArray[np.uint8]:
        """One image, (H, W, C) or (H, W). Raises `DataError` if it has changed since it was indexed."""
        number = int(self.rows[row])
        facts = self.index.facts[number]
        try:
            content = self.files.read(number)
            if len(content) != facts[SIZE] or zlib.crc32(content) != facts[CRC]:
                raise BadImageError("has changed while it was in use")
            return np.asarray(self.preprocessing.apply(picture(content, self._grey, self.exif)))
        except BadImageError as error:
            raise DataError(
                f"'{self.files.names[number]}' in '{self.files.place}' {error}. Leave the images as they are, and "
                "run it again."
            ) from error

    def select(self, rows: Rows) -> StreamedImages:
        """The images at `rows`, still not decoded."""
        wider = [(pixels, places[rows]) for pixels, places in self._decoded]
        chosen = self.rows[rows]
        return StreamedImages(self.files, self.index, self.preprocessing, self.exif, chosen, self._gigabytes, wider)

    @property
    def thumbnails(self) -> Pixels:
        """Every picture squeezed to 32 x 32, uint8 (N, C, 32, 32)."""
        is_whole = len(self.rows) == self.index.count and np.array_equal(self.rows, np.arange(len(self.rows)))
        found = self.index.array("thumbnails", None if is_whole else self.rows)
        return found[:, :1] if self._grey else found

    def content(self) -> str:
        """As in `LazyImages`, without all thumbnails in memory at once."""
        digest = hashlib.sha256(np.ascontiguousarray(self.fingerprints).data)
        for start in range(0, len(self.rows), HASHED):
            found = self.index.array("thumbnails", self.rows[start : start + HASHED])
            digest.update(np.ascontiguousarray(found[:, :1] if self._grey else found).data)
        return digest.hexdigest()

    @property
    def fingerprints(self) -> NDArray[np.uint8]:
        """SHA-256 of every stored picture, uint8 (N, 32)."""
        return self.index.array("fingerprints", self.rows)

    @property
    def names(self) -> list[str]:
        """The path of every picture in its folder, archive or list."""
        return [self.files.names[row] for row in self.rows]

    @property
    def view(self) -> str:
        """What is done to a stored picture."""
        return f"{self.preprocessing}{', rotated as EXIF data state' if self.exif else ''}"


class ArrayImages(DecodedAhead):
    """Images of one size that are in memory, brought to the networks' size when they are read."""

    def __init__(self, images: Pixels, preprocessing: Preprocessing, rows: NDArray[np.int64] | None = None) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.rows = np.arange(len(images)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return len(self.rows), self.images.shape[1], *self.preprocessing.size

    def decode(self, row: int) -> NDArray[np.uint8]:
        """One image, (H, W, C) or (H, W)."""
        return np.asarray(self.preprocessing.apply(_as_picture(self.images[self.rows[row]])))

    def select(self, rows: Rows) -> ArrayImages:
        """The images at `rows`."""
        return ArrayImages(self.images, self.preprocessing, self.rows[rows])

    @cached_property
    def thumbnails(self) -> Pixels:
        """Every image squeezed to 32 x 32; the images themselves if that is their size."""
        chosen = self.images if self._is_whole else self.images[self.rows]
        if chosen.shape[2:] == (THUMBNAIL, THUMBNAIL):
            return chosen
        small = np.empty((*chosen.shape[:2], THUMBNAIL, THUMBNAIL), np.uint8)
        for place, image in enumerate(chosen):
            squeezed = _as_picture(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
            pixels = np.asarray(squeezed)
            small[place] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return small

    @property
    def _is_whole(self) -> bool:
        return len(self.rows) == len(self.images) and np.array_equal(self.rows, np.arange(len(self.rows)))

    @cached_property
    def fingerprints(self) -> NDArray[np.uint8]:
        """SHA-256 of every image's pixels and shape, uint8 (N, 32)."""
        start = hashlib.sha256(repr(self.images.shape[1:]).encode())
        hashes = bytearray()
        for row in self.rows:
            digest = start.copy()
            digest.update(np.ascontiguousarray(self.images[row]).data)
            hashes += digest.digest()
        return np.frombuffer(bytes(hashes), np.uint8).reshape(-1, 32)

    @property
    def names(self) -> list[str]:
        """Images in memory have no names of their own: their numbers."""
        return [f"image {row}" for row in self.rows]

    @property
    def view(self) -> str:
        """What is done to an image."""
        return str(self.preprocessing)


def _as_picture(image: Pixels) -> Image.Image:
    """An image (C, H, W) as a picture in mode RGB or L. Raises `DataError` for other numbers of channels."""
    if len(image) == 1:
        return Image.fromarray(np.ascontiguousarray(image[0]))
    if len(image) == 3:
        return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    raise DataError(f"Images of {len(image)} channels cannot be resized; expected 1 or 3.")


def _channels_first(blocks: Generator[Pixels, None, None]) -> Iterator[Pixels]:
    """Blocks (n, H, W, C) as (n, C, H, W). Closes `blocks` when it ends, not when the garbage collector does."""
    with closing(blocks):
        for block in blocks:
            yield block.transpose(0, 3, 1, 2)
