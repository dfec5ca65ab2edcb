"""The best permutation of classes, against all permutations, and its accuracy on images that it was not chosen on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from oodbench.benchmark.metrics.class_order import accuracy_in_best_order, best_order


@pytest.mark.parametrize("seed", range(8))
def test_no_permutation_is_more_accurate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 2 + seed % 5
    predicted, labels = rng.integers(0, classes, (2, 60))
    order = best_order(predicted, labels, classes)
    assert sorted(order.tolist()) == list(range(classes))
    found = sum(order[p] == y for p, y in zip(predicted, labels, strict=True))
    for other in itertools.permutations(range(classes)):
        assert sum(other[p] == y for p, y in zip(predicted, labels, strict=True)) <= found


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_permuted_classifier_has_its_accuracy_back(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 40 * classes)
    right = rng.random(len(labels)) < 0.9
    true = np.where(right, labels, rng.integers(0, classes, len(labels)))
    order = rng.permutation(classes)
    predicted = np.argsort(order)[true]
    assert best_order(predicted, labels, classes).tolist() == order.tolist()
    assert accuracy_in_best_order(predicted, labels, classes) == pytest.approx(np.mean(true == labels), abs=1e-12)


@pytest.mark.parametrize(("classes", "images"), [(10, 100), (200, 1000), (1000, 3000)])
def test_guessing_stays_guessing(classes: int, images: int) -> None:
    """On the images that it is chosen on, the best permutation of guesses is far from chance: 37% at 1,000 classes."""
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, classes, (2, images))
    assert accuracy_in_best_order(predicted, labels, classes) < 1 / classes + 4 * math.sqrt(1 / classes / images)
    order = best_order(predicted, labels, classes)
    assert np.mean(order[predicted] == labels) > 1.5 / classes


def test_one_image_says_nothing() -> None:
    assert math.isnan(accuracy_in_best_order(np.array([1]), np.array([0]), 3))
