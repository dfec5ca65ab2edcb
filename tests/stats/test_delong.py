"""`stats/delong.py` against the definition by all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.stats.delong import Placements, covariance


def by_pairs(id_scores: NDArray[np.float64], ood_scores: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """The two kinds of structural components, one comparison at a time."""
    win = [[1.0 if o > i else 0.5 if o == i else 0.0 for o in ood_scores] for i in id_scores]
    return [sum(row) / len(row) for row in win], [sum(column) / len(column) for column in zip(*win, strict=True)]


@pytest.mark.parametrize("n, m, ties", [(2, 2, False), (7, 30, True), (40, 13, True), (50, 50, False)])
def test_placements_and_covariance_are_those_of_all_pairs(n: int, m: int, ties: bool) -> None:
    rng = np.random.default_rng(n)

    def draw(size: int, shift: float) -> NDArray[np.float64]:
        return np.round(rng.normal(shift, 1, size), 0 if ties else 9)

    detectors = [(draw(n, 0), draw(m, shift)) for shift in (0.5, 1.0, 2.0)]
    placed = [Placements.of(*scores) for scores in detectors]
    components = [by_pairs(*scores) for scores in detectors]
    for p, (of_id, of_ood), scores in zip(placed, components, detectors, strict=True):
        np.testing.assert_allclose(p.of_id, of_id, atol=1e-12)
        np.testing.assert_allclose(p.of_ood, of_ood, atol=1e-12)
        assert p.auroc == pytest.approx(auroc(*scores), abs=1e-12)
    expected = np.cov([c[0] for c in components]) / n + np.cov([c[1] for c in components]) / m
    np.testing.assert_allclose(covariance(placed), expected, atol=1e-12)
    assert placed[1].variance == pytest.approx(expected[1, 1], abs=1e-12)


def test_one_image_has_no_variance() -> None:
    assert np.isnan(Placements.of([0.0], [1.0, 2.0]).variance)
    assert Placements.of([0.0], [1.0, 2.0]).auroc == 1.0


def test_equal_scores_have_no_variance() -> None:
    placed = Placements.of(np.zeros(5), np.zeros(9))
    assert (placed.auroc, placed.variance) == (0.5, 0.0)
