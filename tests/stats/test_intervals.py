"""`stats/intervals.py` against independent computations, and how often its intervals cover the true value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import auroc, evaluate
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.stats.intervals import confidence_intervals

Floats = NDArray[np.float64]


def normal_scores(n: int, m: int, shift: float = 1.5, seed: int = 0, ties: bool = False) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    both = rng.normal(0, 1, n), rng.normal(shift, 1.3, m)
    id_scores, ood_scores = (np.round(own, 1) for own in both) if ties else both
    return id_scores, ood_scores


def logit_interval(value: float, pairs: int, id_values: Floats, ood_values: Floats) -> tuple[float, float]:
    """Value and the influence of each image on it -> interval, with SciPy's moments and distributions."""
    variance = uncertainty = 0.0
    for values in (id_values, ood_values):
        n, s2 = len(values), float(np.var(values, ddof=1))
        variance += s2 / n
        of_s2 = (float(stats.moment(values, 4)) - s2**2 * (n - 3) / (n - 1)) / n
        uncertainty += max(of_s2, 2 * s2**2 / (n - 1)) / n**2
    centre = (value * pairs + 0.5) / (pairs + 1)
    middle, error = math.log(centre / (1 - centre)), math.sqrt(variance) / (centre * (1 - centre))
    reach = float(stats.t.ppf(0.975, 2 * variance**2 / uncertainty)) * error
    return 1 / (1 + math.exp(reach - middle)), 1 / (1 + math.exp(-reach - middle))


@pytest.mark.parametrize("n, m, ties", [(9, 30, False), (60, 25, True), (200, 200, True)])
def test_auroc_is_delong_on_the_logit_scale(n: int, m: int, ties: bool) -> None:
    id_scores, ood_scores = normal_scores(n, m, ties=ties)
    wins = (ood_scores > id_scores[:, None]) + 0.5 * (ood_scores == id_scores[:, None])
    expected = logit_interval(float(wins.mean()), n * m, wins.mean(axis=1), wins.mean(axis=0))
    assert confidence_intervals(id_scores, ood_scores)["auroc"] == pytest.approx(expected, abs=1e-12)


def weighted_ap(positive: Floats, negative: Floats, p: Floats, q: Floats, weight: float) -> float:
    """Average precision with positive = low scores and image weights p and q, from the definition."""
    total = 0.0
    for value, own in zip(positive, p, strict=True):
        true, false = p[positive <= value].sum() / p.sum(), q[negative <= value].sum() / q.sum()
        total += own / p.sum() * true / (true + weight * false)
    return float(total)


@pytest.mark.parametrize("name", ["aupr_in", "aupr_out", "aupr_in_counts", "aupr_out_counts"])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_by_its_derivative_for_every_image(name: str, ties: bool) -> None:
    pair = normal_scores(31, 20, ties=ties)
    positive, negative = pair if "in" in name.split("_") else (-pair[1], -pair[0])
    weight = len(negative) / len(positive) if name.endswith("counts") else 1.0
    step = 1e-6

    def moved(side: int, image: int) -> float:
        """The derivative along the weight of one image of a set, by central differences."""
        found = []
        for sign in (1, -1):
            weights = np.ones(len(positive)), np.ones(len(negative))
            weights[side][image] += sign * step
            found.append(weighted_ap(positive, negative, weights[0], weights[1], weight))
        return (found[0] - found[1]) / (2 * step) * len(weights[side])

    adds = [np.array([moved(side, i) for i in range(len(own))]) for side, own in enumerate((positive, negative))]
    value = evaluate(*pair)[name]
    assert value == pytest.approx(
        weighted_ap(positive, negative, np.ones(len(positive)), np.ones(len(negative)), weight)
    )
    expected = logit_interval(value, 31 * 20, adds[0], adds[1])
    assert confidence_intervals(*pair)[name] == pytest.approx(expected, abs=1e-6)


def of_moments(mean: float, variance: float) -> tuple[float, float]:
    size = mean * (1 - mean) / variance - 1
    low, high = stats.beta.ppf([0.025, 0.975], mean * size, (1 - mean) * size)
    return float(low), float(high)


