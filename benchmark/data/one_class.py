"""A one-class model of image statistics, fitted on ID training images alone: a baseline that has seen no OOD image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.image_statistics import STATISTICS

Values = NDArray[np.float64]

SHRINKAGE = 0.1
"""Share of the covariance that is replaced by a multiple of the identity with the same trace."""

CLIPPED = 5.0
"""Standard deviations beyond which values are clipped before the covariance is computed, so that a few odd training
images do not decide it. Values that are scored are not clipped."""

NORMAL_IQR = 1.3489795003921634
"""Interquartile range of the standard normal distribution."""


@dataclass(frozen=True)
class OneClass:
    """A Gaussian of robustly standardised statistics."""

    names: tuple[str, ...]
    median: Values
    """(D,)."""
    scale: Values
    """(D,): interquartile range as a standard deviation, at least the statistic's smallest meaningful difference."""
    centre: Values
    """(D,): mean of the standardised, clipped training statistics."""
    precision: Values
    """(D, D): inverse of their shrunk covariance."""

    @classmethod
    def fit(cls, training: Mapping[str, Values]) -> OneClass:
        """Fit the `statistics` of ID training images, each (N,)."""
        names = tuple(training)
        values = np.stack([training[name] for name in names], axis=1)
        low, median, high = np.percentile(values, (25, 50, 75), axis=0)
        scale = np.maximum((high - low) / NORMAL_IQR, [STATISTICS[name].step for name in names])
        z = np.clip((values - median) / scale, -CLIPPED, CLIPPED)
        centre = z.mean(axis=0)
        covariance = (z - centre).T @ (z - centre) / len(z)
        # The floor is reached only if all training images are alike in every statistic.
        identity = max(float(np.trace(covariance)) / len(names), 1e-6) * np.eye(len(names))
        precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * identity)
        return cls(names, median, scale, centre, precision)

    def deviations(self, statistics: Mapping[str, Values]) -> Values:
        """Standardised statistics of images, (N, D)."""
        deviations: Values = (np.stack([statistics[name] for name in self.names], axis=1) - self.median) / self.scale
        return deviations

    def scores(self, statistics: Mapping[str, Values]) -> Values:
        """Squared Mahalanobis distance to the training images, (N,); higher = more OOD."""
        off = self.deviations(statistics) - self.centre
        distances: Values = np.einsum("ni,ij,nj->n", off, self.precision, off)
        return distances
