"""Thresholds that accept a share of ID images: order statistics, their intervals, and the coverage of these."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import tpr_threshold
from oodbench.benchmark.stats.accepted_share import rank_of, share_interval, threshold_at


def test_at_95_percent_it_is_the_metrics_threshold() -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 19, 20, 21, 100, 101, 4000):
        scores = random.normal(size=count)
        assert threshold_at(scores, 0.95).value == tpr_threshold(scores)


def test_ranks_are_not_moved_by_rounding() -> None:
    assert rank_of(0.55, 100) == 55  # 0.55 * 100 is 55.00000000000001
    assert rank_of(0.07, 100) == 7
    assert rank_of(0.951, 100) == 96
    assert rank_of(1.0, 7) == 7
    assert rank_of(1e-9, 7) == 1


def test_ties_are_accepted_together() -> None:
    found = threshold_at([1.0, 2.0, 2.0, 2.0, 3.0], 0.4)
    assert found.value == 2
    assert found.accepted == 0.8
    assert found.accepted_low <= 0.4 < 0.8 <= found.accepted_high


def test_intervals_are_those_of_order_statistics() -> None:
    scores = np.arange(1.0, 201.0)
    found = threshold_at(scores, 0.95)
    assert found.value == 190
    # The smallest range of ranks that leaves at most 2.5% of the binomial distribution on either side.
    low, high = int(found.low or 0), int(found.high or 0)
    assert binom.cdf(low - 1, 200, 0.95) <= 0.025 < binom.cdf(low, 200, 0.95)
    assert 1 - binom.cdf(high - 1, 200, 0.95) <= 0.025 < 1 - binom.cdf(high - 2, 200, 0.95)
    assert (found.accepted_low, found.accepted_high) == pytest.approx(beta.interval(0.95, 190, 11))


def test_few_images_bound_nothing() -> None:
    found = threshold_at([0.1, 0.5, 0.2], 0.95)
    assert (found.value, found.high) == (0.5, None)
    assert found.accepted == 1
    assert found.accepted_high > 0.99
    assert found.accepted_low < 0.5


def test_intervals_cover_as_often_as_they_say() -> None:
    random, true = np.random.default_rng(1), 0.9
    covered = np.zeros(2)
    draws = 2000
    for _ in range(draws):
        found = threshold_at(random.uniform(size=120), true)  # the true threshold and share are the scores themselves
        assert found.low is not None
        assert found.high is not None
        covered += (found.low <= true <= found.high, found.accepted_low <= found.value <= found.accepted_high)
    assert covered[0] / draws >= 0.95 - 0.015
    assert covered[1] / draws == pytest.approx(0.95, abs=0.015)


def test_groups_widen_the_interval() -> None:
    random = np.random.default_rng(2)
    centres = random.normal(size=20)
    groups = np.repeat(np.arange(20), 30)
    scores = centres[groups] + 0.1 * random.normal(size=600)
    alone, grouped = threshold_at(scores, 0.8), threshold_at(scores, 0.8, groups)
    assert grouped.value == alone.value
    assert grouped.effective < 60 < alone.effective == 600
    assert grouped.accepted_high - grouped.accepted_low > 2 * (alone.accepted_high - alone.accepted_low)
    assert threshold_at(scores, 0.8, np.zeros(600, int)).effective == 1


def test_shares_have_clopper_pearson_intervals() -> None:
    from scipy.stats import binomtest

    for accepted, images in ((0, 10), (10, 10), (3, 17), (950, 1000)):
        expected = binomtest(accepted, images).proportion_ci(0.95, "exact")
        assert share_interval(accepted, images) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("tpr", [0, -0.1, 1.01, 95, float("nan")])
def test_shares_outside_of_0_to_1_are_refused(tpr: float) -> None:
    with pytest.raises(MetricError, match="tpr is the share of ID images to accept, above 0 and at most 1"):
        threshold_at([1.0, 2.0], tpr)
