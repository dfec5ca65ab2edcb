"""`Dataset` and `Form`, the base classes of data sets and transforms, and `ImageSet`, the images of one split."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.pictures import Images, LazyImages, Pixels

GREY, COLOUR = 1, 3
"""Numbers of channels of grey images, and of colour images: red, green and blue."""


class Dataset(Plugin):
    """A data set and its card.

    Only `load` must be defined. Splits must not share images, and a split must be the same each time it is loaded.
    The class attributes are the card, which `bench show` prints. For sets that are files on disk, subclass
    `FileDataset` (`oodbench.benchmark.data.files`) instead.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    """Names of the splits. A set that serves only as OOD set needs only "test"."""
    classes: ClassVar[tuple[str, ...]] = ()
    """Class names in the order of the labels; empty for a set without labels."""
    channels: ClassVar[int | None] = None
    """Channels of its images: 1 for a grey set, 3 for a colour set; None if the images decide, as in a user's folder. A
    network gets the channels of its ID set. A grey set is stored in one channel, never repeated in three: a network or
    GAN of three channels would learn that the three are always equal, and tell other images by their colour alone."""
    licence: ClassVar[str] = ""
    """The licence of the images."""
    native: ClassVar[bool] = False
    """Whether it consists of pictures of their own sizes, such as photographs, so that the network decides how they are
    resized (`Backbone.preprocessing`). False for sets of one size, which networks are built for."""
    origin: ClassVar[str] = ""
    """Where the images come from and how to get them."""
    caveats: ClassVar[str] = ""
    """Known defects, and differences from the published version of the set."""
    family: ClassVar[str] = ""
    """Name of the distribution, if several sets sample the same one; the set's own name by default. Sets of one family
    with classes in common are never OOD for each other."""
    kin: ClassVar[str] = ""
    """Name of a wider family of related sets, such as all noise or all crops of the same photographs; `family` by
    default. Settings for a set are never tuned on a set of the same kin."""
    checksums: ClassVar[Mapping[str, str]] = {}
    """Expected SHA-256 of each split (`ImageSet.checksum`); leave out splits whose content is not pinned."""

    def missing(self, data_dir: Path) -> str | None:
        """Say which file to put where if the data is not available.

        Args:
            data_dir: The folder given as `--data-dir`.

        Returns:
            One or more sentences; None, the default, if the data is available.
        """
        return None

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Load one split.

        Args:
            split: One of `splits`.
            data_dir: The folder given as `--data-dir`, which holds the files of sets that need some.

        Returns:
            The images, with labels if the set has classes.
        """
        raise NotImplementedError


class Form(Plugin):
    """A fixed corruption or transform of every image of a set, written NAME+FORM, such as "digits+inverted".

    The images keep their channels.
    """

    channels: ClassVar[int | None] = None
    """Channels that images must have, such as 3 for a form that changes colours; None, the default, for any number."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Transform images.

        Args:
            images: uint8 (N, C, H, W); must not be changed in place.

        Returns:
            New images, uint8, of the same shape. Each must depend on its own image only.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split with their labels, in memory or decoded when they are read.

    Raises `DataError` on construction if an array has the wrong type or shape, if there are no images, or if a label is
    outside the classes.
    """

    images: np.ndarray
    """uint8 (N, C, H, W), N at least 1; C is 1 for grey images. Of pictures of any size, `LazyImages` in place of an
    array, whose rows are decoded when they are read: whatever may meet such a set reads `images[rows]`, in blocks."""
    labels: np.ndarray | None = None
    """Integers (N,) from 0 to K - 1; None for a set without classes."""
    classes: tuple[str, ...] = ()
    """Names of the K classes."""
    groups: np.ndarray | None = None
    """Integers (N,): images with the same number depend on each other, as crops of one photograph do. A group is never
    split between halves, and counts as one independent unit in confidence intervals. None: every image is its own."""
    find_names: Callable[[], Sequence[str] | None] | None = None
    """Finds the names of the N images when `names` is read; None, or a function that returns it, if they have none."""

    def __post_init__(self) -> None:
        """Check types, shapes and the range of the labels."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {self.images.shape}")
        if len(self.images) == 0:
            raise DataError("an image set must hold at least one image, got none")
        for field in ("labels", "groups"):
            array = getattr(self, field)
            if array is not None and (array.shape != (len(self),) or not np.issubdtype(array.dtype, np.integer)):
                raise DataError(f"{field} must be {len(self)} integers, got {array.dtype} {array.shape}")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels must lie in 0..{len(self.classes) - 1} for {len(self.classes)} classes, "
                f"got {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over shape, pixels, labels and class names; independent of the machine's byte order.

        Of images that are decoded when they are read: over their fingerprints, thumbnails and view in place of pixels.
        Of images without pixels: over their names, if they have some (`LazyImages.identity`).
        """
        if (lazy := self.lazy) is not None and (identity := lazy.identity()):
            return hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        if lazy is not None:
            digest.update(lazy.view.encode())
            digest.update(lazy.content().encode())
        else:
            digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()

    @property
    def lazy(self) -> LazyImages | None:
        """The images, if they are decoded when they are read; None if they are an array."""
        images: Images = self.images
        return images if isinstance(images, LazyImages) else None

    @property
    def has_pixels(self) -> bool:
        """Whether there are pixels to look at: False if only a network's outputs, or scores, are given."""
        return True if (lazy := self.lazy) is None else lazy.has_pixels

    @property
    def small(self) -> Pixels:
        """What is compared across sets, and what pixel statistics are of: the images, or thumbnails of lazy ones."""
        return self.images if (lazy := self.lazy) is None else lazy.thumbnails

    @property
    def names(self) -> list[str] | None:
        """The name of every image in its set, such as its file's; None for images without names."""
        if self.find_names is not None and (found := self.find_names()) is not None:
            return list(found)
        return None if (lazy := self.lazy) is None or not lazy.has_names else lazy.names

    @cached_property
    def groups_checksum(self) -> str:
        """SHA-256 of the groups, which `checksum` leaves out because no score depends on them; empty without groups."""
        if self.groups is None:
            return ""
        return hashlib.sha256(np.ascontiguousarray(self.groups, dtype="<i8").data).hexdigest()

    def with_checksum(self, checksum: str) -> ImageSet:
        """Return the same images with a known checksum, which is then not computed."""
        copy = dataclasses.replace(self)
        copy.__dict__["checksum"] = checksum
        return copy

    @classmethod
    def read_lazily(
        cls,
        images: LazyImages,
        labels: np.ndarray | None = None,
        classes: tuple[str, ...] = (),
        groups: np.ndarray | None = None,
        find_names: Callable[[], Sequence[str] | None] | None = None,
    ) -> ImageSet:
        """A set of images that are decoded when they are read."""
        return cls(cast(np.ndarray, images), labels, classes, groups, find_names)

    def take(self, index: np.ndarray) -> ImageSet:
        """Return the images at `index` (row numbers or a Boolean mask), with their labels and groups."""
        labels, groups = (None if array is None else array[index] for array in (self.labels, self.groups))
        if (lazy := self.lazy) is not None:
            return ImageSet.read_lazily(lazy.select(index), labels, self.classes, groups, self._names_at(index))
        names = self._names_at(index)
        return dataclasses.replace(self, images=self.images[index], labels=labels, groups=groups, find_names=names)

    def _names_at(self, index: np.ndarray) -> Callable[[], Sequence[str] | None] | None:
        if (find := self.find_names) is None:
            return None
        count = len(self)

        def names() -> Sequence[str] | None:
            return None if (found := find()) is None else [found[row] for row in np.arange(count)[index]]

        return names

    def with_names(self, find: Callable[[], Sequence[str] | None] | None) -> ImageSet:
        """Return the same images with names; `find` is called when they are read."""
        copy = dataclasses.replace(self, find_names=find)
        copy.__dict__.update({name: self.__dict__[name] for name in ("checksum",) if name in self.__dict__})
        return copy
