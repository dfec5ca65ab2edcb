"""Detectors that read logits, against exact arithmetic and other implementations."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("msp", "max_logit", "energy", "confidence", "gan_confidence", "joint")
MARGINS = (0.0, 1e-3, 1.0, 10.0, 16.0, 17.0, 18.0, 36.0, 37.0, 38.0, 40.0, 100.0, 101.0, 699.0, 700.0, 700.5)
ROWS = st.tuples(st.integers(1, 5), st.integers(2, 12))
LOGITS = ROWS.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-300, 300)))


def detector(name: str, **settings: Any) -> Detector:
    plugin: Detector = registry.get("detector", name)(**settings)
    return plugin


def score(name: str, logits: np.ndarray, **settings: Any) -> np.ndarray:
    chosen = detector(name, **settings)
    batch = Batch(len(logits), {"logits": torch.from_numpy(logits).__getitem__}, name)
    scores: np.ndarray = chosen.score(batch).numpy()
    assert scores.dtype == np.float64
    assert scores.shape == (len(logits),)
    return scores


def with_margin(margins: tuple[float, ...] | np.ndarray, classes: int, level: float = 0.0) -> np.ndarray:
    """Logits of one class above all others, which are equal."""
    logits = np.full((len(margins), classes), level)
    logits[:, 1] += margins
    return logits


def exact_log_one_minus_max(logits: np.ndarray) -> list[float]:
    """log(1 - p_max) of each row with 60 digits; one of several tied classes counts as the largest."""
    with localcontext(Context(prec=60)):
        rows = [sorted(Decimal(value).exp() for value in row) for row in logits.tolist()]
        return [float((sum(row[:-1], Decimal()) / sum(row, Decimal())).ln()) for row in rows]


# Maximum softmax probability


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_msp_is_exact_at_every_margin(classes: int) -> None:
    logits = with_margin(MARGINS, classes)
    assert score("msp", logits) == pytest.approx(exact_log_one_minus_max(logits), rel=1e-13)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("scale", [1, 10, 100])
def test_msp_is_exact_on_random_logits(classes: int, scale: int) -> None:
    logits = scale * np.random.RandomState(0).randn(20 if classes < 1000 else 4, classes)
    assert score("msp", logits) == pytest.approx(exact_log_one_minus_max(logits), rel=1e-11, abs=1e-14)


@given(LOGITS)
@settings(deadline=None, max_examples=50)
def test_msp_is_exact_on_any_logits(logits: np.ndarray) -> None:
    assert score("msp", logits) == pytest.approx(exact_log_one_minus_max(logits), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
def test_msp_falls_strictly_with_the_margin(classes: int) -> None:
    margins = np.concatenate([np.linspace(0, 60, 6001), np.linspace(61, 700, 6001)])
    scores = score("msp", with_margin(margins, classes))
    assert (np.diff(scores) < 0).all()
    assert np.isfinite(scores).all()


def test_msp_of_two_classes_is_minus_softplus_of_the_margin() -> None:
    margins = np.array([-700.0, -3.0, 0.0, 0.5, 40.0])
    assert score("msp", with_margin(margins, 2)) == pytest.approx(-np.logaddexp(0, abs(margins)), rel=1e-14)


@pytest.mark.parametrize("tied", [2, 3, 5])
def test_msp_leaves_exactly_one_of_tied_classes_out(tied: int) -> None:
    logits = np.full((4, 5), -1e3)
    logits[:, :tied] = [[0.0], [3.0], [-50.0], [700.0]]
    assert score("msp", logits) == pytest.approx(np.log(1 - 1 / tied), rel=1e-12)


def test_msp_does_not_care_which_class_wins() -> None:
    row = np.random.RandomState(0).randn(7)
    scores = score("msp", np.stack([np.roll(row, k) for k in range(7)]))
    assert scores == pytest.approx(scores[0], rel=1e-13)


@pytest.mark.parametrize("shift", [-1000.0, 0.5, 1e5])
def test_msp_ignores_a_constant_added_to_the_logits(shift: float) -> None:
    logits = 5 * np.random.RandomState(0).randn(200, 10)
    assert score("msp", logits + shift) == pytest.approx(score("msp", logits), rel=1e-9, abs=1e-9)


def test_msp_orders_as_the_softmax_where_that_is_not_saturated() -> None:
    logits = 2 * np.random.RandomState(0).randn(2000, 10)
    largest = softmax(logits, axis=1).max(axis=1)
    assert largest.max() < 1 - 1e-9
    assert spearmanr(score("msp", logits), -largest).statistic == pytest.approx(1, abs=1e-12)
    assert np.array_equal(np.argsort(score("msp", logits)), np.argsort(-largest))
    assert score("msp", logits) == pytest.approx(np.log1p(-largest), rel=1e-6)


def test_msp_never_exceeds_that_of_an_undecided_classifier() -> None:
    logits = np.random.RandomState(0).randn(500, 10)
    assert (score("msp", logits) < np.log(9 / 10)).all()


# Maximum logit and energy


def test_max_logit_is_the_negative_largest_logit() -> None:
    logits = np.random.RandomState(0).randn(50, 10)
    assert score("max_logit", logits).tolist() == [-max(row) for row in logits.tolist()]


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 2.0, 1000.0])
def test_energy_is_that_of_scipy(temperature: float) -> None:
    logits = 20 * np.random.RandomState(0).randn(50, 10)
    expected = -temperature * logsumexp(logits / temperature, axis=1)
    assert score("energy", logits, temperature=temperature) == pytest.approx(expected, rel=1e-12)


def test_energy_temperature_is_one_by_default() -> None:
    assert detector("energy").settings == {"temperature": 1.0}


@given(LOGITS, st.floats(1e-3, 10))
@settings(deadline=None, max_examples=50)
def test_energy_lies_within_log_k_temperatures_of_the_largest_logit(logits: np.ndarray, temperature: float) -> None:
    gap = score("max_logit", logits) - score("energy", logits, temperature=temperature)
    assert (gap >= -1e-9).all()
    assert (gap <= temperature * np.log(logits.shape[1]) + 1e-9).all()


def test_energy_of_a_cold_classifier_is_its_largest_logit() -> None:
    logits = 20 * np.random.RandomState(0).randn(50, 10)
    gaps = [abs(score("energy", logits, temperature=t) - score("max_logit", logits)).max() for t in (1, 0.1, 1e-3)]
    assert all(later < earlier for earlier, later in pairwise(gaps))
    assert gaps[-1] < 1e-6


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_energy_refuses_other_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        detector("energy", temperature=temperature)


def test_energy_refuses_other_temperatures_with_a_sentence() -> None:
    with pytest.raises(UserError, match=r"'energy\[temperature=0\]' cannot be created: temperature must be positive"):
        create("detector", parse_spec("energy[temperature=0]"))


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_over_confident_logits_do_not_tie(name: str) -> None:
    margins = np.random.RandomState(0).uniform(37, 700, 5000)
    scores = score(name, with_margin(margins, 10))
    assert len(np.unique(scores)) == len(np.unique(margins))
    assert np.array_equal(np.argsort(scores), np.argsort(-margins))


@pytest.mark.parametrize("name", NAMES)
def test_less_confident_images_score_higher(name: str) -> None:
    confident, undecided = score(name, with_margin((8.0, 0.5), 10))
    assert undecided > confident


@pytest.mark.parametrize("name", NAMES)
def test_only_logits_are_asked_for(name: str) -> None:
    found = detector(name)
    assert found.needs == {"logits"}
    assert found.passes == 0
    assert type(found).fit is Detector.fit
    assert found.title
    assert found.paper


@pytest.mark.parametrize("name", NAMES)
def test_scores_leave_the_logits_alone(name: str) -> None:
    logits = np.random.RandomState(0).randn(50, 10)
    before = logits.copy()
    score(name, logits)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint"])
def test_detectors_of_the_paper_are_msp_on_their_own_recipe(name: str) -> None:
    logits = 30 * np.random.RandomState(0).randn(500, 10)
    assert np.array_equal(score(name, logits), score("msp", logits))
    assert detector(name).recipe == name
    assert registry.get("recipe", name).name == name
    assert detector(name).settings == {}


@pytest.mark.parametrize("name", ["msp", "max_logit", "energy"])
def test_post_hoc_detectors_name_no_recipe(name: str) -> None:
    assert detector(name).recipe is None
