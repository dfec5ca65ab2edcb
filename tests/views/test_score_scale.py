"""The axis of scores in histograms: linear where that shows them, else asinh, with numbers at the right places."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest

from oodbench.benchmark.views.plots.histograms import BETWEEN, NARROWEST, PANEL, height_limit
from oodbench.benchmark.views.plots.measure import width_of
from oodbench.benchmark.views.plots.score_scale import (
    ASINH,
    CENTRAL,
    SHARE,
    ScoreScale,
    covered,
    scale_ticks,
    score_scale,
    short_number,
)
from oodbench.benchmark.views.plots.style import style_named, styled

random = np.random.default_rng(0)
KNOWN = random.normal(0, 1, 1000)
HEAVY = 10 ** random.uniform(0, 6, 1000)
"""Scores such as those of Gram matrices: most of a linear axis is empty."""


def ranges(id_scores: np.ndarray, ood_scores: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(np.quantile(scores, CENTRAL)) for scores in (id_scores, ood_scores)]


def test_scores_that_a_linear_axis_shows_stay_linear() -> None:
    scale = score_scale(KNOWN, [KNOWN + 2, KNOWN + 6])
    assert scale.name == ""
    assert np.allclose(np.diff(scale.place(np.linspace(-1, 1, 5))), np.diff(scale.place(np.linspace(-1, 1, 5)))[0])


@pytest.mark.parametrize(
    "id_scores, ood_scores",
    [
        (np.abs(KNOWN), HEAVY),
        (-HEAVY, KNOWN),
        (-1 + 1e-6 * np.exp(3 * KNOWN), -random.uniform(0.1, 1, 1000)),  # of maximum softmax probabilities
        (np.where(KNOWN > 0.3, np.abs(KNOWN), 0.0), HEAVY),  # more than half are the same
    ],
)
def test_scores_that_a_linear_axis_hides_are_seen(id_scores: np.ndarray, ood_scores: np.ndarray) -> None:
    scale = score_scale(id_scores, [ood_scores])
    linear = ScoreScale(scale.low, scale.high)
    assert scale.name == ASINH
    assert covered(linear, ranges(id_scores, ood_scores)) < SHARE < 2 * covered(scale, ranges(id_scores, ood_scores))
    used = [[np.count_nonzero(one.counts(s, 48)) for s in (id_scores, ood_scores)] for one in (scale, linear)]
    assert min(used[0]) > 2 * min(used[1])
    assert 0.99 * len(id_scores) <= scale.counts(id_scores, 48).sum() <= len(id_scores)


def test_a_place_is_a_score_and_back() -> None:
    for scale in (score_scale(KNOWN, [KNOWN]), score_scale(np.abs(KNOWN), [HEAVY])):
        places = np.linspace(0, 1, 9)
        assert np.allclose(scale.place(np.array([scale.score(place) for place in places])), places)
        assert (scale.score(0), scale.score(1)) == pytest.approx((scale.low, scale.high))


@pytest.mark.parametrize(
    "scale",
    [
        score_scale(np.abs(KNOWN), [HEAVY]),
        score_scale(KNOWN, [KNOWN]),
        score_scale(1e4 + KNOWN, [1e4 + KNOWN]),
        score_scale(1e-12 * KNOWN, [1e-9 * HEAVY]),
    ],
)
def test_numbers_on_the_axis_are_at_their_scores(scale: ScoreScale) -> None:
    ticks = scale_ticks(scale, 1.2)
    assert ticks
    assert len({text for _, text, _ in ticks}) == len(ticks)
    for place, text, _ in ticks:
        assert float(scale.place(float(text))) == pytest.approx(place / 1.2, abs=0.02), text
    assert [float(text) for _, text, _ in ticks] == sorted(float(text) for _, text, _ in ticks)


def scales_of_any_kind() -> Iterator[ScoreScale]:
    """Linear and asinh axes of scores of any size, down to those that differ in their sixth digit alone."""
    for exponent in (-12, -3, 0, 4, 9):
        for middle in (0.0, 10.0**exponent, -3.7 * 10.0**exponent):
            for spread in (1.0, 0.05, 1e-3, 1e-6):
                spanned = spread * (abs(middle) or 10.0**exponent)
                yield ScoreScale(middle - 0.41 * spanned, middle + 0.59 * spanned)
                for share in (1e-3, 0.2):
                    ends = middle - 0.01 * spanned, middle + spanned
                    yield ScoreScale(*ends, centre=middle, unit=share * spanned)


@pytest.mark.parametrize("panel", [NARROWEST, 1.0, PANEL])
def test_every_axis_has_two_numbers_that_can_be_read(panel: float) -> None:
    beyond = BETWEEN + NARROWEST
    with styled(style_named("screen")):
        for scale in scales_of_any_kind():
            ticks = scale_ticks(scale, panel, beyond)
            assert len(ticks) >= 2, scale
            ends = [(middle - width_of(text) / 2, middle + width_of(text) / 2) for _, text, middle in ticks]
            assert ends[0][0] >= -1e-9
            assert ends[-1][1] <= panel + beyond + 1e-9
            assert all(left[1] < right[0] for left, right in pairwise(ends))
            for place, text, _ in ticks:
                value = float(Decimal(text) + Decimal(ticks[0][1]) if text.startswith("+") else Decimal(text))
                assert float(scale.place(value)) == pytest.approx(place / panel, abs=1e-6), text


def test_equal_scores_have_an_axis() -> None:
    assert score_scale(np.full(5, 1e20), [np.full(3, 1e20)]).counts(np.full(5, 1e20), 4).sum() == 5
    scale = score_scale(np.zeros(5), [np.zeros(3)])
    assert (scale.low, scale.high, scale.name) == (-0.5, 0.5, "")
    assert scale.counts(np.zeros(5), 4).sum() == 5


def test_short_numbers() -> None:
    assert [short_number(value, digits) for value, digits in ((0, 3), (-0.25, 2), (2000, -3), (2e6, -6))] == [
        "0", "-0.25", "2000", "2e6"
    ]  # fmt: skip
    assert short_number(1.25e-7, 9) == "1.25e-7"


def test_one_high_bin_does_not_make_the_others_flat() -> None:
    flat, spike = np.full(48, 0.02), np.zeros(48)
    spike[0] = 0.9
    assert height_limit([flat, flat]) == 0.02
    assert height_limit([flat, spike]) == pytest.approx(0.025)
    assert height_limit([spike, np.roll(spike, 1)]) == 0.9  # nothing else is there to be seen