@pytest.mark.parametrize("m", [25, 400])
def test_tnr_is_the_bootstrap_of_the_threshold_and_jeffreys_beta_above_it(m: int) -> None:
    # With 99 scores the rank 0.95 (n + 1) is 95: the bootstrap resamples that order statistic.
    id_scores, ood_scores = normal_scores(99, m)
    random = np.random.default_rng(1)
    thresholds = np.sort(random.choice(id_scores, (60_000, 99)), axis=1)[:, 94]
    above = m - np.searchsorted(np.sort(ood_scores), thresholds, side="right")
    means = (above + 0.5) / (m + 1)
    variance = float(np.mean(means * (1 - means) / (m + 2)) + means.var())
    found = confidence_intervals(id_scores, ood_scores)["tnr_at_tpr95"]
    assert found == pytest.approx(of_moments(float(means.mean()), variance), abs=0.003)


def test_with_few_id_images_the_threshold_may_lie_above_them_all() -> None:
    id_scores, ood_scores = normal_scores(12, 30)
    ordered = np.sort(id_scores)
    edges = [1.0, *(float((ood_scores > t).mean()) for t in ordered), 0.0]
    chances = stats.binom.pmf(np.arange(13), 12, 0.95)
    means = (30 * np.add(edges[:-1], edges[1:]) / 2 + 0.5) / 31
    mean = float(chances @ means)
    variance = float(chances @ (means * (1 - means) / 32 + (means - mean) ** 2))
    low, high = of_moments(mean, variance)
    value = evaluate(id_scores, ood_scores)["tnr_at_tpr95"]
    expected = min(low, value), max(high, value)
    assert confidence_intervals(id_scores, ood_scores)["tnr_at_tpr95"] == pytest.approx(expected)


def test_id_and_ood_are_treated_alike() -> None:
    id_scores, ood_scores = normal_scores(80, 60, ties=True)
    found, mirrored = confidence_intervals(id_scores, ood_scores), confidence_intervals(-ood_scores, -id_scores)
    low, high = found["tnr_at_tpr95"]
    assert found["fpr_at_tpr95"] == pytest.approx((1 - high, 1 - low))
    low, high = mirrored["tnr_at_tpr95"]
    assert found["openood_fpr95"] == pytest.approx((1 - high, 1 - low))
    for one, other in (("auroc", "auroc"), ("aupr_out", "aupr_in"), ("aupr_out_counts", "aupr_in_counts")):
        assert found[one] == pytest.approx(mirrored[other])


def test_detection_accuracy_is_not_taken_for_better_than_chance() -> None:
    lows, resubstituted = [], []
    for seed in range(100):
        id_scores, ood_scores = np.random.default_rng(seed).normal(size=(2, 100))
        lows.append(confidence_intervals(id_scores, ood_scores)["detection_accuracy"][0])
        resubstituted.append(evaluate(id_scores, ood_scores)["detection_accuracy"])
    assert np.mean(resubstituted) > 0.53, "the best of all thresholds looks better than chance"
    assert np.mean(np.array(lows) > 0.5) < 0.1


def test_only_the_order_of_the_scores_counts_and_the_bytes_are_the_same() -> None:
    id_scores, ood_scores = normal_scores(150, 70, ties=True)
    expected = confidence_intervals(id_scores, ood_scores)
    random = np.random.default_rng(3)
    shuffled = random.permutation(id_scores), random.permutation(ood_scores)
    assert confidence_intervals(*shuffled) == expected
    assert confidence_intervals(*(np.exp(3 * own) for own in shuffled)) == expected


def test_copies_in_groups_add_no_information() -> None:
    id_scores, ood_scores = normal_scores(60, 40)
    once = confidence_intervals(id_scores, ood_scores)
    id_groups, ood_groups = np.repeat(np.arange(60), 5), np.repeat(np.arange(40), 5)
    copies = confidence_intervals(id_scores.repeat(5), ood_scores.repeat(5), id_groups, ood_groups)
    for name in ("auroc", "aupr_in", "aupr_out"):
        assert copies[name] == pytest.approx(once[name], abs=1e-9), name
    for name in METRICS:
        width, alone = (high - low for low, high in (copies[name], once[name]))
        assert 0.9 * alone < width < 1.3 * alone, name
    unaware = confidence_intervals(id_scores.repeat(5), ood_scores.repeat(5))
    assert np.ptp(unaware["auroc"]) < 0.6 * np.ptp(once["auroc"])


