"""Pictures of any size: how they become a network's input, and sets of images that are decoded when they are read."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
"""Names of Pillow's filters."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, then take the centre. Mean and standard deviation are not here: networks normalise their own input.

    Bit for bit what torchvision's `Resize` and `CenterCrop` do to a Pillow image: with antialiasing, and in integers.
    """

    resize: int | tuple[int, int] | None = None
    """The shorter side in pixels, its longer one in proportion; or (height, width) of the whole picture, squeezed to
    it; None for pictures that are only cropped."""
    crop: tuple[int, int] | None = None
    """(height, width) of the centre that is taken; black is added around a smaller picture. None to keep all of a
    picture that is squeezed to a size."""
    interpolation: str = "bilinear"
    """One of `INTERPOLATIONS`."""

    def __post_init__(self) -> None:
        """Check that all pictures come out at one size."""
        if self.crop is None and not isinstance(self.resize, tuple):
            raise DataError(
                f"A resize of {self.resize} leaves pictures of different sizes. Give a crop, such as 224, or a resize "
                "of both sides, such as 224x224."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise DataError(f"Unknown interpolation '{self.interpolation}'. Choose {', '.join(INTERPOLATIONS)}.")
        sides = (*_sides(self.resize), *_sides(self.crop))
        if not all(isinstance(side, int) and 1 <= side <= MOST_PIXELS_A_SIDE for side in sides):
            raise DataError(f"Sides of pictures must be whole numbers from 1 to {MOST_PIXELS_A_SIDE:,}; got {self}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture that comes out."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    def __str__(self) -> str:
        """As in records and under tables, and what keys contain: 'shorter side 256 bilinear, centre 224x224'."""
        parts = []
        if isinstance(self.resize, tuple):
            parts.append(f"squeezed to {_by(self.resize)} {self.interpolation}")
        elif self.resize is not None:
            parts.append(f"shorter side {self.resize} {self.interpolation}")
        return ", ".join([*parts, *([f"centre {_by(self.crop)}"] if self.crop else [])])

    def apply(self, picture: Image) -> Image:
        """Resize and crop a picture in mode RGB or L; its mode stays. The size of the result is `size`."""
        from PIL.Image import Resampling

        width, height = picture.size
        if self.resize is not None:
            target = self.resize if isinstance(self.resize, tuple) else _shorter(self.resize, height, width)
            if target != (height, width):
                chosen = Resampling[self.interpolation.upper()]
                picture = picture.resize((target[1], target[0]), chosen)
        return picture if self.crop is None else _centre(picture, self.crop)


MOST_PIXELS_A_SIDE = 4096


def _shorter(side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width with the shorter one as given, the longer one rounded down, as in torchvision."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _centre(picture: Image, crop: tuple[int, int]) -> Image:
    """The centre of a picture, offsets rounded half to even, as in torchvision; black around a smaller picture."""
    height, width = crop
    if picture.width < width or picture.height < height:
        left, top = (width - picture.width) // 2 if width > picture.width else 0, 0
        top = (height - picture.height) // 2 if height > picture.height else 0
        right = (width - picture.width + 1) // 2 if width > picture.width else 0
        bottom = (height - picture.height + 1) // 2 if height > picture.height else 0
        # Beyond its edges, a crop of a Pillow image is black.
        picture = picture.crop((-left, -top, picture.width + right, picture.height + bottom))
    if picture.size == (width, height):
        return picture
    top, left = round((picture.height - height) / 2.0), round((picture.width - width) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def _sides(value: int | tuple[int, int] | None) -> tuple[int, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _by(size: tuple[int, int]) -> str:
    """Height and width as text: '224x224'."""
    return f"{size[0]}x{size[1]}"


Pixels: TypeAlias = NDArray[np.uint8]

HASHED = 4096
"""Thumbnails hashed at a time."""

Rows: TypeAlias = "slice | NDArray[Any]"
"""Rows of an array: a slice, row numbers, or a Boolean mask."""


class LazyImages(ABC):
    """Images uint8 (N, C, H, W) that are decoded when rows of them are read, so that they take no memory.

    In place of an array, an `ImageSet` may have one. `images[rows]` decodes these rows and returns an array;
    `images.select(rows)` decodes nothing. What compares images across sets, or measures their pixels, reads
    `thumbnails` and `fingerprints`, which come from an index of the set.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    has_pixels: ClassVar[bool] = True
    """Whether there are pixels; False for images of which only a network's outputs, or scores, are given."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """Number of images, channels, height and width, (N, C, H, W), as the network takes them."""

    @abstractmethod
    def __getitem__(self, rows: Rows) -> Pixels:
        """Decode some images, uint8 (n, C, H, W). Raises `DataError` if one has changed since it was indexed."""

    @abstractmethod
    def select(self, rows: Rows) -> LazyImages:
        """The images at `rows`, still not decoded."""

    @property
    @abstractmethod
    def thumbnails(self) -> Pixels:
        """Every image squeezed to a small square, uint8 (N, C, 32, 32), before any crop; C is 1 for a grey set."""

    @property
    @abstractmethod
    def fingerprints(self) -> NDArray[np.uint8]:
        """A hash of every stored image, uint8 (N, 32): SHA-256 of its file."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The name of every image in its set: its path in the folder, archive or list."""

    @property
    def has_names(self) -> bool:
        """Whether the images have names, as pictures in files do."""
        return True

    @property
    @abstractmethod
    def view(self) -> str:
        """What is done to a stored image, as text that determines it."""

    def ahead(self, batches: Iterable[NDArray[Any]], busy: int = 0) -> Iterator[Pixels]:
        """The images at each batch of row numbers, as `images[batch]`; a subclass may decode ahead.

        `busy`: processor cores that whoever reads the images keeps busy, such as the threads of a network.
        """
        return (self[batch] for batch in batches)

    def blocks(self, size: int, busy: int = 0) -> Iterator[Pixels]:
        """All images in order, in blocks of `size`, the last one with what is left."""
        starts = range(0, len(self), size)
        return self.ahead((np.arange(start, min(start + size, len(self))) for start in starts), busy)

    def content(self) -> str:
        """A hash of what is stored of all images, for `ImageSet.checksum`."""
        digest = hashlib.sha256(np.ascontiguousarray(self.fingerprints).data)
        thumbnails = self.thumbnails
        for start in range(0, len(thumbnails), HASHED):
            digest.update(np.ascontiguousarray(thumbnails[start : start + HASHED]).data)
        return digest.hexdigest()

    def identity(self) -> str:
        """What alone identifies the images for `ImageSet.checksum`; empty, the default, if their content does."""
        return ""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all images once they are decoded."""
        count, channels, height, width = self.shape
        return count * channels * height * width

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse to become an array silently, which would decode every image into memory."""
        raise TypeError("images at their own size are decoded block by block: read images[rows]")


Images: TypeAlias = "NDArray[Any] | LazyImages"


def chosen(images: Images, rows: Rows) -> Images:
    """Some images: a part of an array, or lazy images that are still not decoded."""
    return images.select(rows) if isinstance(images, LazyImages) else images[rows]


def in_blocks(images: Images, size: int, busy: int = 0) -> Generator[Pixels, None, None]:
    """All images in order as uint8 arrays of `size` images, the last one with what is left.

    Lazy images are decoded ahead, on other cores than the `busy` ones if there are enough. Close the iterator when it
    is not read to its end.
    """
    if isinstance(images, LazyImages):
        yield from images.blocks(size, busy)
    else:
        for start in range(0, len(images), size):
            yield images[start : start + size]
