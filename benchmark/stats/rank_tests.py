"""Rank tests of detectors over a matrix of sets: Friedman, Nemenyi, Conover and Wilcoxon, whose unit is the set.

Demsar, Journal of Machine Learning Research 7 (2006), 1-30; Conover, Practical Nonparametric Statistics, 3rd edition
(1999), section 5.8. The tests assume that sets are independent draws. Cells with the same ID set share its networks, so
p tends to be too small where one ID set supplies most of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special  # not scipy.stats, whose import takes half a second

from oodbench.benchmark.stats.paired_tests import LEVEL, holm

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankTests:
    """Results of the rank tests of K detectors on N sets."""

    ranks: Floats
    """(K,): mean rank over the sets, 1 = best; tied detectors share the mean of their ranks."""
    sets: int
    friedman: float
    """p of the null that all K are equal (Friedman's chi-squared); 1 for two detectors, where it does not apply."""
    critical_difference: float
    """Mean ranks that differ by more than this are significantly different (Nemenyi, 5% over all pairs)."""
    wilcoxon: Floats
    """(K, K): two-sided exact p of Wilcoxon's signed-rank test; 1 on the diagonal."""
    holm: Floats
    """(K, K): `wilcoxon` adjusted by Holm's method over all pairs."""
    conover_holm: Floats
    """(K, K): two-sided p of Conover's test of mean ranks, adjusted by Holm's method over all pairs; 1 on the
    diagonal, and everywhere for two detectors, where Friedman's test does not apply."""

    @property
    def smallest_p(self) -> float:
        """The smallest two-sided p that Wilcoxon's test can give, however clear the differences: 2 / 2^N."""
        return 2.0 ** (1 - self.sets)

    @property
    def enough(self) -> bool:
        """Whether a single pair can differ significantly at 5% at all, which takes six sets."""
        return self.smallest_p <= 1 - LEVEL

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The largest groups of detectors, two or more, that the Nemenyi test cannot separate; best rank first."""
        return self._joined(self.ranks[None, :] - self.ranks[:, None] <= self.critical_difference)

    @property
    def cliques(self) -> list[tuple[int, ...]]:
        """The same by Conover's test with Holm's correction; all detectors where Friedman's test does not reject.

        Conover compares pairs only after a significant Friedman test. Its p depends on the difference of mean ranks
        alone, and Holm's method keeps the order of p, so that a group is a range of ranks here, too.
        """
        together = np.ones_like(self.conover_holm, dtype=bool)
        return self._joined(self.conover_holm >= 1 - LEVEL if self.friedman < 1 - LEVEL else together)

    def _joined(self, together: NDArray[np.bool_]) -> list[tuple[int, ...]]:
        """The largest ranges of ranks whose first and last detector, (K, K), are not told apart."""
        order = np.argsort(self.ranks, kind="stable")
        found: list[tuple[int, ...]] = []
        for i in range(len(order)):
            near = [int(j) for j in order[i:] if together[order[i], j]]
            if len(near) > 1 and not (found and set(near) <= set(found[-1])):
                found.append(tuple(near))
        return found


def rank_tests(values: Floats) -> RankTests:
    """Run all tests on (N, K) values, higher = better, of N >= 2 sets and K >= 2 detectors."""
    sets, count = values.shape
    ranks = np.stack([mean_ranks(-row) for row in values])
    friedman = friedman_p(ranks) if count > 2 else 1.0
    upper = np.triu_indices(count, 1)
    wilcoxon = np.array([signed_rank_p(values[:, i] - values[:, j]) for i, j in zip(*upper, strict=True)])
    conover = conover_p(ranks)[upper] if count > 2 else np.ones(len(wilcoxon))
    return RankTests(
        ranks.mean(axis=0),
        sets,
        friedman,
        critical_difference(count, sets),
        _symmetric(wilcoxon, count),
        _symmetric(holm(wilcoxon), count),
        _symmetric(holm(conover), count),
    )


def mean_ranks(values: Floats) -> Floats:
    """(K,): ranks of (K,) values, 1 = smallest; equal values share the mean of their ranks."""
    distinct, place = np.unique(values, return_inverse=True)
    ends = np.bincount(place.reshape(-1), minlength=len(distinct)).cumsum()
    starts = np.append(0, ends[:-1])
    shared: Floats = ((starts + 1 + ends) / 2)[place.reshape(-1)]
    return shared


def friedman_p(ranks: Floats) -> float:
    """p of Friedman's chi-squared with its correction for ties, of (N, K) ranks within N sets; 1 if all are tied."""
    sets, count = ranks.shape
    of_sets = ((ranks - (count + 1) / 2) ** 2).sum()  # less where ranks are tied
    if not of_sets:
        return 1.0
    of_means = ((ranks.sum(axis=0) - sets * (count + 1) / 2) ** 2).sum()
    return float(special.chdtrc(count - 1, (count - 1) * of_means / of_sets))


def _symmetric(of_pairs: Floats, count: int) -> Floats:
    """(K, K) from the pairs above the diagonal, row by row; 1 on the diagonal."""
    whole = np.ones((count, count))
    upper = np.triu_indices(count, 1)
    whole[upper] = of_pairs
    both: Floats = np.minimum(whole, whole.T)
    return both


def conover_p(ranks: Floats) -> Floats:
    """(K, K): two-sided p of Conover's pairwise test on (N, K) ranks within N sets, not adjusted.

    With rank sums R, t = (R_i - R_j) / sqrt(2 (N A - sum R^2) / ((N - 1) (K - 1))), A the sum of all squared ranks,
    referred to t with (N - 1) (K - 1) degrees of freedom (Conover 1999, section 5.8, eq. 6; Conover & Iman 1979). Where
    all sets rank the detectors alike there is no residual variance and t is infinite; p is then the probability of such
    agreement if all orders were equally likely: 1 / (K!)^(N - 1), or with fewer distinct orders if ranks are tied.
    """
    sets, count = ranks.shape
    doubled = np.rint(2 * ranks).astype(np.int64)  # integers, so that equal rankings leave exactly no variance
    sums = doubled.sum(axis=0)
    residual = int(sets * (doubled**2).sum() - (sums**2).sum())
    different = sums[:, None] != sums[None, :]
    if residual == 0:
        tied = np.unique(doubled[0], return_counts=True)[1]
        orders = special.gammaln(count + 1) - special.gammaln(tied + 1).sum()  # the logarithm of their number
        return np.where(different, np.exp((1 - sets) * orders), 1.0)
    degrees = (sets - 1) * (count - 1)
    t = np.abs(sums[:, None] - sums[None, :]) / np.sqrt(2 * residual / degrees)
    p: Floats = np.where(different, 2 * special.stdtr(degrees, -t), 1.0)
    return p


def critical_difference(detectors: int, sets: int, level: float = LEVEL) -> float:
    """Nemenyi's critical difference: q sqrt(K (K + 1) / 6 N), q = studentised range / sqrt 2 (Demsar 2006, table 5)."""
    return float(_studentised_range(detectors, level) * np.sqrt(detectors * (detectors + 1) / (12 * sets)))


@cache
def _studentised_range(detectors: int, level: float) -> float:
    """Quantile of the range of K independent standard normal values: the studentised range for infinite degrees.

    P(range < q) = K times the integral of phi(z) (Phi(z) - Phi(z - q))^(K - 1). The integrand is smooth and vanishes at
    both ends, where the trapezoidal rule is as good as exact.
    """
    grid = np.linspace(-9.0, 20.0, 4001)
    density = detectors * np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    below, low, high = special.ndtr(grid), 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        share = density @ (below - special.ndtr(grid - middle)) ** (detectors - 1)
        low, high = (middle, high) if share < level else (low, middle)
    return (low + high) / 2


def signed_rank_p(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of (N,) paired differences, exact with ties as well.

    Zeros are dropped, as Wilcoxon did; p = 1 where nothing is left. The null distribution enumerates all 2^N signs on
    doubled ranks, which are integers even where ties share the mean of their ranks.
    """
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0
    doubled = np.rint(2 * mean_ranks(np.abs(nonzero))).astype(int)
    ways = np.ones(1)
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) / 2 + np.pad(ways, (rank, 0)) / 2
    positive = int(doubled[nonzero > 0].sum())
    tail = ways[: min(positive, int(doubled.sum()) - positive) + 1].sum()
    return float(min(1.0, 2 * tail))
