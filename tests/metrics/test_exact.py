"""The metrics against their definitions, scikit-learn and arithmetic by hand, and their invariances."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics import exact
from oodbench.benchmark.metrics.exact import Counts, evaluate, roc_curve, ties_of, tpr_threshold
from oodbench.benchmark.metrics.names import METRICS

Array = NDArray[Any]
NAMES = (*METRICS, "tpr")
SIZES = [(1, 1), (1, 7), (19, 19), (20, 21), (400, 13), (257, 1900)]

# Few distinct values, so that ties within and across the classes are the rule.
tied = st.lists(st.integers(-6, 6), min_size=1, max_size=45)
floats32 = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=45)


def random_scores(n_id: int, n_ood: int, decimals: int | None = None) -> tuple[Array, Array]:
    rng = np.random.default_rng([n_id, n_ood])
    id_scores, ood_scores = rng.normal(0, 1, n_id), rng.normal(1, 2, n_ood)
    return (id_scores, ood_scores) if decimals is None else (id_scores.round(decimals), ood_scores.round(decimals))


def share_at_most(scores: list[int], threshold: int) -> Fraction:
    return Fraction(sum(score <= threshold for score in scores), len(scores))


def share_at_least(scores: list[int], threshold: int) -> Fraction:
    return Fraction(sum(score >= threshold for score in scores), len(scores))


def average_precision(positives: list[int], negatives: list[int], negative_mass: Fraction) -> Fraction:
    """Average precision with high scores positive; all positives together have weight 1."""
    total = recall_before = Fraction(0)
    for threshold in sorted({*positives, *negatives}, reverse=True):
        recall = share_at_least(positives, threshold)
        total += (recall - recall_before) * recall / (recall + share_at_least(negatives, threshold) * negative_mass)
        recall_before = recall
    return total


def by_definition(id_scores: list[int], ood_scores: list[int]) -> dict[str, float]:
    """Every metric by enumeration of all thresholds and pairs, in fractions."""
    n, m = len(id_scores), len(ood_scores)
    values = sorted({*id_scores, *ood_scores})
    most = Fraction(95, 100)
    accepting = next(v for v in values if share_at_most(id_scores, v) >= most)
    flagging = next(v for v in reversed(values) if share_at_least(ood_scores, v) >= most)
    accuracies = [(share_at_most(id_scores, v) + 1 - share_at_most(ood_scores, v)) / 2 for v in values]
    wins = [Fraction(int(o > i)) + Fraction(int(o == i), 2) for i in id_scores for o in ood_scores]
    id_certainty, ood_certainty = [-s for s in id_scores], [-s for s in ood_scores]
    exact = {
        "tnr_at_tpr95": 1 - share_at_most(ood_scores, accepting),
        "fpr_at_tpr95": share_at_most(ood_scores, accepting),
        "tpr": share_at_most(id_scores, accepting),
        "auroc": sum(wins, Fraction(0)) / (n * m),
        "detection_accuracy": max([Fraction(1, 2), *accuracies]),
        "aupr_in": average_precision(id_certainty, ood_certainty, Fraction(1)),
        "aupr_out": average_precision(ood_scores, id_scores, Fraction(1)),
        "aupr_in_counts": average_precision(id_certainty, ood_certainty, Fraction(m, n)),
        "aupr_out_counts": average_precision(ood_scores, id_scores, Fraction(n, m)),
        "openood_fpr95": share_at_least(id_scores, flagging),
    }
    return {name: float(value) for name, value in exact.items()}


def test_evaluate_gives_every_column_and_what_the_function_of_that_name_gives() -> None:
    id_scores, ood_scores = random_scores(40, 30, 1)
    result = evaluate(id_scores, ood_scores)
    assert tuple(result) == NAMES
    assert len(set(result.values())) == len(NAMES)  # Else a mix-up of two of them could go unseen.
    for name, value in result.items():
        assert type(value) is float
        assert value == getattr(exact, name)(id_scores=id_scores, ood_scores=ood_scores)


def test_the_public_functions_document_themselves() -> None:
    for name in NAMES:
        function = getattr(exact, name)
        assert function.__name__ == name
        assert function.__doc__.startswith("Return ")
        assert list(inspect.signature(function).parameters) == ["id_scores", "ood_scores"]


# --- by hand


def test_by_hand_with_a_tie_and_unequal_sizes() -> None:
    # ID 1 2 3 4, OOD 3 5 6. ceil(0.95 * 4) = 4, so t = 4: all ID and one OOD score of three are accepted.
    assert evaluate([1, 2, 3, 4], [3, 5, 6]) == pytest.approx(
        {
            "tnr_at_tpr95": 2 / 3,
            "fpr_at_tpr95": 1 / 3,
            "tpr": 1.0,
            # 5 and 6 beat 4 ID scores each; 3 beats 1 and 2 and ties 3: (8 + 2 + 0.5) / 12.
            "auroc": 10.5 / 12,
            # t = 2: (2/4 + 3/3) / 2 = 0.75; t = 3: (3/4 + 2/3) / 2 = 0.708; t = 4: (4/4 + 2/3) / 2 = 0.833.
            "detection_accuracy": 5 / 6,
            # ID found upwards, 1/4 of recall each. Precision by counts: 1/1, 2/2, 3/4 (the tie enters whole), 4/5.
            "aupr_in_counts": (1 + 1 + 3 / 4 + 4 / 5) / 4,
            # An OOD score weighs 4/3: 1, 1, 3 / (3 + 4/3) = 9/13, 4 / (4 + 4/3) = 3/4.
            "aupr_in": (1 + 1 + 9 / 13 + 3 / 4) / 4,
            # OOD found downwards, 1/3 of recall each: 1/1, 2/2, then 3 with the ID scores 4 and 3: 3/5.
            "aupr_out_counts": (1 + 1 + 3 / 5) / 3,
            # An ID score weighs 3/4: 3 / (3 + 2 * 3/4) = 2/3.
            "aupr_out": (1 + 1 + 2 / 3) / 3,
            # 95% of three is all three: t = 3, and 3 and 4 of the ID scores are flagged.
            "openood_fpr95": 2 / 4,
        },
        abs=1e-15,
    )


def test_by_hand_where_5_percent_may_be_lost() -> None:
    # ID 1..20: ceil(0.95 * 20) = 19, t = 19, and 20 is lost. OOD above 19: 19.5, 20, 30 and seventeen times 40.
    # OOD is 20 scores too: 19 of them must be flagged, the largest t that does is 19.5 with 20 - 1 = 19 flagged; ID at
    # 19.5 or above: only 20.
    ood_scores = [0.5, 19.5, 30] + [40] * 17
    result = evaluate(range(1, 21), ood_scores)
    assert (result["tpr"], result["tnr_at_tpr95"], result["openood_fpr95"]) == (19 / 20, 19 / 20, 1 / 20)
    # With 21 ID scores ceil(19.95) = 20 must be accepted, and with 19 OOD scores ceil(18.05) = 19 flagged: t = 0.5.
    result = evaluate(range(1, 22), ood_scores[:-1])
    assert (result["tpr"], result["tnr_at_tpr95"], result["openood_fpr95"]) == (20 / 21, 17 / 19, 1.0)


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (40, 38), (41, 39), (100, 95)])
def test_the_threshold_is_the_ceil_of_95_percent_th_smallest(n: int, rank: int) -> None:
    scores = np.random.default_rng(n).permutation(np.arange(1, n + 1))
    assert tpr_threshold(scores) == rank
    assert exact.tpr(scores, [0]) == rank / n


@pytest.mark.parametrize("n_id, n_ood", SIZES)
def test_constant_scores_say_nothing(n_id: int, n_ood: int) -> None:
    result = evaluate(np.full(n_id, 3.5), np.full(n_ood, 3.5))
    expected = dict.fromkeys(NAMES, 0.5) | {"tnr_at_tpr95": 0, "fpr_at_tpr95": 1, "tpr": 1, "openood_fpr95": 1}
    expected |= {"aupr_in_counts": n_id / (n_id + n_ood), "aupr_out_counts": n_ood / (n_id + n_ood)}
    assert result == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n_id, n_ood", SIZES)
def test_perfect_scores_are_exactly_perfect_and_reversed_ones_useless(n_id: int, n_ood: int) -> None:
    low, high = np.arange(n_id), np.arange(n_id, n_id + n_ood)
    best = evaluate(low, high)
    assert {name for name, value in best.items() if value == 1} >= set(METRICS) - {"fpr_at_tpr95", "openood_fpr95"}
    assert best["fpr_at_tpr95"] == best["openood_fpr95"] == 0
    worst = evaluate(-low, -high)
    assert (worst["auroc"], worst["detection_accuracy"], worst["tnr_at_tpr95"], worst["openood_fpr95"]) == (
        0,
        0.5,
        0,
        1,
    )


def test_one_score_each() -> None:
    assert [exact.auroc([a], [b]) for a, b in ((0, 1), (0, 0), (1, 0))] == [1, 0.5, 0]
    # AUROC shows that this is worse than chance; the best threshold is then infinite.
    assert exact.detection_accuracy([1], [0]) == 0.5


# --- against brute force and scikit-learn


@settings(max_examples=300, deadline=None)
@given(tied, tied)
def test_equals_the_definitions(id_scores: list[int], ood_scores: list[int]) -> None:
    assert evaluate(id_scores, ood_scores) == pytest.approx(by_definition(id_scores, ood_scores), abs=1e-14)


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("decimals", [None, 0])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block: int, decimals: int | None) -> None:
    id_scores, ood_scores = random_scores(50, 41, decimals)
    whole = evaluate(id_scores, ood_scores)
    monkeypatch.setattr(exact, "BLOCK", block)
    assert evaluate(id_scores, ood_scores) == pytest.approx(whole, abs=1e-15)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("n_id, n_ood", [*SIZES, (70_000, 90_000)])
def test_equals_scikit_learn(n_id: int, n_ood: int, decimals: int | None) -> None:
    id_scores, ood_scores = random_scores(n_id, n_ood, decimals)
    scores = np.concatenate((id_scores, ood_scores))
    is_ood = np.repeat([0, 1], [n_id, n_ood])
    equal_mass = np.repeat([1 / n_id, 1 / n_ood], [n_id, n_ood])
    flagged_id, flagged_ood, _ = sklearn_roc_curve(is_ood, scores, drop_intermediate=False)
    assert evaluate(id_scores, ood_scores) == pytest.approx(
        {
            "auroc": roc_auc_score(is_ood, scores),
            "aupr_in": average_precision_score(1 - is_ood, -scores, sample_weight=equal_mass),
            "aupr_out": average_precision_score(is_ood, scores, sample_weight=equal_mass),
            "aupr_in_counts": average_precision_score(1 - is_ood, -scores),
            "aupr_out_counts": average_precision_score(is_ood, scores),
            "detection_accuracy": (flagged_ood + 1 - flagged_id).max() / 2,
            "tnr_at_tpr95": flagged_ood[flagged_id <= 0.05 + 1e-12][-1],
            "fpr_at_tpr95": 1 - flagged_ood[flagged_id <= 0.05 + 1e-12][-1],
            "tpr": 1 - flagged_id[flagged_id <= 0.05 + 1e-12][-1],
            "openood_fpr95": flagged_id[flagged_ood >= 0.95 - 1e-12][0],
        },
        abs=1e-12,
    )


# --- what must not change them, and how they relate


@settings(max_examples=100, deadline=None)
@given(tied, tied)
def test_only_the_order_of_the_scores_counts(id_scores: list[int], ood_scores: list[int]) -> None:
    before = evaluate(id_scores, ood_scores)
    increasing: tuple[Callable[[Array], Array], ...] = (np.exp, lambda s: s**3 + s, lambda s: s - 1e6, np.arctan)
    for function in increasing:
        assert evaluate(function(np.array(id_scores)), function(np.array(ood_scores))) == before


@settings(max_examples=100, deadline=None)
@given(tied, tied, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_count(id_scores: list[int], ood_scores: list[int], random: Any) -> None:
    before = evaluate(id_scores, ood_scores)
    random.shuffle(id_scores)
    assert evaluate(id_scores, ood_scores[::-1]) == before


@settings(max_examples=100, deadline=None)
@given(tied, tied, st.integers(2, 5))
def test_repeating_every_score_changes_nothing(id_scores: list[int], ood_scores: list[int], times: int) -> None:
    # Not even the thresholds: the ceil(19 k n / 20)-th of scores repeated k times is the score itself of rank
    # ceil(ceil(19 k n / 20) / k) = ceil(19 n / 20), and rounding down once or twice is the same as well.
    assert evaluate(id_scores * times, ood_scores * times) == pytest.approx(evaluate(id_scores, ood_scores), abs=1e-14)


@settings(max_examples=100, deadline=None)
@given(tied, tied)
def test_equal_mass_is_what_counts_give_on_sets_blown_up_to_equal_size(
    id_scores: list[int], ood_scores: list[int]
) -> None:
    result = evaluate(id_scores, ood_scores)
    blown_up = evaluate(id_scores * len(ood_scores), ood_scores * len(id_scores))
    assert blown_up["aupr_in_counts"] == pytest.approx(result["aupr_in"], abs=1e-14)
    assert blown_up["aupr_out_counts"] == pytest.approx(result["aupr_out"], abs=1e-14)
    for name in set(METRICS) - {"aupr_in_counts", "aupr_out_counts"}:
        assert blown_up[name] == pytest.approx(result[name], abs=1e-14)


@settings(max_examples=100, deadline=None)
@given(floats32, floats32)
def test_swapping_the_classes_and_negating_swaps_what_is_in_and_out(
    id_scores: list[float], ood_scores: list[float]
) -> None:
    result = evaluate(id_scores, ood_scores)
    mirrored = evaluate(-np.array(ood_scores), -np.array(id_scores))
    pairs = {"auroc": "auroc", "detection_accuracy": "detection_accuracy"}
    pairs |= {"aupr_in": "aupr_out", "aupr_in_counts": "aupr_out_counts", "openood_fpr95": "fpr_at_tpr95"}
    for one, other in pairs.items():
        assert result[one] == pytest.approx(mirrored[other], abs=1e-14)
        assert result[other] == pytest.approx(mirrored[one], abs=1e-14)
    assert exact.auroc(ood_scores, id_scores) == pytest.approx(1 - result["auroc"], abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(floats32, floats32)
def test_float32_and_float64_of_the_same_values_agree(id_scores: list[float], ood_scores: list[float]) -> None:
    wide = np.array(id_scores), np.array(ood_scores)
    narrow = wide[0].astype(np.float32), wide[1].astype(np.float32)
    assert evaluate(*narrow) == evaluate(*wide) == evaluate(narrow[0], wide[1])
    assert tpr_threshold(narrow[0]) == tpr_threshold(wide[0])


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32", ">f4", "g"]
)
def test_every_numeric_type_gives_the_same(dtype: str) -> None:
    id_scores, ood_scores = ((scores.clip(0, 5) * 20).round() for scores in random_scores(300, 200))
    expected = evaluate(id_scores, ood_scores)
    assert evaluate(id_scores.astype(dtype), ood_scores.astype(dtype)) == expected
    assert evaluate(id_scores.astype(dtype), ood_scores) == expected


def test_lists_tensors_and_strided_views_are_read_and_left_as_they_are() -> None:
    id_scores, ood_scores = random_scores(30, 20)
    expected = evaluate(id_scores, ood_scores)
    every_other = np.repeat(id_scores, 2)[::2]
    every_other.flags.writeable = False
    assert evaluate(every_other, ood_scores.tolist()) == expected
    tensor = torch.from_numpy(ood_scores.copy())
    assert evaluate(id_scores, tensor) == expected
    assert (tensor.numpy() == ood_scores).all()


def test_minus_zero_ties_with_zero() -> None:
    assert exact.auroc([-0.0], [0.0]) == exact.auroc([0.0], [-0.0]) == 0.5
    zeros = np.tile([0.0, -0.0], 5000)
    assert len(Counts.of(zeros, zeros[::-1]).id_at_most) == 2


# --- exactness


def test_big_integers_are_not_rounded() -> None:
    # As float64 the two are equal.
    assert exact.auroc([2**53], [2**53 + 1]) == 1
    assert exact.auroc(np.array([2**64 - 2], np.uint64), np.array([2**64 - 1], np.uint64)) == 1
    assert tpr_threshold([2**53 + 1]) == 2**53 + 1


@pytest.mark.parametrize("other", [np.array([0.5]), np.array([7], np.uint64)])
def test_big_integers_with_a_type_that_rounds_them_are_rejected(other: Array) -> None:
    assert exact.auroc([-(2**53)], other) == 1
    for big in (-(2**53) - 1, 2**53 + 1):
        with pytest.raises(
            MetricError, match=r"ood_scores has int64 values beyond 2\*\*53.*both inputs to have the same type"
        ):
            evaluate(other, [big])


def test_products_of_counts_beyond_int64_do_not_wrap_around() -> None:
    # 2 * n_id * n_ood = 1.8e19 > 2**63; the scores themselves would need 48 GB, their counts do not.
    n = 3_000_000_000
    constant = Counts(np.array([0, n]), np.array([0, n]))
    perfect = Counts(np.array([0, n, n]), np.array([0, 0, n]))
    for name in ("auroc", "detection_accuracy", "aupr_in", "aupr_out", "aupr_in_counts", "aupr_out_counts"):
        assert exact._OF_COUNTS[name](constant) == 0.5
        assert exact._OF_COUNTS[name](perfect) == 1.0


@pytest.mark.parametrize("block", [1, 3, 1 << 16])
@pytest.mark.parametrize("decimals", [0, 1, None])
def test_ties_are_those_that_sets_and_loops_count(
    monkeypatch: pytest.MonkeyPatch, block: int, decimals: int | None
) -> None:
    monkeypatch.setattr(exact, "BLOCK", block)
    id_scores, ood_scores = random_scores(41, 30, decimals)
    threshold = tpr_threshold(id_scores)
    assert ties_of(Counts.of(id_scores, ood_scores)) == {
        "distinct_id": len(set(id_scores.tolist())),
        "distinct_ood": len(set(ood_scores.tolist())),
        "at_threshold_id": id_scores.tolist().count(threshold),
        "at_threshold_ood": ood_scores.tolist().count(threshold),
    }


def test_counts_are_cumulative_and_whole_groups() -> None:
    counts = Counts.of([1, 1, 2], [1, 3, 3, 3])
    assert counts.id_at_most.tolist() == [0, 2, 3, 3]
    assert counts.ood_at_most.tolist() == [0, 1, 1, 4]
    assert counts.id_at_most.dtype == counts.ood_at_most.dtype == np.int64
    assert (counts.n_id, counts.n_ood) == (3, 4)


# --- the curve


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_roc_curve_is_scikit_learns_with_id_positive(decimals: int | None) -> None:
    id_scores, ood_scores = random_scores(120, 80, decimals)
    false_positive, true_positive = roc_curve(id_scores, ood_scores)
    scores = -np.concatenate((id_scores, ood_scores))
    expected = sklearn_roc_curve(np.repeat([1, 0], [120, 80]), scores, drop_intermediate=False)
    np.testing.assert_allclose(false_positive, expected[0], atol=1e-15)
    np.testing.assert_allclose(true_positive, expected[1], atol=1e-15)
    area = (np.diff(false_positive) * (true_positive[1:] + true_positive[:-1])).sum() / 2
    assert area == pytest.approx(exact.auroc(id_scores, ood_scores), abs=1e-14)


@settings(max_examples=100, deadline=None)
@given(tied, tied, st.integers(2, 20))
def test_a_thinned_curve_keeps_true_points_and_both_ends(
    id_scores: list[int], ood_scores: list[int], points: int
) -> None:
    whole = list(zip(*(axis.tolist() for axis in roc_curve(id_scores, ood_scores)), strict=True))
    thinned = list(zip(*(axis.tolist() for axis in roc_curve(id_scores, ood_scores, points)), strict=True))
    assert len(thinned) <= points
    assert (thinned[0], thinned[-1]) == ((0, 0), (1, 1))
    assert [point for point in whole if point in set(thinned)] == thinned


def test_a_thinned_curve_is_near_the_whole_one() -> None:
    id_scores, ood_scores = random_scores(5000, 3000)
    whole, thinned = roc_curve(id_scores, ood_scores), roc_curve(id_scores, ood_scores, 200)
    assert 190 <= len(thinned[0]) <= 200
    # From one kept point to the next the curve is at most 2 / 199 long, with some for the rounding to true points.
    assert np.abs(np.interp(whole[0], *thinned) - whole[1]).max() < 2.5 / 199


@pytest.mark.parametrize("points", [1, 0, -3])
def test_a_curve_needs_both_ends(points: int) -> None:
    with pytest.raises(MetricError, match=rf"points is {points}; expected 2 or more"):
        roc_curve([1], [2], points)


# --- bad input

BAD: list[tuple[object, str]] = [
    (
        [1, np.nan, 2, np.nan],
        r"has 2 of 4 values that are not finite, the first \(nan\) at index 1; expected one finite",
    ),
    ([1, 2, np.inf], r"has 1 of 3 values that are not finite, the first \(inf\) at index 2; expected one finite"),
    (
        np.array([-np.inf, 0], np.float32),
        r"has 1 of 2 values that are not finite, the first \(-inf\) at index 0; expected",
    ),
    (
        np.array([0, np.nan], np.float16),
        r"has 1 of 2 values that are not finite, the first \(nan\) at index 1; expected",
    ),
    ([], r"is empty; expected at least one finite score"),
    (np.zeros((3, 1)), r"has shape \(3, 1\); expected one dimension"),
    (1.5, r"has shape \(\); expected one dimension"),
    (["a", "b"], r"has values of type <U1; expected integers or floats"),
    ([1.0, None], r"has values of type object; expected integers or floats"),
    ([1 + 2j], r"has values of type complex128; expected integers or floats"),
    ([True, False], r"has values of type bool; expected integers or floats"),
    ([[1.0], [1.0, 2.0]], r"cannot be converted to an array \(.*\); expected one finite score per image"),
    (torch.ones(2, requires_grad=True), r"cannot be converted to an array \(.*\); expected one finite score per image"),
]


@pytest.mark.parametrize("bad, message", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_bad_scores_are_reported_by_name(name: str, bad: Any, message: str) -> None:
    function = getattr(exact, name)
    with pytest.raises(MetricError, match=f"^id_scores {message}"):
        function(bad, [1.0])
    with pytest.raises(MetricError, match=f"^ood_scores {message}"):
        function([1.0], bad)


@pytest.mark.parametrize("bad, message", BAD)
def test_bad_scores_are_reported_by_the_other_functions_too(bad: Any, message: str) -> None:
    for call in (lambda: evaluate([1.0], bad), lambda: roc_curve([1.0], bad)):
        with pytest.raises(MetricError, match=f"^ood_scores {message}"):
            call()
    with pytest.raises(MetricError, match=f"^id_scores {message}"):
        tpr_threshold(bad)
