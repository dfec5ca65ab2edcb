"""The score distributions of a report: exact scores at levels, and the stated error of what is read between them."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from oodbench.benchmark.metrics.exact import auroc, evaluate, tpr_threshold
from oodbench.benchmark.views.report.curves import LEVELS, PARTS, distribution
from oodbench.benchmark.views.report.data import Distribution

BOUND = 0.005
"""The stated error of a share."""

DRAW = np.random.default_rng(5)
SATURATED = -1 + 2.0 ** -DRAW.integers(20, 54, 3000)
"""As of a maximal softmax probability: they differ in their last digits, and would be equal as float32."""
SCORES = {
    "normal": DRAW.normal(size=4321),
    "heavy tails": DRAW.standard_cauchy(3000) ** 3,
    "saturated": SATURATED,
    "tied": DRAW.integers(0, 7, 2000).astype(float),
    "constant": np.full(50, 3.25),
    "few": DRAW.normal(size=7),
    "one": np.array([1.5]),
}


def values_of(found: Distribution) -> np.ndarray:
    return np.frombuffer(base64.b64decode(found.values), "<f8")


def share_at_most(found: Distribution, threshold: float) -> float:
    """The share that the page reads: interpolated between the last level at or under the threshold and the next."""
    values, levels = values_of(found), np.array(LEVELS) / PARTS
    place = int(np.searchsorted(values, threshold, side="right")) - 1
    if place < 0:
        return 0.0
    if place == len(values) - 1:
        return 1.0
    within = (threshold - values[place]) / (values[place + 1] - values[place])
    return float(levels[place] + within * (levels[place + 1] - levels[place]))


def test_levels_are_at_most_half_a_point_apart() -> None:
    assert (LEVELS[0], LEVELS[-1]) == (0, PARTS)
    gaps = np.diff(LEVELS)
    assert gaps.min() > 0
    assert gaps.max() == BOUND * PARTS
    assert 0.95 * PARTS in LEVELS


@pytest.mark.parametrize("name", SCORES)
def test_values_are_scores_to_the_last_bit(name: str) -> None:
    found = distribution(SCORES[name])
    assert found.images == len(SCORES[name])
    assert set(values_of(found)) <= set(SCORES[name])
    assert values_of(found)[[0, -1]].tolist() == [SCORES[name].min(), SCORES[name].max()]


@pytest.mark.parametrize("name", SCORES)
def test_a_share_at_any_threshold_is_within_the_bound(name: str) -> None:
    scores = SCORES[name]
    found = distribution(scores)
    thresholds = [*scores, *np.nextafter(scores, -np.inf), *DRAW.choice(scores, 500) + DRAW.normal(size=500)]
    ordered = np.sort(scores)
    for threshold in thresholds:
        exact = np.searchsorted(ordered, threshold, side="right") / len(scores)
        assert abs(share_at_most(found, threshold) - exact) < BOUND, threshold


@pytest.mark.parametrize("name", ["normal", "heavy tails", "saturated"])
def test_the_threshold_for_95_percent_of_id_is_exact(name: str) -> None:
    scores = SCORES[name]
    found = distribution(scores)
    threshold = values_of(found)[LEVELS.index(PARTS * 95 // 100)]
    assert threshold == tpr_threshold(scores)
    accepted = float(np.mean(scores <= threshold))
    if name != "saturated":  # whose scores are tied
        assert abs(share_at_most(found, threshold) - accepted) <= 1 / len(scores)


@pytest.mark.parametrize("name", ["normal", "heavy tails", "saturated", "tied"])
@pytest.mark.parametrize("other", ["normal", "saturated", "tied", "constant"])
def test_metrics_of_the_curve_are_close_to_the_exact_ones(name: str, other: str) -> None:
    id_scores, ood_scores = SCORES[name], SCORES[other]
    of_id, of_ood = distribution(id_scores), distribution(ood_scores)
    thresholds = np.unique(np.concatenate([values_of(of_id), values_of(of_ood)]))
    thresholds = np.sort(np.concatenate([thresholds, np.nextafter(thresholds, -np.inf)]))
    tpr = np.array([0.0, *(share_at_most(of_id, t) for t in thresholds), 1.0])
    fpr = np.array([0.0, *(share_at_most(of_ood, t) for t in thresholds), 1.0])
    area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    assert abs(area - auroc(id_scores, ood_scores)) < 2 * BOUND
    at_95 = share_at_most(of_ood, tpr_threshold(id_scores))
    assert abs(at_95 - evaluate(id_scores, ood_scores)["fpr_at_tpr95"]) < BOUND
