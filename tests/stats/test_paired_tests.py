"""`stats/paired_tests.py`, `bootstrap.py` and `rank_tests.py` against independent computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.stats.bootstrap import METRICS, Scores, SortedScores, _weights, resampled
from oodbench.benchmark.stats.clustered import ResamplingUnits
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.estimates import (
    estimate_from_influences,
    estimate_from_placements,
    estimate_from_resamples,
)
from oodbench.benchmark.stats.intervals import PRECISIONS, precision_influences
from oodbench.benchmark.stats.paired_tests import JointEstimate, best_set, holm, upper_tail
from oodbench.benchmark.stats.rank_tests import (
    conover_p,
    critical_difference,
    friedman_p,
    mean_ranks,
    rank_tests,
    signed_rank_p,
)
from oodbench.benchmark.stats.unseen_images import UnseenImages

Floats = NDArray[np.float64]


def scores_of(rng: np.random.Generator, shifts: list[float], n: int = 40, m: int = 30) -> list[Scores]:
    """Correlated detectors on the same images, with ties."""
    ind, ood = rng.normal(size=(1, n)), rng.normal(size=(1, m))
    own = [(rng.normal(size=n), rng.normal(size=m)) for _ in shifts]
    return [((ind[0] + a).round(1), (ood[0] + b + shift).round(1)) for (a, b), shift in zip(own, shifts, strict=True)]


def joint_of(scores: list[list[Scores]], different_networks: bool = False) -> JointEstimate:
    count = len(scores[0])
    flags = different_networks & ~np.eye(count, dtype=bool)
    placed = [[Placements.of(*pair) for pair in own] for own in scores]
    return estimate_from_placements(placed, flags, np.random.default_rng(0))


def wins_by_pairs(pair: Scores) -> Floats:
    """(N, M): 1 where the OOD score is higher, half where equal, one comparison at a time."""
    return np.array([[1.0 if o > i else 0.5 if o == i else 0.0 for o in pair[1]] for i in pair[0]])


def delong_by_pairs(first: list[Scores], second: list[Scores]) -> tuple[float, float]:
    """Difference of the mean AUROCs over seeds and its variance, from the mean kernel over all pairs of images."""
    kernel = np.mean([wins_by_pairs(a) - wins_by_pairs(b) for a, b in zip(first, second, strict=True)], axis=0)
    rows, columns = kernel.mean(axis=1), kernel.mean(axis=0)
    return float(kernel.mean()), float(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_on_one_set_of_checkpoints_is_delongs_by_all_pairs(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    scores = [scores_of(rng, [0.5, 1.0, 1.2]) for _ in range(seeds)]
    joint = joint_of(scores)
    for i, j in itertools.permutations(range(3), 2):
        difference, variance = delong_by_pairs([own[i] for own in scores], [own[j] for own in scores])
        assert joint.difference[i, j] == pytest.approx(difference, abs=1e-12)
        assert joint.p[i, j] == pytest.approx(2 * stats.norm.sf(abs(difference) / variance**0.5), rel=1e-9)
        assert joint.half_width[i, j] == pytest.approx(stats.norm.isf(0.025) * variance**0.5)
    assert np.diag(joint.p).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_between_recipes_counts_seeds_and_images(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    scores = [scores_of(rng, [0.5 + 0.3 * rng.normal(), 1.5 + 0.3 * rng.normal()]) for _ in range(seeds)]
    joint = joint_of(scores, different_networks=True)
    differences = [evaluate(*a)["auroc"] - evaluate(*b)["auroc"] for a, b in scores]
    mean, images = delong_by_pairs([a for a, _ in scores], [b for _, b in scores])
    by_seed = float(np.var(differences, ddof=1)) / seeds
    assert joint.error[0, 1] ** 2 == pytest.approx(images + by_seed)
    share = images / (images + by_seed) if seeds > 2 else 0.0
    # The p-value is the level at which the critical value is the studentised difference.
    level = joint.p[0, 1] / 2
    critical = share * stats.norm.isf(level) + (1 - share) * stats.t.isf(level, seeds - 1)
    assert critical == pytest.approx(abs(mean) / (images + by_seed) ** 0.5)
    inside = share * stats.norm.isf(0.025) + (1 - share) * stats.t.isf(0.025, seeds - 1)
    assert joint.half_width[0, 1] == pytest.approx(inside * (images + by_seed) ** 0.5)


def test_upper_tail_is_that_of_t_and_of_the_normal_at_its_ends() -> None:
    studentised = np.array([-1.0, 0.0, 0.5, 2.0, 4.3, 30.0])
    known = np.full(6, np.inf)
    np.testing.assert_allclose(upper_tail(studentised, np.ones(6), 2, known)[1:], stats.norm.sf(studentised[1:]))
    np.testing.assert_allclose(upper_tail(studentised, np.zeros(6), 2, known)[1:], stats.t.sf(studentised[1:], 2))
    np.testing.assert_allclose(
        upper_tail(studentised, np.ones(6), 2, np.full(6, 3.0))[1:], stats.t.sf(studentised[1:], 3)
    )
    assert upper_tail(studentised, np.ones(6), 2, known)[0] == 0.5
    assert upper_tail(studentised, np.zeros(6), 2, known)[0] == pytest.approx(0.5)


def test_no_scatter_gives_p_one() -> None:
    rng = np.random.default_rng(0)
    (pair,) = scores_of(rng, [1.0])
    scores = [[pair, pair, (np.exp(pair[0]), np.exp(pair[1]))]] * 3
    for different_networks in (False, True):
        joint = joint_of(scores, different_networks)
        assert (joint.p == 1).all()
        assert (joint.holm == 1).all()
        assert joint.best_set.all()
    for metric, drawn in resampled(list(METRICS), scores, 100, rng).items():
        values = np.array([[evaluate(*pair)[metric] for pair in own] for own in scores])
        assert (estimate_from_resamples(values, drawn, np.zeros((3, 3), dtype=bool)).p == 1).all(), metric


def separated(n: int) -> Scores:
    return np.arange(float(n)), np.arange(float(n)) + 1000


@pytest.mark.parametrize("n, decided", [(3, False), (10, False), (20, True), (100, True)])
def test_a_lead_without_variance_is_judged_alike_by_p_by_its_interval_and_by_the_best(n: int, decided: bool) -> None:
    joint = joint_of([[separated(n), (np.zeros(n), np.zeros(n))]])
    assert joint.values.tolist() == [1.0, 0.5]
    assert joint.error[0, 1] == 0
    # A quarter of a source that nobody saw takes the perfect detector down, and the constant one up, by a quarter.
    assert joint.p[0, 1] == joint.p[1, 0] == pytest.approx(min(1.0, 2 * 0.75**n))
    assert joint.half_width[0, 1] == pytest.approx(min(1.0, 2 * (1 - 0.025 ** (1 / n))))
    assert (joint.p[0, 1] < 0.05) == (joint.half_width[0, 1] < 0.5) == (joint.holm[0, 1] < 0.05) == decided
    assert joint.best_set.tolist() == [True, joint.p[0, 1] / 2 >= 0.05]


def test_groups_are_the_units_of_a_lead_without_variance() -> None:
    scores = [separated(40), (np.zeros(40), np.zeros(40))]
    assert joint_of([scores]).p[0, 1] < 1e-4
    joint = in_groups(scores)  # six groups
    assert joint.p[0, 1] == pytest.approx(2 * 0.75**6)
    assert joint.best_set.tolist() == [True, True]


@pytest.mark.parametrize("metric", list(METRICS))
def test_p_and_interval_of_every_metric_without_variance_agree(metric: str) -> None:
    for n in (4, 30, 60, 500):
        unseen = UnseenImages(n, metric, 2.0)
        differences = np.array([0.001, unseen.half_width * 0.99, min(unseen.half_width * 1.01, 1.0), 1.0])
        p = unseen.p(differences)
        assert (np.diff(p) <= 0).all()
        assert p[1] >= 0.05 - 1e-9
        assert p[2] <= 0.05 + 1e-9 or unseen.half_width == 1
        for difference, own in zip(differences, p, strict=True):  # by trying all shares
            shares = np.linspace(0, 1, 200_001)
            enough = shares[unseen.reach(shares) >= difference]
            expected = 2 * (1 - enough[0]) ** n if len(enough) else 0.0
            assert own == pytest.approx(min(expected, 1.0), abs=1e-2)


def test_a_threshold_may_lie_beyond_what_few_images_show() -> None:
    assert UnseenImages(50, "tnr_at_tpr95").p(np.array([1.0]))[0] == pytest.approx(2 * 0.95**50)
    assert UnseenImages(50, "auroc").p(np.array([1.0]))[0] == pytest.approx(2 * 0.5**50)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.4: times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.4.
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.4, 0.02])), [0.06, 0.04, 0.4, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])
    joint = joint_of([scores_of(np.random.default_rng(1), [0.2, 1.0, 1.2])])
    expected = sorted([joint.p[0, 1], joint.p[0, 2], joint.p[1, 2]])[0] * 3
    assert joint.holm[np.triu_indices(3, 1)].min() == pytest.approx(min(expected, 1))
    np.testing.assert_array_equal(joint.holm, joint.holm.T)


# The set that may contain the best


def of_normals(values: list[float], errors: list[float], draws: int = 20_000) -> JointEstimate:
    """Independent detectors with known standard errors."""
    root = np.diag(np.asarray(errors))
    drawn = np.random.default_rng(0).normal(size=(draws, len(errors))) @ root
    return JointEstimate(np.array([values]), root, drawn, np.zeros((len(errors), len(errors)), dtype=bool))


def test_critical_values_are_dunnetts() -> None:
    """With k equal treatments against a control, one-sided 5%, infinite degrees: Dunnett's published 1.64 to 2.23."""
    for others, published in ((1, 1.64), (2, 1.92), (4, 2.16), (5, 2.23)):
        for gap, stays in ((published - 0.06, True), (published + 0.06, False)):
            joint = of_normals([0.0, gap * 2**0.5, *[-50.0] * (others - 1)], [1.0] * (others + 1), 100_000)
            assert best_set(joint)[0] == stays, (others, gap)


