"""Forms: fixed changes of every image, which make an OOD set of any set, or a shifted ID set of an ID set."""

from __future__ import annotations

import numpy as np

from oodbench.benchmark import Form, form


@form("permuted", title="Pixel positions shuffled, the same way in every image")
class Permuted(Form):
    """One fixed permutation of the positions; a pixel's channels stay together."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Shuffle positions: each image keeps its values and loses its shapes."""
        count, channels, height, width = images.shape
        # RandomState and not default_rng: NumPy promises that its streams never change.
        order = np.random.RandomState(0).permutation(height * width)
        return images.reshape(count, channels, -1)[:, :, order].reshape(images.shape)


@form("blurred", title="Mean of each pixel and its eight neighbours")
class Blurred(Form):
    """A box blur of 3 x 3, borders repeated: mild enough that people still name the class."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Average in integers, rounded half up."""
        height, width = images.shape[2:]
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge").astype(np.uint16)
        total = np.zeros(images.shape, np.uint16)
        for i, j in np.ndindex(3, 3):
            total += padded[:, :, i : i + height, j : j + width]
        return ((2 * total + 9) // 18).astype(np.uint8)


@form("faded", title="Half the contrast, around middle grey")
class Faded(Form):
    """Every value v becomes 64 + v / 2."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Halve: order and shapes stay."""
        return images // 2 + 64


@form("inverted", title="Inverted brightness")
class Inverted(Form):
    """Black becomes white: every value v becomes 255 - v."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Invert: the shapes stay."""
        return 255 - images
