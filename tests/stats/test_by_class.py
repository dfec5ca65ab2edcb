"""AUROC by class against loops over pairs of images, and what happens without labels or with few classes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.stats.by_class import Labelled, by_class
from oodbench.benchmark.stats.intervals import confidence_intervals
from oodbench.benchmark.store.schema import ByClass, ClassAuroc

NAMES = ("ant", "bee", "cat", "dog", "eel")


def drawn(count: int, classes: int, shift: float, seed: int, grouped: bool = False) -> Labelled:
    """Tied scores of `count` images; no image has the last but one label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - 1, count)
    labels[labels == classes - 2] = classes - 1
    scores = (random.normal(shift, 1, count) + 0.5 * labels).round(1)
    return Labelled(scores, labels, NAMES[:classes], random.integers(0, count // 3, count) if grouped else None)


def auroc_by_pairs(id_scores: NDArray[Any], ood_scores: NDArray[Any]) -> float:
    """One comparison of an ID with an OOD image at a time."""
    won = 0.0
    for i, o in itertools.product(id_scores.tolist(), ood_scores.tolist()):
        won += 1.0 if o > i else 0.5 if o == i else 0.0
    return won / (len(id_scores) * len(ood_scores))


@pytest.mark.parametrize("classes", [(4, 5), (5, 4)])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_number_is_that_of_the_images_of_its_classes(classes: tuple[int, int], grouped: bool) -> None:
    id_set, ood_set = drawn(90, classes[0], 0.0, 1, grouped), drawn(70, classes[1], 0.5, 2, grouped)
    found = by_class(id_set, ood_set)
    assert [one.name for one in found.id] == [NAMES[k] for k in range(classes[0]) if k != classes[0] - 2]
    assert [one.name for one in found.ood] == [NAMES[k] for k in range(classes[1]) if k != classes[1] - 2]
    for one in found.id:
        own = np.asarray(id_set.labels == NAMES.index(one.name))
        assert one.images == own.sum()
        assert one.auroc == pytest.approx(auroc_by_pairs(id_set.scores[own], ood_set.scores), abs=1e-12)
        groups = None if id_set.groups is None else id_set.groups[own]
        ends = confidence_intervals(id_set.scores[own], ood_set.scores, groups, ood_set.groups)["auroc"]
        assert (one.low, one.high) == pytest.approx(ends, rel=1e-9)
    for one in found.ood:
        own = np.asarray(ood_set.labels == NAMES.index(one.name))
        assert one.auroc == pytest.approx(auroc_by_pairs(id_set.scores, ood_set.scores[own]), abs=1e-12)
        groups = None if ood_set.groups is None else ood_set.groups[own]
        ends = confidence_intervals(id_set.scores, ood_set.scores[own], id_set.groups, groups)["auroc"]
        assert (one.low, one.high) == pytest.approx(ends, rel=1e-9)
    for one, row in zip(found.id, found.pairs, strict=True):
        for other, value in zip(found.ood, row, strict=True):
            of_id = id_set.scores[id_set.labels == NAMES.index(one.name)]
            of_ood = ood_set.scores[ood_set.labels == NAMES.index(other.name)]
            assert value == auroc(of_id, of_ood)  # to the last bit: integers, and one division


def test_classes_average_to_the_auroc_of_the_sets() -> None:
    id_set, ood_set = drawn(90, 4, 0.0, 1), drawn(70, 5, 0.5, 2)
    found, whole = by_class(id_set, ood_set), auroc(id_set.scores, ood_set.scores)
    for classes in (found.id, found.ood):
        assert np.average([c.auroc for c in classes], weights=[c.images for c in classes]) == pytest.approx(whole)
    weights = np.outer([c.images for c in found.id], [c.images for c in found.ood])
    assert np.average(np.array(found.pairs), weights=weights) == pytest.approx(whole)
    assert all(c.low <= c.auroc <= c.high for c in (*found.id, *found.ood))


@pytest.mark.parametrize("transform", [lambda s: 3 * s - 1, np.exp, lambda s: (10 * s).round().astype(np.int64)])
def test_only_the_order_of_scores_counts(transform: Any) -> None:
    sets = drawn(90, 4, 0.0, 1, grouped=True), drawn(70, 5, 0.5, 2)
    moved = [Labelled(transform(one.scores), one.labels, one.names, one.groups) for one in sets]
    assert by_class(moved[0], moved[1]) == by_class(*sets)


def test_what_is_not_known_is_left_out() -> None:
    id_set, ood_set = drawn(90, 4, 0.0, 1), drawn(70, 5, 0.5, 2)
    unlabelled = Labelled(ood_set.scores)
    assert by_class(id_set, unlabelled) == ByClass(id=by_class(id_set, ood_set).id)
    assert by_class(Labelled(id_set.scores), ood_set) == ByClass(ood=by_class(id_set, ood_set).ood)
    assert not by_class(Labelled(id_set.scores), unlabelled)
    one_class = Labelled(ood_set.scores, np.zeros(70, dtype=int), ("noise", "none"))
    assert by_class(id_set, one_class) == by_class(id_set, unlabelled)  # it is the whole set
    large = by_class(id_set, ood_set, most_pairs=11)  # of 3 x 4
    assert (large.id, large.ood, large.pairs) == (by_class(id_set, ood_set).id, by_class(id_set, ood_set).ood, ())
    assert len(by_class(id_set, ood_set, most_pairs=12).pairs) == 3


def test_constant_scores_and_a_class_of_one_image() -> None:
    flat = Labelled(np.zeros(4), np.array([0, 0, 1, 1]), NAMES)
    assert {one.auroc for one in by_class(flat, flat).ood} == {0.5}
    single = by_class(Labelled(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1]), NAMES), flat)
    assert single.id[0] == ClassAuroc("ant", 1, 0.5, 0.0, 1.0)  # one image has no variance to estimate


def test_scores_that_are_not_finite_are_refused() -> None:
    good, bad = drawn(9, 4, 0.0, 1), Labelled(np.array([0.0, np.nan]), np.array([0, 1]), NAMES)
    with pytest.raises(MetricError, match=r"^ood_scores has 1 of 2 values that are not finite"):
        by_class(good, bad)
    with pytest.raises(MetricError, match=r"^id_scores has 1 of 2 values that are not finite"):
        by_class(bad, good)


def test_a_matrix_of_other_classes_is_refused() -> None:
    one = ClassAuroc("ant", 1, 0.5, 0.0, 1.0)
    assert ByClass((one,), (one,), ((0.5,),))
    for pairs in (((0.5, 0.5),), ((0.5,), (0.5,))):
        with pytest.raises(ValueError, match="expected 1 rows of 1 pairs of classes"):
            ByClass((one,), (one,), pairs)