def test_the_clear_winner_stands_alone_and_equals_stand_together() -> None:
    assert of_normals([0.9, 0.5, 0.4], [0.01, 0.01, 0.01]).best_set.tolist() == [True, False, False]
    assert of_normals([0.9, 0.9, 0.4], [0.01, 0.01, 0.01]).best_set.tolist() == [True, True, False]
    assert of_normals([0.9, 0.5, 0.4], [0.01, 0.9, 0.01]).best_set.tolist() == [True, True, False]


def test_the_best_value_always_stays() -> None:
    for seed in range(8):
        joint = joint_of([scores_of(np.random.default_rng(seed), [0.5] * 6)] * 2, different_networks=seed % 2 == 1)
        assert joint.best_set[joint.values.argmax()]


def test_across_networks_each_comparison_gets_its_share_of_the_level() -> None:
    """Without variance over images, a lead is judged by t with S - 1 degrees at 5% / (D - 1), one-sided."""
    different_networks = ~np.eye(3, dtype=bool)
    wobble = np.array([-1.0, 0.0, 1.0])
    critical = stats.t.isf(0.025, 2) * (np.var(wobble, ddof=1) / 3) ** 0.5
    for factor, stays in ((0.99, True), (1.01, False)):
        per_seed = np.stack([wobble, np.full(3, factor * critical), np.full(3, -90.0)], axis=1)
        assert best_set(JointEstimate(per_seed, np.zeros((4, 3)), np.zeros((9, 3)), different_networks))[0] == stays


