"""Paired tests of detectors on the same images: one column of a table, an ID set against an OOD set.

A `JointEstimate` holds one metric of D detectors, higher = better, with what is needed to judge differences: how the
values vary together over draws of images, and how they vary from seed to seed. Two kinds of pairs are distinguished:

- on the same checkpoints: the unit is the image, or the group of images where the data set knows which belong together.
  Values are means over seeds, and so is what each image contributes. Seeds share their images, so they are never
  counted as independent samples of images.
- on differently trained networks (`different_networks`), with two seeds or more: seeds and images are crossed random
  factors. On image i with seed s a difference is delta + seed_s + image_i + rest_si. The variance of its mean is
  estimated by the sample variance of the per-seed differences over S, plus the image variance of their mean. Both parts
  contain the rest, so the sum is slightly too large, never too small. The critical value is Cochran & Cox's: that of t
  with S - 1 degrees of freedom and that of the normal distribution, averaged with the two variances as weights (Cochran
  & Cox, Experimental Designs, 1950). With two seeds it is that of t alone, because the average rejects too often in
  Holm's tails. Satterthwaite's approximation would reject a true null in up to 13% of draws
  (docs/appendix/uncertainty_simulations.md).

Where a difference has no variance at all there is no scale to judge it by. A difference of 0 then has p = 1; a lead has
the p of `unseen_images`, and the best of a column is judged by the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from oodbench.benchmark.stats.unseen_images import UnseenImages

Floats = NDArray[np.float64]

Flags = NDArray[np.bool_]

LEVEL = 0.95

NO_VARIANCE = 1e-30
"""Variances below this are rounding errors: one tie more or less among a million images still gives 1e-25."""


@dataclass(frozen=True, eq=False)
class JointEstimate:
    """One metric of D detectors on the same images, from S seeds each; higher = better."""

    per_seed: Floats
    """(S, D): the metric's values, as fractions."""
    root: Floats
    """(K, D): `root.T @ root` is the covariance over images of the means over seeds; one row per unit or resample."""
    draws: Floats
    """(B, D): simulated errors of the means over seeds, as other test images would cause them."""
    different_networks: Flags
    """(D, D): whether two detectors score differently trained networks, so that seeds are a unit besides images."""
    degrees_of_freedom: Floats | None = None
    """(D, D): degrees of freedom of each `image_variance`; None where they are practically infinite."""
    scale: Floats | None = None
    """(D, D): the slope from the scale of `root` and `draws` to that of the values; None for the same scale."""
    normal_draws: bool = False
    """Whether `draws` are normal although `degrees_of_freedom` calls for t."""
    unseen: UnseenImages | None = None
    """By what a lead without variance is judged; None: it has p = 1 and decides the best nevertheless."""

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
        """(D, D): variance over seeds of each mean difference; 0 for pairs on the same checkpoints."""
        if not self.by_seeds.any():
            return np.zeros_like(self.image_variance)
        differences = self.per_seed[:, :, None] - self.per_seed[:, None, :]
        variance: Floats = np.where(self.by_seeds, differences.var(axis=0, ddof=1) / len(differences), 0.0)
        return variance

    @cached_property
    def error(self) -> Floats:
        """(D, D): standard error of each difference; exactly 0 where the difference has no variance."""
        variance = self.image_variance + self.seed_variance
        return np.sqrt(np.where(variance > NO_VARIANCE, variance, 0.0))

    @cached_property
    def by_seeds(self) -> Flags:
        """(D, D): whether seeds are a unit of the comparison: different networks, with two seeds or more."""
        return self.different_networks & (len(self.per_seed) > 1)

    @cached_property
    def image_degrees(self) -> Floats:
        """(D, D): degrees of freedom of the images' part of the critical value; infinite for the normal."""
        return np.full_like(self.error, np.inf) if self.degrees_of_freedom is None else self.degrees_of_freedom

    @cached_property
    def image_share(self) -> Floats:
        """(D, D): weight of the images' critical value; the rest is the weight of t with S - 1 degrees of freedom."""
        share: Floats = np.ones_like(self.error)
        split = self.by_seeds & (self.error > 0)
        share[split] = self.image_variance[split] / self.error[split] ** 2 if len(self.per_seed) > 2 else 0.0
        return share

    @cached_property
    def p(self) -> Floats:
        """(D, D): two-sided p of each difference; 1 where equal values have no variance, as on the diagonal."""
        p: Floats = np.ones_like(self.error)
        varies = self.error > 0
        studentised = np.abs(self.difference[varies]) / self.error[varies]
        p[varies] = 2 * upper_tail(
            studentised, self.image_share[varies], len(self.per_seed) - 1, self.image_degrees[varies]
        )
        if self.unseen:
            p[self.certain] = self.unseen.p(self.difference[self.certain])
        return p

    @cached_property
    def certain(self) -> Flags:
        """(D, D): whether two values differ although their difference has no variance."""
        certain: Flags = (self.error == 0) & (self.difference != 0)
        return certain

    @cached_property
    def half_width(self) -> Floats:
        """(D, D): half of the 95% confidence interval of each difference."""
        tail, degrees = (1 - LEVEL) / 2, len(self.per_seed) - 1
        half: Floats = _critical(self.image_share, tail, degrees, self.image_degrees) * self.error
        if self.unseen:
            half[self.certain] = self.unseen.half_width
        return half

    @cached_property
    def errors_of(self) -> Floats:
        """(D, B): `draws` transposed, contiguous for each detector."""
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
        """(D,): whether each detector is in the set that contains the best with 95% confidence; see `best_set`."""
        return best_set(self)


