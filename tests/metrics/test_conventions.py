"""Conventions of the literature against scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics import exact
from oodbench.benchmark.metrics.conventions import (
    CONVENTIONS,
    aupr_in_trapezoid,
    aupr_out_trapezoid,
    detection_accuracy_at_tpr95,
    detection_accuracy_of_counts,
)


@pytest.mark.parametrize("ties", [False, True])
def test_trapezoids_are_those_of_scikit_learn(ties: bool) -> None:
    rng = np.random.default_rng(0)
    id_scores, ood_scores = rng.normal(0, 1, 300), rng.normal(1, 1, 170)
    if ties:
        id_scores, ood_scores = np.round(id_scores), np.round(ood_scores)
    scores, is_ood = np.append(id_scores, ood_scores), np.repeat([0, 1], [300, 170])
    for ours, target, values in ((aupr_out_trapezoid, is_ood, scores), (aupr_in_trapezoid, 1 - is_ood, -scores)):
        precision, recall, _ = precision_recall_curve(target, values)
        assert ours(id_scores, ood_scores) == pytest.approx(auc(recall, precision), abs=1e-12)


def test_a_constant_score_shows_why_trapezoids_mislead() -> None:
    assert aupr_in_trapezoid(np.zeros(8), np.zeros(8)) == 0.75
    assert exact.aupr_in_counts(np.zeros(8), np.zeros(8)) == 0.5


def test_detection_accuracies_by_loops() -> None:
    rng = np.random.default_rng(1)
    id_scores, ood_scores = rng.normal(0, 1, 40), rng.normal(1, 1, 10)
    thresholds = [-np.inf, *id_scores, *ood_scores]
    right = [(np.sum(id_scores <= t) + np.sum(ood_scores > t)) / 50 for t in thresholds]
    assert detection_accuracy_of_counts(id_scores, ood_scores) == max(right)
    at = np.sort(id_scores)[37]  # the 38th of 40
    assert detection_accuracy_at_tpr95(id_scores, ood_scores) == (38 / 40 + np.mean(ood_scores > at)) / 2


def test_every_convention_has_a_name_in_the_docs_and_refuses_nan() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, convention in CONVENTIONS.items():
        assert f"`{name}`" in page
        assert 0 <= convention([0.0, 1.0], [0.5, 2.0]) <= 1
        with pytest.raises(MetricError, match="not finite"):
            convention([0.0, np.nan], [0.5])