@pytest.mark.slow
def test_the_set_holds_the_best_of_fifteen_equals() -> None:
    """1,000 tables: a level of 5% with its sampling error of 0.7%; perf/levels.py has more cases and draws."""
    rng = np.random.default_rng(0)
    missed = sum(not joint_of([scores_of(rng, [1.0] * 15, 100, 100)]).best_set[0] for _ in range(1000))
    assert missed <= 70


# The bootstrap


@pytest.mark.parametrize("metric", list(METRICS))
def test_metrics_of_weights_are_those_of_repeated_scores(metric: str) -> None:
    rng = np.random.default_rng(0)
    for n, m, decimals in ((1, 1, 1), (30, 20, 1), (25, 40, 9), (21, 20, 0)):
        ind, ood = rng.normal(size=n).round(decimals), rng.normal(0.8, 1, size=m).round(decimals)
        weights = next(_weights((ResamplingUnits.of(n), ResamplingUnits.of(m)), 6, rng))
        assert (weights[:, :n].sum(axis=1) == n).all()
        assert (weights[:, n:].sum(axis=1) == m).all()
        found = METRICS[metric](SortedScores.of((ind, ood)).counts(weights))
        expected = [evaluate(np.repeat(ind, row[:n]), np.repeat(ood, row[n:]))[metric] for row in weights]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_resamples_agree_with_delong_and_repeat() -> None:
    scores = [scores_of(np.random.default_rng(3), [0.5, 1.0], 300, 200)]
    drawn = resampled(["auroc"], scores, 4000, np.random.default_rng(0))["auroc"]
    assert drawn.std(axis=0, ddof=1) == pytest.approx(
        [Placements.of(*pair).variance ** 0.5 for pair in scores[0]], rel=0.05
    )
    values = np.array([[evaluate(*pair)["auroc"] for pair in scores[0]]])
    bootstrap = estimate_from_resamples(values, drawn, np.zeros((2, 2), dtype=bool))
    assert bootstrap.error[0, 1] == pytest.approx(joint_of(scores).error[0, 1], rel=0.05)
    again = resampled(["auroc"], scores, 4000, np.random.default_rng(0))["auroc"]
    np.testing.assert_array_equal(drawn, again)


