"""What is drawn at random of a set's images: single images, or whole groups of those that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Units:
    """The independent units of one set's N images."""

    images: int
    group: NDArray[np.intp] | None = None
    """(N,): each image's group, 0 to G - 1; None where every image is a unit of its own."""

    @classmethod
    def of(cls, images: int, groups: ArrayLike | None = None) -> Units:
        """From the number of images, and (N,) integers that mark those that belong together, if they are known."""
        if groups is None:
            return cls(images)
        distinct, group = np.unique(np.asarray(groups), return_inverse=True)
        return cls(images, group.reshape(-1)) if len(distinct) < images else cls(images)

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.images if self.group is None else int(self.group.max()) + 1

    def root(self, values: Floats) -> Floats:
        """(count, D) from what each image adds to D means, (N, D): `root.T @ root` is the means' covariance.

        There must be two units or more.
        With groups the deviations are summed by group: the mean's variance is G / (G - 1) times the sum of the sums'
        squares over N^2 (Obuchowski, Biometrics 53 (1997), 567-578), as in `scatter`.
        """
        centred = values - values.mean(axis=0)
        if self.group is None:
            own: Floats = centred / np.sqrt(self.images * (self.images - 1))
            return own
        sums = np.zeros((self.count, values.shape[1]))
        np.add.at(sums, self.group, centred)
        summed: Floats = sums * (np.sqrt(self.count / (self.count - 1)) / self.images)
        return summed

    def drawn(self, size: int, rng: np.random.Generator) -> Ints:
        """(size, N): how often each image is in each of `size` resamples.

        Of G groups, G - 1 are drawn, with replacement: as many as there are would scatter too little by G - 1 of G,
        which matters where they are few (Rao & Wu, JASA 83 (1988), 231-241).
        """
        if self.group is None:
            return _counted(self.images, self.images, size, rng)
        return _counted(self.count, self.count - 1, size, rng)[:, self.group]


def _counted(units: int, draws: int, size: int, rng: np.random.Generator) -> Ints:
    picked = rng.integers(0, units, (size, draws)) + units * np.arange(size)[:, None]
    return np.bincount(picked.ravel(), minlength=size * units).reshape(size, units)
