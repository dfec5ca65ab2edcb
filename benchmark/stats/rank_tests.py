"""Is one detector better than another over a matrix of sets? Tests whose unit is the set, not the image.

Demsar, Journal of Machine Learning Research 7 (2006), 1-30. They take sets for independent draws; cells that share an
ID set share its networks, so that p tends to be too small where one ID set gives most of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from oodbench.benchmark.stats.paired_tests import LEVEL, holm

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankTests:
    """K detectors on N sets."""

    ranks: Floats
    """(K,): mean rank over the sets, 1 = best, ties sharing the mean of their ranks."""
    sets: int
    friedman: float
    """p that all K are equal (Friedman's chi-squared); 1 for two detectors, for whom it is not meant."""
    critical_difference: float
    """Mean ranks further apart than this differ (Nemenyi), at 5% over all pairs."""
    wilcoxon: Floats
    """(K, K): two-sided p of Wilcoxon's signed-rank test, exact, 1 on the diagonal."""
    holm: Floats
    """(K, K): the same, adjusted over all pairs."""

    @property
    def smallest_p(self) -> float:
        """What Wilcoxon's two-sided p cannot go below, however clear the differences: 2 / 2^N."""
        return 2.0 ** (1 - self.sets)

    @property
    def enough(self) -> bool:
        """Whether a single pair could be told apart at 5% at all, which takes six sets."""
        return self.smallest_p <= 1 - LEVEL

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The largest groups of two or more detectors, best rank first, whose ranks the Nemenyi test cannot tell."""
        order = np.argsort(self.ranks, kind="stable")
        found: list[tuple[int, ...]] = []
        for i in range(len(order)):
            near = [int(j) for j in order[i:] if self.ranks[j] - self.ranks[order[i]] <= self.critical_difference]
            if len(near) > 1 and not (found and set(near) <= set(found[-1])):
                found.append(tuple(near))
        return found


def rank_tests(values: Floats) -> RankTests:
    """All tests of (N, K) values, higher = better, of N sets and K detectors, both at least 2."""
    sets, count = values.shape
    ranks = stats.rankdata(-values, axis=1)
    differ = bool(np.ptp(ranks, axis=1).any())
    friedman = float(stats.friedmanchisquare(*values.T).pvalue) if differ and count > 2 else 1.0
    wilcoxon, adjusted = np.ones((count, count)), np.ones((count, count))
    upper = np.triu_indices(count, 1)
    wilcoxon[upper] = [signed_rank_p(values[:, i] - values[:, j]) for i, j in zip(*upper, strict=True)]
    adjusted[upper] = holm(wilcoxon[upper])
    return RankTests(
        ranks.mean(axis=0),
        sets,
        friedman,
        critical_difference(count, sets),
        np.minimum(wilcoxon, wilcoxon.T),
        np.minimum(adjusted, adjusted.T),
    )


def critical_difference(detectors: int, sets: int, level: float = LEVEL) -> float:
    """Nemenyi's: q sqrt(K (K + 1) / 6 N), q from the studentised range over sqrt 2 (Demsar 2006, table 5)."""
    return float(_studentised_range(detectors, level) * np.sqrt(detectors * (detectors + 1) / (12 * sets)))


@cache
def _studentised_range(detectors: int, level: float) -> float:
    return float(stats.studentized_range.ppf(level, detectors, np.inf))


def signed_rank_p(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of (N,) paired differences, exact also with ties.

    Zeros are left out, as Wilcoxon did; p = 1 where nothing is left. The null distribution is that of all 2^N signs,
    counted on doubled ranks, which are whole numbers where ties share the mean of theirs.
    """
    told = differences[differences != 0]
    if not len(told):
        return 1.0
    doubled = np.rint(2 * stats.rankdata(np.abs(told))).astype(int)
    ways = np.ones(1)
    for rank in doubled:
        ways = np.pad(ways, (0, rank)) / 2 + np.pad(ways, (rank, 0)) / 2
    positive = int(doubled[told > 0].sum())
    tail = ways[: min(positive, int(doubled.sum()) - positive) + 1].sum()
    return float(min(1.0, 2 * tail))