def test_blocks_of_resamples_change_no_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [scores_of(np.random.default_rng(3), [0.5, 1.0], 30, 20)]
    monkeypatch.setattr("oodbench.benchmark.stats.bootstrap.BLOCK", 350)  # seven resamples
    drawn = resampled(["auroc", "aupr_in"], scores, 100, np.random.default_rng(0))
    assert drawn["auroc"].shape == (100, 2)
    assert len({tuple(row) for row in drawn["auroc"]}) > 90


# Groups of images


GROUPS = np.repeat([7, 3, 9, 1, 4, 5], [12, 3, 9, 6, 2, 8])
"""Of 40 ID images."""


def clustered(
    seed: int, shifts: list[float], n: int = 40, m: int = 30, groups: NDArray[np.int64] | None = None
) -> list[Scores]:
    """Detectors whose ID scores depend on the image's group, each in its own way."""
    rng = np.random.default_rng(seed)
    marks = GROUPS if groups is None else groups
    own = [(ind + rng.normal(size=10)[marks], ood) for ind, ood in scores_of(rng, shifts, n, m)]
    return [(ind.round(1), ood) for ind, ood in own]


def in_groups(scores: list[Scores], groups: NDArray[np.int64] = GROUPS) -> JointEstimate:
    units = ResamplingUnits.of(len(scores[0][0]), groups), ResamplingUnits.of(len(scores[0][1]))
    placed = [[Placements.of(*pair) for pair in scores]]
    different_networks = np.zeros((len(scores), len(scores)), dtype=bool)
    return estimate_from_placements(placed, different_networks, np.random.default_rng(0), units=units)


def obuchowski_by_pairs(first: Scores, second: Scores) -> tuple[float, float, float]:
    """Difference of two AUROCs, its variance with ID groups as units, and Welch's degrees of degrees, by loops."""
    kernel = wins_by_pairs(first) - wins_by_pairs(second)
    value, rows, columns = kernel.mean(), kernel.mean(axis=1), kernel.mean(axis=0)
    marks = sorted(set(GROUPS.tolist()))
    sums = [sum(rows[i] - value for i in range(len(rows)) if GROUPS[i] == mark) for mark in marks]
    of_id = len(marks) / (len(marks) - 1) * sum(s**2 for s in sums) / len(rows) ** 2
    of_ood = columns.var(ddof=1) / len(columns)
    both = of_id + of_ood
    degrees = both**2 / (of_id**2 / (len(marks) - 1) + of_ood**2 / (len(columns) - 1))
    return float(value), float(both), float(degrees)


def test_p_of_groups_is_obuchowskis_by_all_pairs() -> None:
    scores = clustered(0, [0.5, 1.0, 1.4])
    joint = in_groups(scores)
    for i, j in itertools.permutations(range(3), 2):
        difference, variance, degrees = obuchowski_by_pairs(scores[i], scores[j])
        assert joint.error[i, j] ** 2 == pytest.approx(variance)
        assert joint.p[i, j] == pytest.approx(2 * stats.t.sf(abs(difference) / variance**0.5, degrees), rel=1e-9)
        assert joint.half_width[i, j] == pytest.approx(stats.t.isf(0.025, degrees) * variance**0.5)
    assert in_groups(scores, np.arange(40)).p.tolist() == joint_of([scores]).p.tolist()


