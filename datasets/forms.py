"""Forms: fixed changes that make an OOD set of any set and keep its pixel statistics, or mirror them."""

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


@form("inverted", title="Inverted brightness")
class Inverted(Form):
    """Black becomes white: every value v becomes 255 - v."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Invert: the shapes stay."""
        return 255 - images
