"""AUROC of changed against unchanged ID images, against counting pairs."""

from __future__ import annotations

import numpy as np
import pytest

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.names import STABILITY
from oodbench.benchmark.metrics.stability import IMAGES, changed_rows, stability


def test_rows_are_evenly_spaced_and_no_more_than_the_limit() -> None:
    assert changed_rows(3).tolist() == [0, 1, 2]
    assert changed_rows(IMAGES).tolist() == list(range(IMAGES))
    assert changed_rows(10 * IMAGES).tolist() == list(range(0, 10 * IMAGES, 10))
    assert len(set(changed_rows(IMAGES + 1).tolist())) == IMAGES


@pytest.mark.parametrize("images", [1, 7, IMAGES + 55])
def test_stability_counts_pairs_of_changed_and_unchanged_images(images: int) -> None:
    random = np.random.RandomState(images)
    id_scores, rows = random.randint(0, 9, images).astype(float), changed_rows(images)
    changed = random.randint(0, 12, (len(STABILITY), len(rows))).astype(float)
    found = stability(id_scores, changed.ravel())
    assert list(found) == list(STABILITY)
    for name, scores in zip(STABILITY, changed, strict=True):
        pairs = [(b > a) + (b == a) / 2 for a in id_scores[rows] for b in scores]
        assert found[name] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_unchanged_scores_give_one_half_and_shifted_ones_one() -> None:
    id_scores = np.arange(50.0)
    changed = np.concatenate([id_scores, id_scores + 100, id_scores - 100, id_scores, id_scores])
    assert list(stability(id_scores, changed).values()) == [0.5, 1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("shape", [(0,), (49,), (5, 10), (51,)])
def test_other_numbers_of_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MetricError, match=r"expected 5 x 10 scores in one row"):
        stability(np.arange(10.0), np.zeros(shape))