def variance_of_differences(root: Floats) -> Floats:
    """(D, D): variance of each difference, from differences of columns, so that equal detectors give exactly 0."""
    return np.stack([((root - root[:, [i]]) ** 2).sum(axis=0) for i in range(root.shape[1])])


def holm(p: Floats) -> Floats:
    """(M,) p-values adjusted so that the probability of any false rejection stays below the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def upper_tail(studentised: Floats, image_share: Floats, seed_degrees: int, image_degrees: Floats) -> Floats:
    """(M,): one-sided p, at most 0.5, of studentised differences; Cochran & Cox's where `image_share` is below 1.

    It is the level at which the critical value equals the studentised difference. The critical value is `image_share`
    times that of t with `image_degrees` degrees of freedom (the normal where they are infinite), plus the rest times
    that of t with `seed_degrees`.
    """
    reach, normal = -np.maximum(studentised, 0), np.isinf(image_degrees)
    tail: Floats = np.where(normal, special.ndtr(reach), special.stdtr(np.where(normal, 1.0, image_degrees), reach))
    mixed = image_share < 1
    share, low, high = image_share[mixed], np.full(mixed.sum(), np.log(1e-300)), np.full(mixed.sum(), np.log(0.5))
    for _ in range(60):
        middle = (low + high) / 2
        level = np.exp(middle)
        too_small = _critical(share, level, seed_degrees, image_degrees[mixed]) > studentised[mixed]
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    tail[mixed] = np.exp(high)
    return tail


def _critical(image_share: Floats, tail: Floats | float, seed_degrees: int, image_degrees: Floats) -> Floats:
    """Critical value of a one-sided tail: the weighted average of that over images and that over seeds."""
    # scipy.special, because the distribution objects of scipy.stats take a hundred times as long for a few numbers.
    of_seeds, normal = -special.stdtrit(max(seed_degrees, 1), tail), np.isinf(image_degrees)
    of_images = -np.where(normal, special.ndtri(tail), special.stdtrit(np.where(normal, 1.0, image_degrees), tail))
    critical: Floats = image_share * of_images + (1 - image_share) * of_seeds
    return critical


def best_set(estimate: JointEstimate, level: float = LEVEL) -> Flags:
    """(D,): which detectors may be the best; this set contains the truly best one with probability `level`.

    Multiple comparisons with the best (Hsu, Annals of Statistics 9 (1981), 1026-1034; with unequal variances and
    correlations as in Edwards & Hsu, JASA 78 (1983), 965-971). A detector is excluded where another leads by more than
    the `level` quantile of the largest of its D - 1 studentised errors (max-T over the joint draws). No detector is
    truly ahead of the best one, so the best is excluded with probability 1 - level at most. Comparisons across
    different networks have their own critical values and use up their part of the level by Bonferroni's inequality.
    A lead without variance is judged by its p, also by Bonferroni's inequality.
    """
    return np.array([_may_be_best(estimate, i, 1 - level) for i in range(len(estimate.values))])


def _may_be_best(estimate: JointEstimate, i: int, alpha: float) -> bool:
    lead, error = -estimate.difference[i], estimate.error[i]
    varies, ahead = error > 0, estimate.certain[i] & (lead > 0)
    compared = varies.sum() + ahead.sum()
    if not compared:
        return True
    each, seed_degrees = alpha / compared, len(estimate.per_seed) - 1
    if ahead.any() and (estimate.unseen is None or np.any(estimate.p[i][ahead] / 2 < each)):
        return False
    by_seeds, by_images = varies & estimate.by_seeds[i], varies & ~estimate.by_seeds[i]
    studentised, image_degrees = lead[by_seeds] / error[by_seeds], estimate.image_degrees[i]
    if np.any(upper_tail(studentised, estimate.image_share[i][by_seeds], seed_degrees, image_degrees[by_seeds]) < each):
        return False
    if not by_images.any():
        return True
    largest = np.full(len(estimate.draws), -np.inf)
    for j in np.flatnonzero(by_images):  # one by one: all at once would not stay in the processor's cache
        scale = estimate.slope[i, j] / error[j]
        np.maximum(largest, (estimate.errors_of[j] - estimate.errors_of[i]) * scale, out=largest)
    critical = np.quantile(largest, 1 - each * by_images.sum()) * np.ones(by_images.sum())
    if estimate.normal_draws:
        critical *= special.stdtrit(image_degrees[by_images], each) / special.ndtri(each)
    return bool(np.all(lead[by_images] / error[by_images] <= critical))
