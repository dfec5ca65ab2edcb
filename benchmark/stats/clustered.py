"""Variance of a mean over images, where images may come in groups (clusters) that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Confidence level: how often an interval should cover the value that infinitely many images would give."""

TAIL = (1 - LEVEL) / 2

Floats = NDArray[np.float64]


def student_quantile(degrees_of_freedom: float) -> float:
    """Student's t quantile of a two-sided interval; the normal quantile for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(1 - TAIL) if np.isinf(degrees_of_freedom) else stdtrit(degrees_of_freedom, 1 - TAIL))


def zero_event_bound(size: float) -> float:
    """Upper 97.5% Clopper-Pearson bound on a proportion observed 0 times in `size` images, about 3.7 / size.

    Clopper & Pearson, Biometrika 26 (1934), 404; the "rule of three" at another level.
    """
    return float(1 - TAIL ** (1 / size))


@dataclass(frozen=True)
class VarianceEstimate:
    """An estimated variance, and the variance of that estimate."""

    variance: float
    uncertainty: float
    """Variance of `variance` as an estimate."""

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> VarianceEstimate:
        """Variance of the mean of G >= 2 independent values, from their second and fourth moments."""
        size = len(values)
        squares = (values - values.mean()) ** 2
        variance, fourth = float(squares.sum()) / (size - 1), float((squares**2).mean())
        from_moments = (fourth - variance**2 * (size - 3) / (size - 1)) / size
        # With few values, light tails would understate the uncertainty: at least that of normal values.
        uncertainty = max(from_moments, 2 * variance**2 / (size - 1))
        return cls(variance / size, uncertainty / size**2)

    def __add__(self, other: VarianceEstimate) -> VarianceEstimate:
        return VarianceEstimate(self.variance + other.variance, self.uncertainty + other.uncertainty)

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the scaled chi-squared with these two moments (Satterthwaite, Biometrics 2 (1946))."""
        return 2 * self.variance**2 / self.uncertainty


@dataclass(frozen=True, eq=False)
class ScorePlaces:
    """One set's images: the place of each among the distinct scores, and the group it belongs to."""

    entry: NDArray[np.intp]
    """(N,): the entry of `metrics.exact.Counts` at which an image is first accepted."""
    group: NDArray[np.intp]
    """(N,): the image's group, 0 to G - 1; one group per image where the set has no groups."""

    @classmethod
    def of(cls, scores: NDArray[np.generic], distinct: NDArray[np.generic], groups: NDArray[np.generic]) -> ScorePlaces:
        """From (N,) scores, the sorted distinct scores of both sets together, and (N,) groups."""
        return cls(np.searchsorted(distinct, scores) + 1, np.unique(groups, return_inverse=True)[1].reshape(-1))

    @classmethod
    def independent_images(cls, at_most: NDArray[np.int64]) -> ScorePlaces:
        """Images without groups, by rising score, from one of the arrays of `metrics.exact.Counts`."""
        entry = np.repeat(np.arange(1, len(at_most)), np.diff(at_most))
        return cls(entry, np.arange(len(entry)))

    @classmethod
    def in_order(cls, count: int, groups: NDArray[np.generic] | None) -> ScorePlaces:
        """Of `count` images whose values are given in their own order; `entry` then says nothing."""
        numbers = np.arange(count)
        return cls(numbers, numbers if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1))

    def __len__(self) -> int:
        return len(self.entry)

    @cached_property
    def independent(self) -> int:
        """Number of groups, or of images where there are no groups."""
        return int(self.group.max()) + 1

    def variance_of_mean(self, values: Floats) -> VarianceEstimate:
        """Variance of the mean of (N,) values, in the order of `entry`.

        Values are summed by group first, because images of one group are not independent (Obuchowski, Biometrics 53
        (1997)).
        """
        if self.independent == len(self):
            return VarianceEstimate.of(values)
        sums = np.bincount(self.group, values - values.mean(), self.independent).astype(np.float64)
        return VarianceEstimate.of(sums * (self.independent / len(self)))

    def equivalent(self, values: Floats) -> float:
        """How many independent images (N,) values are worth: N divided by their design effect, one per group to N.

        The design effect is by how much groups increase the variance of a mean (Kish, Survey Sampling, 1965): the sum
        over groups of the squared sums of deviations, divided by the sum of squared deviations. Copies of an image in a
        group count once; images that differ as much as those of other groups count each.
        """
        if self.independent == len(self):
            return float(len(self))
        deviations = values - values.mean()
        sums = np.bincount(self.group, deviations, self.independent)
        between, total = float(sums @ sums), float(deviations @ deviations)
        size = len(self) * total / between if between > 0 else len(self)
        return float(np.clip(size, self.independent, len(self)))

    def effective(self, entry: int) -> float:
        """Effective sample size, 1 to N: how many independent images give the share accepted at `entry` its variance.

        Korn & Graubard, Survey Methodology 24 (1998): with few groups that variance is itself uncertain, so the size is
        multiplied by the squared ratio of the normal quantile to Student's.
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
    """The units of one set's N images that are drawn at random: single images, or groups of them."""

    images: int
    group: NDArray[np.intp] | None = None
    """(N,): each image's group, 0 to G - 1; None where every image is a unit of its own."""

    @classmethod
    def of(cls, images: int, groups: ArrayLike | None = None) -> ResamplingUnits:
        """From the number of images and, where known, (N,) integers equal for images that belong together."""
        if groups is None:
            return cls(images)
        distinct, group = np.unique(np.asarray(groups), return_inverse=True)
        return cls(images, group.reshape(-1)) if len(distinct) < images else cls(images)

    @property
    def count(self) -> int:
        """Number of units."""
        return self.images if self.group is None else int(self.group.max()) + 1

    def root(self, values: Floats) -> Floats:
        """Square root of a covariance: (count, D), of which `root.T @ root` is the covariance of D means.

        `values` (N, D) is what each image contributes to the D means. There must be two units or more. With groups the
        deviations are summed by group: the mean's variance is G / (G - 1) times the sum of the squared sums over N^2
        (Obuchowski, Biometrics 53 (1997), 567-578), as in `ScorePlaces.variance_of_mean`.
        """
        centred = values - values.mean(axis=0)
        if self.group is None:
            scaled: Floats = centred / np.sqrt(self.images * (self.images - 1))
            return scaled
        sums = np.zeros((self.count, values.shape[1]))
        np.add.at(sums, self.group, centred)
        summed: Floats = sums * (np.sqrt(self.count / (self.count - 1)) / self.images)
        return summed

    def resample_counts(self, size: int, rng: np.random.Generator) -> Ints:
        """(size, N): how often each image occurs in each of `size` resamples.

        Of G groups only G - 1 are drawn, with replacement: drawing G would make the variance too small by a factor of
        (G - 1) / G, which matters where groups are few (Rao & Wu, JASA 83 (1988), 231-241).
        """
        if self.group is None:
            return _draw_counts(self.images, self.images, size, rng)
        return _draw_counts(self.count, self.count - 1, size, rng)[:, self.group]


def _draw_counts(units: int, draws: int, size: int, rng: np.random.Generator) -> Ints:
    picked = rng.integers(0, units, (size, draws)) + units * np.arange(size)[:, None]
    return np.bincount(picked.ravel(), minlength=size * units).reshape(size, units)