def test_seeds_are_combined_within_images_before_groups_are_summed() -> None:
    two = [clustered(seed, [0.5, 1.0]) for seed in (1, 2)]
    placed = [[Placements.of(*pair) for pair in own] for own in two]
    units = ResamplingUnits.of(40, GROUPS), ResamplingUnits.of(30)
    joint = estimate_from_placements(placed, np.zeros((2, 2), dtype=bool), np.random.default_rng(0), units=units)
    means = np.mean([[p.of_id for p in own] for own in placed], axis=0)
    ood = np.mean([[p.of_ood for p in own] for own in placed], axis=0)
    gap = means[0] - means[1] - (means[0] - means[1]).mean()
    sums = np.array([gap[mark == GROUPS].sum() for mark in np.unique(GROUPS)])
    expected = 6 / 5 * (sums**2).sum() / 40**2 + (ood[0] - ood[1]).var(ddof=1) / 30
    assert joint.error[0, 1] ** 2 == pytest.approx(expected)


def test_whole_groups_are_resampled() -> None:
    units = ResamplingUnits.of(40, GROUPS), ResamplingUnits.of(30)
    weights = next(_weights(units, 50, np.random.default_rng(0)))
    first = [int(np.flatnonzero(mark == GROUPS)[0]) for mark in np.unique(GROUPS)]
    for row in weights:
        assert all(len(set(row[:40][mark == GROUPS])) == 1 for mark in np.unique(GROUPS))
        assert row[first].sum() == 5  # of six groups
        assert row[40:].sum() == 30
    ind, ood = clustered(3, [0.8])[0]
    ordered = SortedScores.of((ind, ood))
    for metric, found in METRICS.items():
        expected = [evaluate(np.repeat(ind, row[:40]), np.repeat(ood, row[40:]))[metric] for row in weights]
        np.testing.assert_allclose(found(ordered.counts(weights)), expected, atol=1e-12)


