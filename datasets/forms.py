"""Forms: fixed transforms of every image, which turn any set into an OOD set, or an ID set into a shifted one."""

from __future__ import annotations

import numpy as np

from oodbench.benchmark import Form, form


@form("permuted", title="Pixel positions shuffled, the same way in every image", display_name="permuted")
class Permuted(Form):
    """One fixed permutation of the pixel positions; the channels of a pixel stay together."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Permute positions: each image keeps its pixel values and loses its shapes."""
        count, channels, height, width = images.shape
        # RandomState, not default_rng, because NumPy guarantees that its streams never change.
        order = np.random.RandomState(0).permutation(height * width)
        return images.reshape(count, channels, -1)[:, :, order].reshape(images.shape)


@form("blurred", title="Mean of each pixel and its eight neighbours", display_name="blurred")
class Blurred(Form):
    """A 3 x 3 box blur with repeated borders, mild enough that people still recognise the class."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Average in integer arithmetic, rounding half up."""
        height, width = images.shape[2:]
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge").astype(np.uint16)
        total = np.zeros(images.shape, np.uint16)
        for i, j in np.ndindex(3, 3):
            total += padded[:, :, i : i + height, j : j + width]
        return ((2 * total + 9) // 18).astype(np.uint8)


@form("faded", title="Half the contrast, around middle grey", display_name="faded")
class Faded(Form):
    """Every value v becomes 64 + v / 2."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Halve the contrast; the order of values and the shapes remain."""
        return images // 2 + 64


@form("inverted", title="Inverted brightness", display_name="inverted")
class Inverted(Form):
    """Black becomes white: every value v becomes 255 - v."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Invert the values; the shapes remain."""
        return 255 - images
