"""`Dataset`, `Form` and `ImageSet`: what a data set author subclasses and returns."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.base import Plugin

if TYPE_CHECKING:
    pass


class Dataset(Plugin):
    """A data set and its card. `load` returns one split; splits share no image and never change."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[str] = ""
    origin: ClassVar[str] = ""
    """Where the images come from and how to get them."""
    caveats: ClassVar[str] = ""
    """What is known to be wrong with them or different from the canonical form."""
    family: ClassVar[str] = ""
    """The distribution, where several sets sample the same one; the set's own name by default."""
    kin: ClassVar[str] = ""
    """A wider family, where sets differ from one another in processing or law only, such as all noise: no set's cell is
    tuned on its kin. The family by default."""
    checksums: ClassVar[Mapping[str, str]] = {}
    """SHA-256 of each split's content (`ImageSet.checksum`), where it is fixed."""

    def missing(self, data_dir: Path) -> str | None:
        """Say which file to put where if the data is absent; None if it is at hand."""
        return None

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one of `splits`; `data_dir` holds the files of sets that are not embedded."""
        raise NotImplementedError


class Form(Plugin):
    """A fixed change of every image of a set, written NAME+FORM: an inverted, permuted or corrupted set."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Return changed copies, uint8 (N, C, H, W) -> the same shape."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split, at rest: uint8 (N, C, H, W), labels (N,) where the set has classes.

    `groups` (N,) marks images that depend on each other, such as crops of one photograph: they are never cut apart.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what no network could use, naming it."""
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
        """SHA-256 over shape, pixels, labels and class names; independent of the machine's byte order."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()

    def with_checksum(self, checksum: str) -> ImageSet:
        """The same images, whose checksum is known and need not be computed again."""
        known = dataclasses.replace(self)
        known.__dict__["checksum"] = checksum
        return known

    def take(self, index: np.ndarray) -> ImageSet:
        """Return the images at `index`, with their labels and groups."""
        return dataclasses.replace(
            self,
            images=self.images[index],
            labels=None if self.labels is None else self.labels[index],
            groups=None if self.groups is None else self.groups[index],
        )