def test_resampled_groups_scatter_as_obuchowski_says() -> None:
    groups = np.arange(400) // 10 % 10 + 10 * (np.arange(400) // 100)  # forty groups of ten
    scores = clustered(4, [0.5, 1.0], 400, 200, np.arange(400) // 40)
    units = ResamplingUnits.of(400, groups), ResamplingUnits.of(200)
    rng = np.random.default_rng(0)
    drawn = resampled(["auroc"], [scores], 4000, rng, units)["auroc"]
    values = np.array([[evaluate(*pair)["auroc"] for pair in scores]])
    bootstrap = estimate_from_resamples(values, drawn, np.zeros((2, 2), dtype=bool), units, rng)
    exact = in_groups(scores, groups)
    assert bootstrap.error[0, 1] == pytest.approx(exact.error[0, 1], rel=0.05)
    studentised = abs(bootstrap.difference[0, 1]) / bootstrap.error[0, 1]
    assert bootstrap.p[0, 1] == pytest.approx(2 * stats.t.sf(studentised, 39))
    assert bootstrap.draws.std() > (drawn - values).std()


def differ(rng: np.random.Generator, groups_known: bool, metric: str = "auroc", per_group: int = 20) -> bool:
    """Whether two equal detectors differ at 5%; half of their difference on an ID image is that of its group of ten."""
    groups = np.arange(10 * per_group) // per_group
    both = rng.normal(size=len(groups)), rng.normal(1.0, 1.0, 200)
    scores = []
    for _ in range(2):
        shared = rng.normal(size=10)[groups]
        scores.append((both[0] + shared + rng.normal(size=len(groups)), both[1] + rng.normal(size=200)))
    units = (ResamplingUnits.of(len(groups), groups if groups_known else None), ResamplingUnits.of(200))
    different_networks = np.zeros((2, 2), dtype=bool)
    if metric == "auroc":
        joint = estimate_from_placements([[Placements.of(*pair) for pair in scores]], different_networks, rng, 1, units)
    else:
        values = np.array([[evaluate(*pair)[metric] for pair in scores]])
        joint = estimate_from_resamples(
            values, resampled([metric], [scores], 200, rng, units)[metric], different_networks, units, rng
        )
    return bool(joint.p[0, 1] < 0.05)


@pytest.mark.slow
def test_levels_where_images_come_in_groups() -> None:
    """Ten ID groups of 20 images. 400 draws estimate a share of 5% to within 1.1 points; ignored groups ruin it."""
    rng = np.random.default_rng(0)
    assert sum(differ(rng, True) for _ in range(400)) <= 36
    assert sum(differ(rng, True, "tnr_at_tpr95") for _ in range(400)) <= 36
    assert sum(differ(rng, False) for _ in range(400)) > 60


# By the influence of each image


def added(metric: str, pair: Scores) -> tuple[Floats, Floats]:
    """Influence of each image on a metric: the slope of the metric of weighted images along the image's weight."""
    n, m = len(pair[0]), len(pair[1])
    plain, step = np.ones((1, n + m)), 1e-6
    ordered = SortedScores.of(pair)

    def value(weights: Floats) -> float:
        # Cumulative sums of shares instead of counts: each set's weights sum to its number of images.
        own = np.concatenate([side / side.sum() * len(side) for side in np.split(weights[0], [n])])[None]
        return float(METRICS[metric](ordered.counts(own))[0])

    slopes = []
    for i in range(n + m):
        up, down = plain.copy(), plain.copy()
        up[0, i] += step
        down[0, i] -= step
        slopes.append((value(up) - value(down)) / (2 * step))
    return n * np.array(slopes[:n]), m * np.array(slopes[n:])


@pytest.mark.parametrize("metric", PRECISIONS)
def test_what_an_image_adds_is_the_slope_along_its_weight(metric: str) -> None:
    (pair,) = scores_of(np.random.default_rng(2), [0.8], 25, 18)
    found = precision_influences(metric, *pair)
    for own, expected in zip(found, added(metric, pair), strict=True):
        np.testing.assert_allclose(own - own.mean(), expected, atol=1e-6)


def of_added(metric: str, scores: list[Scores], groups: NDArray[np.int64] | None = None) -> JointEstimate:
    values = np.array([[evaluate(*pair)[metric] for pair in scores]])
    units = ResamplingUnits.of(len(scores[0][0]), groups), ResamplingUnits.of(len(scores[0][1]))
    different_networks = np.zeros((len(scores), len(scores)), dtype=bool)
    influences = [[precision_influences(metric, *pair) for pair in scores]]
    return estimate_from_influences(values, influences, different_networks, np.random.default_rng(0), units)


def satterthwaite(parts: list[Floats]) -> tuple[float, float]:
    """Variance of a sum of means, and its degrees of degrees, with SciPy's moments."""
    variance = uncertainty = 0.0
    for values in parts:
        n, s2 = len(values), float(np.var(values, ddof=1))
        variance += s2 / n
        of_s2 = (float(stats.moment(values, 4)) - s2**2 * (n - 3) / (n - 1)) / n
        uncertainty += max(of_s2, 2 * s2**2 / (n - 1)) / n**2
    return variance, 2 * variance**2 / uncertainty


@pytest.mark.parametrize("metric", ["aupr_in", "aupr_out_counts"])
@pytest.mark.parametrize("grouped", [False, True])
def test_p_of_aupr_is_a_t_test_of_log_odds(metric: str, grouped: bool) -> None:
    scores = clustered(5, [0.5, 0.9, 1.5])
    joint = of_added(metric, scores, GROUPS if grouped else None)
    pairs = 40 * 30  # of images, with groups as well
    odds, parts = [], []
    for pair in scores:
        centre = (evaluate(*pair)[metric] * pairs + 0.5) / (pairs + 1)
        odds.append(np.log(centre / (1 - centre)))
        of_id, of_ood = (own / (centre * (1 - centre)) for own in added(metric, pair))
        if grouped:
            of_id = np.array([of_id[mark == GROUPS].sum() for mark in np.unique(GROUPS)]) * 6 / 40
        parts.append([of_id, of_ood])
    of_values = [satterthwaite(one)[1] for one in parts]
    for i, j in itertools.permutations(range(3), 2):
        variance, degrees = satterthwaite([a - b for a, b in zip(parts[i], parts[j], strict=True)])
        t = (odds[i] - odds[j]) / variance**0.5
        expected = 2 * stats.t.sf(abs(t), min(degrees, of_values[i], of_values[j]))
        assert joint.p[i, j] == pytest.approx(expected, rel=1e-4)
        assert joint.difference[i, j] / joint.error[i, j] == pytest.approx(t, rel=1e-4)


@pytest.mark.parametrize("metric", PRECISIONS)
def test_aupr_without_scatter_and_with_a_clear_winner(metric: str) -> None:
    (pair, low) = scores_of(np.random.default_rng(0), [3.0, 0.0], 60, 60)
    same = (np.exp(pair[0]), np.exp(pair[1]))
    joint = of_added(metric, [pair, same, low])
    assert joint.p[0, 1] == 1
    assert joint.error[0, 1] == 0
    assert joint.p[0, 2] < 0.001
    assert joint.best_set.tolist() == [True, True, False]
    perfect = (np.arange(60.0), np.arange(60.0) + 100)
    joint = of_added(metric, [perfect, low, (np.zeros(60), np.zeros(60))])
    assert joint.best_set.tolist() == [True, False, False]
    assert np.isfinite(joint.p).all()


@pytest.mark.slow
def test_the_set_of_the_best_aupr_holds_the_best_of_eight_equals() -> None:
    """400 tables of 60 + 60 images: a level of 5% with its sampling error of 1.1%."""
    rng = np.random.default_rng(0)
    missed = sum(not of_added("aupr_in", scores_of(rng, [1.0] * 8, 60, 60)).best_set[0] for _ in range(400))
    assert missed <= 32


# Over a matrix


def test_nemenyis_critical_values_are_the_published_ones() -> None:
    """Demsar (2006), table 5(a), alpha = 0.05."""
    published = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for detectors, q in published.items():
        expected = q * (detectors * (detectors + 1) / (6 * 14)) ** 0.5
        assert critical_difference(detectors, 14) == pytest.approx(expected, rel=5e-4)


def by_all_signs(differences: Floats) -> float:
    """Two-sided p of the signed-rank statistic over all sign patterns."""
    ranks = stats.rankdata(np.abs(differences))
    total = ranks.sum()
    observed = abs(ranks[differences > 0].sum() - total / 2)
    signs = itertools.product((0, 1), repeat=len(ranks))
    extreme = [abs(np.dot(s, ranks) - total / 2) >= observed - 1e-9 for s in signs]
    return float(np.mean(extreme))


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("sets", [1, 2, 5, 6, 10])
def test_signed_rank_p_counts_all_signs(sets: int, decimals: int) -> None:
    for seed in range(5):
        differences = np.random.default_rng([sets, seed]).normal(0.5, 1, sets).round(decimals)
        nonzero = differences[differences != 0]
        expected = by_all_signs(nonzero) if len(nonzero) else 1.0
        assert signed_rank_p(differences) == pytest.approx(expected)


def test_signed_rank_p_is_scipys_where_nothing_ties() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, 25)
    assert signed_rank_p(differences) == pytest.approx(float(stats.wilcoxon(differences, method="exact").pvalue))
    assert signed_rank_p(np.zeros(4)) == 1