@pytest.mark.parametrize("groups, m", [(2, 1000), (4, 1000), (4, 30)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0, 1000.0])
def test_few_groups_beside_many_images_leave_no_interval_undefined(groups: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, 60), rng.normal(shift, 1, m)
    for ends in confidence_intervals(*scores, np.arange(60) % groups).values():
        assert 0 <= ends[0] <= ends[1] <= 1
    for ends in confidence_intervals(-scores[1], -scores[0], None, np.arange(60) % groups).values():
        assert 0 <= ends[0] <= ends[1] <= 1


def test_groups_of_one_image_count_as_independent_images() -> None:
    id_scores, ood_scores = normal_scores(50, 30)
    alone = confidence_intervals(id_scores, ood_scores, np.arange(50)[::-1], np.arange(30))
    for name, interval in confidence_intervals(id_scores, ood_scores).items():
        if name != "detection_accuracy":  # its random halves depend on the numbering of the groups
            assert alone[name] == pytest.approx(interval), name


def test_where_no_image_differs_the_interval_is_that_of_the_rule_of_three() -> None:
    separated = confidence_intervals(np.arange(30.0), np.arange(100.0, 200.0))
    missed = 1 - 0.025 ** (1 / 30)
    assert separated["auroc"] == pytest.approx((1 - missed, 1.0))
    # AUPR-in is lowest if the share of OOD that was missed looks most like ID.
    assert separated["aupr_in"] == pytest.approx((1 - missed * math.log(1 + 1 / missed), 1.0))
    constant = confidence_intervals(np.zeros(30), np.zeros(40))["auroc"]
    assert constant == pytest.approx((0.5 - missed, 0.5 + missed))


@pytest.mark.parametrize("groups", [{}, {"id_groups": np.zeros(6, int)}])
def test_with_one_image_or_one_group_intervals_are_everything(groups: dict[str, NDArray[np.int64]]) -> None:
    ood = [3.0] if not groups else [3.0, 4.0]
    assert set(confidence_intervals(np.arange(6.0), ood, **groups).values()) == {(0.0, 1.0)}


@pytest.mark.parametrize("groups", [[0, 1], [[0], [1], [2]], [0.0, 1.0, 2.0], ["a", "b", "c"]])
def test_malformed_groups_are_rejected(groups: Any) -> None:
    with pytest.raises(MetricError, match=r"^ood_groups is .* expected 3 integers, one per score"):
        confidence_intervals([0.0, 1.0], [1.0, 2.0, 3.0], None, groups)


