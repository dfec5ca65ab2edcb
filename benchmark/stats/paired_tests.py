"""Is one detector better than another on the same images? Tests of one column: an ID set against an OOD set.

A `JointEstimate` holds one metric of D detectors, higher = better, with what is needed to judge differences: how the
values vary together over draws of images, and how they varied from seed to seed. Two kinds of pairs are distinguished:

- on the same checkpoints: images are the unit, or groups of images where a data set tells which belong together.
  Values are means over seeds, and so is what each image contributes, so that seeds, which share their images, are never
  counted as independent samples of images.
- on differently trained networks (`apart`), with two seeds or more: seeds and images are both drawn at random, crossed.
  On image i with seed s a difference is delta + seed_s + image_i + rest_si. The variance of its mean is estimated by
  the sample variance of the per-seed differences over S, plus the image variance of their mean. Both parts hold the
  rest, so that the sum is a little too large, never too small. The critical value is Cochran & Cox's: that of t with
  S - 1 degrees of freedom and that of the normal distribution, averaged with the two variances as weights (Cochran &
  Cox, Experimental Designs, 1950). With two seeds it is that of t alone, as the average rejects too often in Holm's
  tails. Satterthwaite's approximation would reject a true null in up to 13% of draws (docs/uncertainty.md).

Where a difference does not scatter at all there is no scale to judge it by, and p = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

Flags = NDArray[np.bool_]

LEVEL = 0.95

NO_VARIANCE = 1e-30
"""Variances below this are rounding: of a million images one tie more or less still gives 1e-25."""


@dataclass(frozen=True, eq=False)
class JointEstimate:
    """One metric of D detectors on the same images, from S seeds each; higher = better."""

    per_seed: Floats
    """(S, D): the metric's values, as fractions."""
    root: Floats
    """(K, D): root.T @ root is the covariance, over images, of the means over seeds; a row an image or a resample."""
    draws: Floats
    """(B, D): errors of the means over seeds, as other images would give them."""
    different_networks: Flags
    """(D, D): whether two detectors look at differently trained networks, and seeds are a unit beside images."""
    freedom: Floats | None = None
    """(D, D): degrees of freedom of each `image_variance`; None where it is as good as known."""
    scale: Floats | None = None
    """(D, D): the slope from the scale of `root` and `draws` to that of the values; None where they are one."""
    normal_draws: bool = False
    """Whether `draws` are normal where `freedom` says that they should be t."""

    @cached_property
    def values(self) -> Floats:
        """(D,): means over seeds."""
        values: Floats = self.per_seed.mean(axis=0)
        return values

    @cached_property
    def difference(self) -> Floats:
        """(D, D): the value of the row's detector minus that of the column's."""
        return self.values[:, None] - self.values[None, :]

    @cached_property
    def image_variance(self) -> Floats:
        """(D, D): variance of each difference over images."""
        return variance_of_differences(self.root) * self.slope**2

    @cached_property
    def slope(self) -> Floats:
        """(D, D): `scale`, or ones."""
        return np.ones_like(self.difference) if self.scale is None else self.scale

    @cached_property
    def seed_variance(self) -> Floats:
        """(D, D): variance of each mean difference over seeds; 0 for pairs on the same checkpoints."""
        if not self.by_seeds.any():
            return np.zeros_like(self.image_variance)
        differences = self.per_seed[:, :, None] - self.per_seed[:, None, :]
        variance: Floats = np.where(self.by_seeds, differences.var(axis=0, ddof=1) / len(differences), 0.0)
        return variance

    @cached_property
    def error(self) -> Floats:
        """(D, D): standard error of each difference; exactly 0 where nothing scatters."""
        variance = self.image_variance + self.seed_variance
        return np.sqrt(np.where(variance > NO_VARIANCE, variance, 0.0))

    @cached_property
    def by_seeds(self) -> Flags:
        """(D, D): whether seeds are a unit in this comparison: networks trained apart, from two seeds or more."""
        return self.different_networks & (len(self.per_seed) > 1)

    @cached_property
    def reference(self) -> Floats:
        """(D, D): degrees of freedom of the images' part of the critical value; infinite for the normal's."""
        return np.full_like(self.error, np.inf) if self.freedom is None else self.freedom

    @cached_property
    def image_share(self) -> Floats:
        """(D, D): how far the critical value is that of images, and not of t with S - 1."""
        share: Floats = np.ones_like(self.error)
        split = self.by_seeds & (self.error > 0)
        share[split] = self.image_variance[split] / self.error[split] ** 2 if len(self.per_seed) > 2 else 0.0
        return share

    @cached_property
    def p(self) -> Floats:
        """(D, D): two-sided p of each difference; 1 where it does not scatter, as on the diagonal."""
        p: Floats = np.ones_like(self.error)
        told = self.error > 0
        studentised = np.abs(self.difference[told]) / self.error[told]
        p[told] = 2 * upper_tail(studentised, self.image_share[told], len(self.per_seed) - 1, self.reference[told])
        return p

    @cached_property
    def half_width(self) -> Floats:
        """(D, D): half of the 95% confidence interval of each difference."""
        tail, degrees = (1 - LEVEL) / 2, len(self.per_seed) - 1
        half: Floats = _critical(self.image_share, tail, degrees, self.reference) * self.error
        return half

    @cached_property
    def errors_of(self) -> Floats:
        """(D, B): `draws`, a detector's next to each other."""
        return np.ascontiguousarray(self.draws.T)

    @cached_property
    def holm(self) -> Floats:
        """(D, D): `p` adjusted by Holm's method over all pairs of the column."""
        upper = np.triu_indices(len(self.p), 1)
        adjusted: Floats = np.ones_like(self.p)
        adjusted[upper] = holm(self.p[upper])
        both: Floats = np.minimum(adjusted, adjusted.T)
        return both

    @cached_property
    def best_set(self) -> Flags:
        """(D,): the set that contains the best detector with 95% confidence; see `best_set`."""
        return best_set(self)