def test_five_sets_are_too_few_and_six_are_enough() -> None:
    clear = np.arange(12.0).reshape(6, 2) * [1, -1]
    five, six = rank_tests(clear[:5]), rank_tests(clear)
    assert five.wilcoxon[0, 1] == five.smallest_p == 0.0625
    assert six.wilcoxon[0, 1] == six.smallest_p == 0.03125
    assert (five.enough, six.enough) == (False, True)


def test_ranks_friedman_and_groups() -> None:
    """By hand: 1 is always first, 2 always second, 0 and 3 share the last two places."""
    values = np.array([[1, 9, 5, 2], [2, 9, 5, 1]] * 10, dtype=float)
    found = rank_tests(values)
    assert found.ranks.tolist() == [3.5, 1.0, 2.0, 3.5]
    # Friedman (1937): 12 N / (k (k + 1)) * sum (rank - (k + 1) / 2)^2, chi-squared with k - 1.
    statistic = 12 * 20 / 20 * sum((rank - 2.5) ** 2 for rank in found.ranks)
    assert found.friedman == pytest.approx(stats.chi2.sf(statistic, 3))
    assert found.critical_difference == pytest.approx(2.569 * (20 / 120) ** 0.5, rel=1e-3)
    assert found.groups == [(1, 2), (0, 3)]
    assert rank_tests(np.ones((6, 3))).friedman == 1
    assert rank_tests(np.ones((6, 3))).groups == [(0, 1, 2)]


def test_conover_by_hand() -> None:
    """Four sets, three detectors with the ranks 1 2 3, 1 2 3, 1 3 2, 2 1 3: sums 5, 8, 11, and A = 4 (1 + 4 + 9) = 56.

    t = difference / sqrt(2 (4 x 56 - 210) / (3 x 2)) with 6 degrees of freedom.
    """
    ranks = np.array([[1, 2, 3], [1, 2, 3], [1, 3, 2], [2, 1, 3]], dtype=float)
    unit = (2 * (4 * 56 - (25 + 64 + 121)) / 6) ** 0.5
    expected = {(0, 1): 3 / unit, (1, 2): 3 / unit, (0, 2): 6 / unit}
    found = conover_p(ranks)
    for (i, j), t in expected.items():
        assert found[i, j] == found[j, i] == pytest.approx(2 * stats.t.sf(t, 6), rel=1e-12)
    assert found.diagonal().tolist() == [1, 1, 1]
    adjusted = rank_tests(-ranks).conover_holm  # Holm: the smallest of three times 3, the two others times 2
    assert adjusted[0, 2] == pytest.approx(3 * found[0, 2])
    assert adjusted[0, 1] == pytest.approx(min(1, 2 * found[0, 1]))