some_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(some_scores, some_scores, st.integers(1, 9))
def test_every_interval_holds_its_metric(id_scores: list[int], ood_scores: list[int], group: int) -> None:
    values = evaluate(id_scores, ood_scores)
    groups = [np.arange(len(own)) // group for own in (id_scores, ood_scores)]
    for found in (confidence_intervals(id_scores, ood_scores), confidence_intervals(id_scores, ood_scores, *groups)):
        assert tuple(found) == METRICS
        for name, (low, high) in found.items():
            assert 0 <= low <= values[name] <= high <= 1, name


def test_coverage_on_normal_scores() -> None:
    """Fixed seeds, so that it holds or not for good; perf/coverage.py measures it well."""
    held: dict[str, list[bool]] = {"auroc": [], "tnr_at_tpr95": [], "detection_accuracy": []}
    for shift, seed in ((shift, seed) for shift in (0.5, 1.8) for seed in range(120)):
        id_scores, ood_scores = np.random.default_rng([seed, 7]).normal(size=(2, 60))
        found = confidence_intervals(id_scores, ood_scores + shift)
        truth = {
            "auroc": stats.norm.cdf(shift / math.sqrt(2)),
            "tnr_at_tpr95": stats.norm.sf(stats.norm.ppf(0.95) - shift),
            "detection_accuracy": stats.norm.cdf(shift / 2),
        }
        for name, value in truth.items():
            held[name].append(found[name][0] <= value <= found[name][1])
    for name, own in held.items():
        assert 0.92 <= np.mean(own) <= 0.985, name


def test_wald_intervals_would_have_failed_the_same_check() -> None:
    """Plain DeLong near 1, which the logit scale and Student's t replace: the check above can fail."""
    held = []
    for seed in range(150):
        id_scores, ood_scores = np.random.default_rng([seed, 7]).normal(size=(2, 40))
        ood_scores += 3.29
        wins = ood_scores > id_scores[:, None]
        error = 1.96 * math.sqrt(wins.mean(axis=0).var(ddof=1) / 40 + wins.mean(axis=1).var(ddof=1) / 40)
        value = auroc(id_scores, ood_scores)
        low, high = confidence_intervals(id_scores, ood_scores)["auroc"]
        held.append((value - error <= 0.99 <= value + error, low <= 0.99 <= high))
    plain, ours = np.mean(held, axis=0)
    assert plain < 0.87
    assert ours > 0.93


def in_few_groups(
    of_id: int, of_ood: int, seed: int, shift: float, shared: float = 0.1, size: int = 60
) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Normal scores whose groups have a share of the variance in common: ID and OOD scores, and their groups."""
    rng = np.random.default_rng([seed, of_id, of_ood])
    groups = [np.repeat(np.arange(count), size) for count in (of_id, of_ood)]
    own = [
        math.sqrt(shared) * rng.normal(size=count)[group] + math.sqrt(1 - shared) * rng.normal(size=len(group))
        for count, group in zip((of_id, of_ood), groups, strict=True)
    ]
    return own[0], own[1] + shift, groups[0], groups[1]


def test_few_groups_do_not_pull_an_interval_below_the_printed_value() -> None:
    ends = dict.fromkeys(("auroc", "aupr_in", "aupr_out", "aupr_in_counts", "aupr_out_counts"), 0)
    for seed in range(30):
        own = in_few_groups(4, 2, seed, 2.5)
        values, found = evaluate(*own[:2]), confidence_intervals(*own)
        for name in ends:
            ends[name] += found[name][1] <= values[name] or found[name][0] >= values[name]
    assert set(ends.values()) == {0}


@pytest.mark.parametrize("of_id, of_ood", [(4, 2), (2, 2), (3, 3), (2, 4), (6, 2)])
def test_coverage_with_few_groups(of_id: int, of_ood: int) -> None:
    """Fixed seeds; perf/coverage.py measures it well."""
    truth = stats.norm.cdf(2.5 / math.sqrt(2))  # AUROC 96
    held = []
    for seed in range(80):
        low, high = confidence_intervals(*in_few_groups(of_id, of_ood, seed, 2.5))["auroc"]
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.87


def test_images_that_do_not_depend_on_their_groups_count_each() -> None:
    """The centre of the interval is that of independent images, and so is, with many groups, the interval."""
    id_scores, ood_scores = normal_scores(1200, 1200)
    alone = confidence_intervals(id_scores, ood_scores)["auroc"]
    groups = np.random.default_rng(1).permutation(1200) % 300
    assert confidence_intervals(id_scores, ood_scores, groups, groups)["auroc"] == pytest.approx(alone, abs=0.004)


def test_two_groups_place_no_quantile() -> None:
    """The threshold of TNR95 is a quantile of ID, that of OpenOOD's FPR95 one of OOD."""
    for seed in range(5):
        found = confidence_intervals(*in_few_groups(4, 2, seed, 2.5))
        assert found["openood_fpr95"] == (0, 1)
        assert found["tnr_at_tpr95"] != (0, 1) != found["fpr_at_tpr95"]
        found = confidence_intervals(*in_few_groups(2, 4, seed, 2.5))
        assert found["tnr_at_tpr95"] == found["fpr_at_tpr95"] == (0, 1)
        assert found["openood_fpr95"] != (0, 1)


@pytest.mark.parametrize("groups", [4, 3])
def test_coverage_of_a_quantile_of_few_groups_that_differ_much(groups: int) -> None:
    shift, held = 3.29, []  # AUROC 99
    truth = stats.norm.sf(stats.norm.ppf(0.05) + shift)
    for seed in range(80):
        own = in_few_groups(2, groups, seed, shift, 0.7)
        alone = np.random.default_rng(seed).normal(size=1000)
        low, high = confidence_intervals(alone, own[1], None, own[3])["openood_fpr95"]
        held.append(low <= truth <= high)
    assert np.mean(held) > (0.85 if groups == 4 else 0.78)


@pytest.mark.parametrize("few", [2, 3, 6])
def test_coverage_of_tnr_with_a_handful_of_independent_id_images(few: int) -> None:
    shift, held = 2.5, []
    truth = stats.norm.sf(stats.norm.ppf(0.95) - shift)
    for seed in range(80):
        rng = np.random.default_rng([seed, few])
        low, high = confidence_intervals(rng.normal(size=few), rng.normal(shift, size=500))["tnr_at_tpr95"]
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.93
