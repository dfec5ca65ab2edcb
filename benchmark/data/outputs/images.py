"""`GivenImages`: images of which a network's outputs, or scores, are given, and no pixels."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.pictures import LazyImages, Pixels, Rows


class GivenImages(LazyImages):
    """Some images of a given set: their place in its arrays, and their names. Reading a pixel is an error.

    Names alone identify images with names, so that several networks and methods are compared on the same images; others
    are identified by the set's name, their number and their labels. Arrays never are part of it.
    """

    has_pixels = False

    def __init__(self, name: str, split: str, arrays: GivenArrays, rows: NDArray[np.intp] | None = None) -> None:
        """Describe images.

        Args:
            name: The user's name of the set, for messages.
            split: The split of the set in whose arrays they are: "train", "val" or "test".
            arrays: These arrays; of several networks, those of the first.
            rows: Row numbers of the images in the arrays; None for all.
        """
        self.name, self.split, self.arrays, self.rows = name, split, arrays, rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The number of images, in the place of one pixel each, which there is not."""
        return (self.arrays.count if self.rows is None else len(self.rows)), 1, 1, 1

    def select(self, rows: Rows) -> GivenImages:
        """Some of the images."""
        known = np.arange(self.arrays.count) if self.rows is None else self.rows
        return GivenImages(self.name, self.split, self.arrays, known[rows])

    @property
    def has_names(self) -> bool:
        """Whether the arrays come with names."""
        return self.arrays.names is not None

    @property
    def names(self) -> list[str]:
        """The names of the images; none if the arrays have none."""
        names = self.arrays.names or ()
        if not names:
            return []
        return list(names) if self.rows is None else [names[row] for row in self.rows.tolist()]

    @property
    def view(self) -> str:
        """Nothing is done to images that are not there."""
        return ""

    def identity(self) -> str:
        """The names of the images, as one text; empty without names."""
        return "\n".join(["named images", *self.names]) if self.has_names else ""

    def content(self) -> str:
        """What stands for the content of images without names: the set's name, the split and the row numbers."""
        rows = "all" if self.rows is None else " ".join(map(str, self.rows.tolist()))
        return f"{self.name} {self.split} {self.arrays.count} {rows}"

    def __getitem__(self, rows: Rows) -> Pixels:
        """Refuse, as there are no pixels."""
        self._no_pixels()

    @property
    def thumbnails(self) -> Pixels:
        """Refuse, as there are no pixels."""
        self._no_pixels()

    @property
    def fingerprints(self) -> NDArray[np.uint8]:
        """Refuse, as there are no pixels."""
        self._no_pixels()

    def _no_pixels(self) -> NoReturn:
        raise DataError(
            f"'{self.name}' has arrays and no images: what reads pixels cannot use it. Give the images themselves, as "
            "folder:PATH, for that."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse, as there are no pixels."""
        self._no_pixels()