def conover_by_loops(ranks: Floats) -> Floats:
    """Conover's test in its other form: the variance within sets, reduced by Friedman's statistic."""
    sets, count = ranks.shape
    sums = [sum(row[j] for row in ranks) for j in range(count)]
    variance = (sum(rank**2 for row in ranks for rank in row) - count * sets * (count + 1) ** 2 / 4) / (count - 1)
    friedman = sum((total - sets * (count + 1) / 2) ** 2 for total in sums) / variance
    degrees = (sets - 1) * (count - 1)
    scale = variance * 2 * sets * (count - 1) / degrees * (1 - friedman / (sets * (count - 1)))
    return np.array([[2 * stats.t.sf(abs(a - b) / scale**0.5, degrees) for b in sums] for a in sums])


@pytest.mark.parametrize("ties", [False, True])
def test_conover_is_the_test_of_friedmans_residual_variance(ties: bool) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(9, 6)) + 0.6 * np.arange(6)
    ranks = stats.rankdata(np.round(values) if ties else values, axis=1)
    np.testing.assert_allclose(conover_p(ranks), conover_by_loops(ranks), rtol=1e-9)


def test_conover_separates_more_than_nemenyi_and_joins_ranges_of_ranks() -> None:
    rng = np.random.default_rng(0)
    found = rank_tests(rng.normal(size=(9, 6)) + 0.6 * np.arange(6))
    assert found.friedman < 0.05
    assert (found.groups, found.cliques) == ([(5, 4, 3), (4, 3, 1, 2), (3, 1, 2, 0)], [(4, 3), (3, 1, 2), (1, 2, 0)])
    for clique in found.cliques:
        assert all(found.conover_holm[i, j] >= 0.05 for i, j in itertools.combinations(clique, 2))
    apart = [pair for pair in itertools.combinations(range(6), 2) if not any({*pair} <= {*c} for c in found.cliques)]
    assert apart
    assert all(found.conover_holm[pair] < 0.05 for pair in apart)


def test_conover_where_ranks_agree_everywhere_or_nowhere() -> None:
    same = np.array([[1.0, 2, 3]] * 6)
    assert conover_p(same)[0, 2] == pytest.approx(1 / 6**5)  # six orders, five times the first one again
    tied = np.array([[1.0, 2.5, 2.5]] * 6)
    assert conover_p(tied)[0].tolist() == pytest.approx([1, 1 / 3**5, 1 / 3**5])
    assert conover_p(tied)[1, 2] == 1
    assert rank_tests(np.ones((6, 3))).cliques == [(0, 1, 2)]
    noise = rank_tests(np.array([[1.0, 2, 3], [3.0, 1, 2], [2.0, 3, 1]] * 2))  # Friedman: no difference at all
    assert noise.friedman > 0.9
    assert noise.cliques == [tuple(np.argsort(noise.ranks, kind="stable").tolist())]
    assert (rank_tests(np.arange(12.0).reshape(6, 2)).conover_holm == 1).all()  # two detectors: Wilcoxon's test alone


def test_ranks_friedman_and_the_studentised_range_are_scipys() -> None:
    """scipy.stats takes half a second to import; what is used of it is computed by the definition."""
    rng = np.random.default_rng(5)
    for values in (rng.normal(size=(9, 6)), rng.normal(size=(9, 6)).round(), np.ones((4, 3)) * np.arange(3)):
        ranks = np.stack([mean_ranks(row) for row in values])
        assert ranks.tolist() == stats.rankdata(values, axis=1).tolist()
        assert friedman_p(ranks) == pytest.approx(stats.friedmanchisquare(*values.T).pvalue, rel=1e-9)
    assert friedman_p(np.full((4, 3), 2.0)) == 1
    for count in (2, 3, 10, 60):
        expected = stats.studentized_range.ppf(0.95, count, np.inf) * (count * (count + 1) / (12 * 8)) ** 0.5
        assert critical_difference(count, 8) == pytest.approx(expected, rel=1e-9)
