"""How far the mean of one value an image scatters, where images may come in groups that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""How often an interval is to hold the value that endless images of the same sources would give."""

TAIL = (1 - LEVEL) / 2

Floats = NDArray[np.float64]


def student_quantile(freedom: float) -> float:
    """Student's t quantile of a two-sided interval; the normal's for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(1 - TAIL) if np.isinf(freedom) else stdtrit(freedom, 1 - TAIL))


def zero_event_bound(size: float) -> float:
    """The largest share of a source that `size` independent images may all have missed ("rule of three": 3.7 / size).

    The upper Clopper-Pearson limit (Biometrika 26 (1934), 404) of zero of `size`.
    """
    return float(1 - TAIL ** (1 / size))


@dataclass(frozen=True)
class VarianceEstimate:
    """Variance of an estimate, and the variance of that variance."""

    variance: float
    uncertainty: float

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> VarianceEstimate:
        """Of the mean of G >= 2 independent values, from their second and fourth moments."""
        size = len(values)
        squares = (values - values.mean()) ** 2
        variance, fourth = float(squares.sum()) / (size - 1), float((squares**2).mean())
        from_moments = (fourth - variance**2 * (size - 3) / (size - 1)) / size
        # Light tails do not make a few values many: at least what normal values have.
        uncertainty = max(from_moments, 2 * variance**2 / (size - 1))
        return cls(variance / size, uncertainty / size**2)

    def __add__(self, other: VarianceEstimate) -> VarianceEstimate:
        return VarianceEstimate(self.variance + other.variance, self.uncertainty + other.uncertainty)

    @property
    def freedom(self) -> float:
        """Those of the scaled chi-squared with these two moments (Satterthwaite, Biometrics 2 (1946))."""
        return 2 * self.variance**2 / self.uncertainty


@dataclass(frozen=True, eq=False)
class ScorePlaces:
    """One set's images: where each lies among the distinct scores, and which of them depend on each other."""

    entry: NDArray[np.intp]
    """(N,) the entry of `metrics.Counts` at which an image is first accepted."""
    group: NDArray[np.intp]
    """(N,) the image's group, 0 to G - 1; every image its own where the set has no groups."""

    @classmethod
    def of(
        cls, scores: NDArray[np.generic], distinct: NDArray[np.generic], groups: NDArray[np.generic] | None
    ) -> ScorePlaces:
        """From (N,) scores, all distinct scores of both sets in order, and (N,) groups or None."""
        entry = np.searchsorted(distinct, scores) + 1
        if groups is None:
            return cls(np.sort(entry), np.arange(len(entry)))  # sorted: the order of independent images means nothing
        return cls(entry, np.unique(groups, return_inverse=True)[1].reshape(-1))

    def __len__(self) -> int:
        return len(self.entry)

    @cached_property
    def independent(self) -> int:
        """How many groups, or images where there are no groups."""
        return int(self.group.max()) + 1

    def variance_of_mean(self, values: Floats) -> VarianceEstimate:
        """Of the mean of (N,) values, in the order of `entry`; groups are wholes (Obuchowski, Biometrics 53 (1997))."""
        if self.independent == len(self):
            return VarianceEstimate.of(values)
        sums = np.bincount(self.group, values - values.mean(), self.independent).astype(np.float64)
        return VarianceEstimate.of(sums * (self.independent / len(self)))

    def effective(self, entry: int) -> float:
        """How many independent images scatter as the share accepted at an entry does: 1 to as many as there are.

        Korn & Graubard, Survey Methodology 24 (1998): with few groups that scatter is itself uncertain, so the size is
        cut by the squared ratio of the normal's quantile to Student's.
        """
        if self.independent == len(self):
            return float(len(self))
        accepted = (self.entry <= entry).astype(np.float64)
        share, variance = float(accepted.mean()), self.variance_of_mean(accepted).variance
        size = share * (1 - share) / variance if variance > 0 else float(self.independent)
        size *= (student_quantile(np.inf) / student_quantile(self.independent - 1)) ** 2
        return float(np.clip(size, 1, len(self)))


Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ResamplingUnits:
    """The independent units of one set's N images."""

    images: int
    group: NDArray[np.intp] | None = None
    """(N,): each image's group, 0 to G - 1; None where every image is a unit of its own."""

    @classmethod
    def of(cls, images: int, groups: ArrayLike | None = None) -> ResamplingUnits:
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

    def resample_counts(self, size: int, rng: np.random.Generator) -> Ints:
        """(size, N): how often each image is in each of `size` resamples.

        Of G groups, G - 1 are drawn, with replacement: as many as there are would scatter too little by G - 1 of G,
        which matters where they are few (Rao & Wu, JASA 83 (1988), 231-241).
        """
        if self.group is None:
            return _draw_counts(self.images, self.images, size, rng)
        return _draw_counts(self.count, self.count - 1, size, rng)[:, self.group]


def _draw_counts(units: int, draws: int, size: int, rng: np.random.Generator) -> Ints:
    picked = rng.integers(0, units, (size, draws)) + units * np.arange(size)[:, None]
    return np.bincount(picked.ravel(), minlength=size * units).reshape(size, units)