def variance_of_differences(root: Floats) -> Floats:
    """(D, D): variance of each difference, by columns' differences, so that equal detectors give 0."""
    return np.stack([((root - root[:, [i]]) ** 2).sum(axis=0) for i in range(root.shape[1])])


def holm(p: Floats) -> Floats:
    """(M,) p-values adjusted so that the chance of any false rejection stays below the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def upper_tail(studentised: Floats, image_share: Floats, degrees: int, reference: Floats) -> Floats:
    """(M,): one-sided p, at most 0.5, of studentised differences; Cochran & Cox's where the share is below 1.

    It is the level whose critical value, share x the images' + (1 - share) x that of t, is the difference itself; the
    images' is that of t with `reference` degrees of freedom, the normal's where they are infinite.
    """
    reach, known = -np.maximum(studentised, 0), np.isinf(reference)
    tail: Floats = np.where(known, special.ndtr(reach), special.stdtr(np.where(known, 1.0, reference), reach))
    mixed = image_share < 1
    share, low, high = image_share[mixed], np.full(mixed.sum(), np.log(1e-300)), np.full(mixed.sum(), np.log(0.5))
    for _ in range(60):
        middle = (low + high) / 2
        level = np.exp(middle)
        too_small = _critical(share, level, degrees, reference[mixed]) > studentised[mixed]
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    tail[mixed] = np.exp(high)
    return tail


def _critical(image_share: Floats, tail: Floats | float, degrees: int, reference: Floats) -> Floats:
    """The critical value of a one-sided tail: that of images and that of t over seeds, averaged."""
    # SciPy's functions themselves: its distribution objects take a hundred times as long for a few numbers.
    by_t, known = -special.stdtrit(max(degrees, 1), tail), np.isinf(reference)
    of_images = -np.where(known, special.ndtri(tail), special.stdtrit(np.where(known, 1.0, reference), tail))
    critical: Floats = image_share * of_images + (1 - image_share) * by_t
    return critical


def best_set(estimate: JointEstimate, level: float = LEVEL) -> Flags:
    """(D,): detectors that may be the best; this set contains the truly best one with probability `level`.

    Multiple comparisons with the best (Hsu, Annals of Statistics 9 (1981), 1026-1034; with unequal variances and
    correlations as Edwards & Hsu, JASA 78 (1983), 965-971): a detector leaves the set where some other is ahead by more
    than the largest of its D - 1 studentised errors would be with probability `level` (max-T over the joint draws), so
    that the truly best one, which none is ahead of, leaves with probability 1 - level at most. Comparisons across
    networks have critical values of their own and take their part of the level by Bonferroni's inequality.
    A lead that is the same on every image, so that nothing scatters, counts as it stands.
    """
    return np.array([_may_be_best(estimate, i, 1 - level) for i in range(len(estimate.values))])


def _may_be_best(estimate: JointEstimate, i: int, alpha: float) -> bool:
    lead, error = -estimate.difference[i], estimate.error[i]
    told = error > 0
    if np.any(lead[~told] > 0):
        return False
    if not told.any():
        return True
    by_seeds, by_images = told & estimate.by_seeds[i], told & ~estimate.by_seeds[i]
    each, degrees = alpha / told.sum(), len(estimate.per_seed) - 1
    studentised = lead[by_seeds] / error[by_seeds]
    if np.any(
        upper_tail(studentised, estimate.image_share[i][by_seeds], degrees, estimate.reference[i][by_seeds]) < each
    ):
        return False
    if not by_images.any():
        return True
    largest = np.full(len(estimate.draws), -np.inf)
    for j in np.flatnonzero(by_images):  # one by one: all at once would not stay in the processor's cache
        own = estimate.slope[i, j] / error[j]
        np.maximum(largest, (estimate.errors_of[j] - estimate.errors_of[i]) * own, out=largest)
    critical = np.quantile(largest, 1 - each * by_images.sum()) * np.ones(by_images.sum())
    if estimate.normal_draws:
        critical *= special.stdtrit(estimate.reference[i][by_images], each) / special.ndtri(each)
    return bool(np.all(lead[by_images] / error[by_images] <= critical))
