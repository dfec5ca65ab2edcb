"""Post-hoc detectors of logits against loops over their formulas and arithmetic with 60 digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import spearmanr, weibull_min
from torch import nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors.openmax import weibull_of

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("temperature_scaling", "entropy", "gen", "kl_matching", "openmax", "doctor")
MARGINS = (0.0, 1e-3, 1.0, 16.0, 17.0, 36.0, 37.0, 38.0, 100.0, 699.0, 740.0, 800.0, 5000.0)


class LogitWorld:
    """Logits of training, validation and test images; about five images in six are classified correctly."""

    def __init__(self, classes: int = 4, images: int = 120, size: float = 4.0) -> None:
        random = np.random.RandomState(0)
        self.classes, self.labels = classes, np.arange(images) % classes
        drawn = random.randn(2, images, classes) + size * np.eye(classes)[self.labels]
        self.train, self.validation = drawn * (1 + 0.3 * random.rand(2, images, 1))
        self.test = 2.5 * random.randn(11, classes) + 1

    def batch(self, logits: np.ndarray, labels: np.ndarray | None = None) -> Batch:
        parts = {"logits": torch.from_numpy(logits).__getitem__}
        if labels is not None:
            parts["labels"] = torch.from_numpy(labels).__getitem__
        return Batch(len(logits), parts, "")

    def fit(self, name: str, **settings: Any) -> Any:
        detector: Detector = registry.get("detector", name)(**settings)
        train, validation = self.batch(self.train, self.labels), self.batch(self.validation, self.labels)
        detector.fit(Classifier(nn.Module(), self.classes), FitData(train, validation))
        return detector

    def score(self, name: str, **settings: Any) -> np.ndarray:
        scores: np.ndarray = self.fit(name, **settings).score(self.batch(self.test)).numpy()
        assert scores.dtype == np.float64
        assert scores.shape == (len(self.test),)
        assert np.isfinite(scores).all()
        return scores


@pytest.fixture
def world() -> LogitWorld:
    return LogitWorld()


def entropy(world: LogitWorld, p: np.ndarray) -> float:
    return math.log(-sum(v * math.log(v) for v in p.tolist()))


def gen(world: LogitWorld, p: np.ndarray, gamma: float = 0.1, top: int = 100) -> float:
    return math.log(sum((v * (1 - v)) ** gamma for v in sorted(p.tolist(), reverse=True)[:top]))


def doctor(world: LogitWorld, p: np.ndarray, temperature: float = 1.0) -> float:
    powers = p ** (1 / temperature)
    g = 1 - sum(v * v for v in (powers / powers.sum()).tolist())
    return math.log(g / (1 - g))


def kl_matching(world: LogitWorld, p: np.ndarray) -> float:
    known = softmax(world.validation, axis=1)
    templates = [known[known.argmax(axis=1) == k].mean(axis=0) for k in range(world.classes)]
    return float(min(sum(v * math.log(v / d) for v, d in zip(p, template, strict=True)) for template in templates))


FORMULAS: list[tuple[str, Callable[..., float], dict[str, Any]]] = [
    ("entropy", entropy, {}),
    ("gen", gen, {}),
    ("gen", gen, {"gamma": 0.7, "top": 2}),
    ("doctor", doctor, {}),
    ("doctor", doctor, {"temperature": 3.0}),
    ("kl_matching", kl_matching, {}),
]


@pytest.mark.parametrize("name, formula, settings", FORMULAS, ids=lambda value: str(value).split(" at ")[0])
def test_equals_a_loop_over_its_formula(
    world: LogitWorld, name: str, formula: Callable[..., float], settings: Any
) -> None:
    expected = [formula(world, p, **settings) for p in softmax(world.test, axis=1)]
    assert world.score(name, **settings) == pytest.approx(expected, rel=1e-9)


def exact(name: str, row: list[float]) -> float:
    """The score, computed with enough digits that 1 - p is never 0."""
    with localcontext(Context(prec=400)):
        powers = [Decimal(value).exp() for value in row]
        total = sum(powers, Decimal())
        p = [power / total for power in powers]
        if name == "entropy":
            return float((-sum((v * v.ln() for v in p), Decimal())).ln())
        if name == "doctor":
            return float((sum((v * (1 - v) for v in p), Decimal()) / sum((v * v for v in p), Decimal())).ln())
        return float(sum(((v * (1 - v)) ** Decimal("0.1") for v in p), Decimal()).ln())


@pytest.mark.parametrize("name", ["entropy", "doctor", "gen"])
def test_is_exact_at_every_margin(name: str) -> None:
    world = LogitWorld(classes=3)
    world.test = np.array([[0, margin, -1.5] for margin in MARGINS[:-2]])
    expected = [exact(name, row) for row in world.test.tolist()]
    assert world.score(name) == pytest.approx(expected, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "kl_matching"])
def test_over_confident_logits_do_not_tie(world: LogitWorld, name: str) -> None:
    world.test = np.zeros((len(MARGINS), 4))
    world.test[:, 2] = MARGINS
    assert len(np.unique(world.score(name))) == len(MARGINS)


# Invariances


@pytest.mark.parametrize("name", [name for name in NAMES if name != "openmax"])
@pytest.mark.parametrize("shift", [-1000.0, 0.5])
def test_a_constant_added_to_the_logits_does_not_matter(world: LogitWorld, name: str, shift: float) -> None:
    before = world.score(name)
    world.validation, world.test = world.validation + shift, world.test + shift
    assert world.score(name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_orders_of_images_and_classes_do_not_matter(world: LogitWorld, name: str) -> None:
    before, random = world.score(name), np.random.RandomState(1)
    images, classes = random.permutation(len(world.labels)), np.array([2, 0, 3, 1])
    world.train, world.validation = world.train[images][:, classes], world.validation[images][:, classes]
    world.labels, world.test = np.argsort(classes)[world.labels[images]], world.test[:, classes]
    assert world.score(name) == pytest.approx(before, rel=1e-9)


def test_doctor_ranks_as_gen_without_its_exponent(world: LogitWorld) -> None:
    world.test = np.random.RandomState(2).randn(200, 4) * 5
    assert spearmanr(world.score("doctor"), world.score("gen", gamma=1.0)).statistic == pytest.approx(1)


# Temperature scaling


def likelihood(world: LogitWorld, temperature: float) -> float:
    logs = torch.log_softmax(torch.from_numpy(world.validation) / temperature, dim=1).numpy()
    return float(-logs[np.arange(len(logs)), world.labels].mean())


def test_temperature_minimises_the_likelihood_of_validation_labels(world: LogitWorld) -> None:
    found = world.fit("temperature_scaling").temperature_
    assert 0.1 < found < 10
    assert likelihood(world, found) < min(likelihood(world, found * factor) for factor in (0.999, 1.001))
    expected = np.log1p(-softmax(world.test / found, axis=1).max(axis=1))
    assert world.score("temperature_scaling") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_temperature_takes_the_scale_of_logits_away(world: LogitWorld, factor: float) -> None:
    before, found = world.score("temperature_scaling"), world.fit("temperature_scaling").temperature_
    world.validation, world.test = factor * world.validation, factor * world.test
    assert world.fit("temperature_scaling").temperature_ == pytest.approx(factor * found, rel=1e-9)
    assert world.score("temperature_scaling") == pytest.approx(before, rel=1e-9)


def test_temperature_has_ends(world: LogitWorld) -> None:
    wrong = np.argsort(np.random.RandomState(1).rand(len(world.labels), 4), axis=1).astype(float)
    world.validation = np.eye(4)[world.labels]
    assert world.fit("temperature_scaling").temperature_ == 0.01
    world.validation = wrong - 100 * np.eye(4)[world.labels]
    assert world.fit("temperature_scaling").temperature_ == 100


# KL matching


def test_classes_that_nothing_is_taken_for_have_no_template(world: LogitWorld) -> None:
    world.validation[:, 3] = -50
    assert world.fit("kl_matching").log_templates_.shape == (3, 4)
    assert len(np.unique(world.score("kl_matching"))) == len(world.test)


def test_templates_are_never_zero(world: LogitWorld) -> None:
    world.validation, world.test = 2000 * world.validation, 2000 * world.test
    assert np.isfinite(world.score("kl_matching")).all()


def test_the_template_of_a_class_is_at_no_distance_from_itself(world: LogitWorld) -> None:
    world.test = world.fit("kl_matching").log_templates_.numpy()
    assert world.score("kl_matching") == pytest.approx(0, abs=1e-12)


# OpenMax


def openmax(
    world: LogitWorld, v: np.ndarray, tail: int | None = None, alpha: int = 10, output: str = "unknown"
) -> float:
    order = sorted(range(len(v)), key=lambda k: -v[k])
    known, unknown, alpha = v.copy(), 0.0, min(alpha, len(v))
    for k in range(len(v)):
        own = [z for z, label in zip(world.train, world.labels, strict=True) if label == k == z.argmax()]
        mean = sum(own) / len(own)
        tails = sorted(math.dist(z, mean) for z in own)[-(tail or max(3, min(20, len(own) // 20))) :]
        shape, scale = weibull_of(np.array([d - tails[0] + 1 for d in tails]))
        x = max(0.0, math.dist(v, mean) - tails[0] + 1)
        weight = max(0.0, (alpha - order.index(k)) / alpha) * (1 - math.exp(-((x / scale) ** shape)))
        known[k], unknown = v[k] * (1 - weight), unknown + v[k] * weight
    p = softmax([*known, unknown])
    chosen = p[-1] if output == "unknown" else 1 - p[:-1].max()
    return math.log(chosen / (1 - chosen))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tail": 20},
        {"tail": 5, "alpha": 2},
        {"output": "known"},
        {"tail": 20, "output": "known"},
        {"tail": 20, "output": "known", "alpha": 1},
    ],
)
def test_openmax_equals_a_loop_over_its_algorithm(world: LogitWorld, settings: dict[str, Any]) -> None:
    assert world.score("openmax", **settings) == pytest.approx(
        [openmax(world, v, **settings) for v in world.test], rel=1e-9
    )


@pytest.mark.parametrize("shape, scale", [(0.5, 2.0), (3.0, 1.5), (40.0, 1.1), (900.0, 1.0)])
def test_weibull_parameters_are_of_greatest_likelihood(shape: float, scale: float) -> None:
    values = scale * np.random.RandomState(0).weibull(shape, size=200)
    found = weibull_of(values)
    assert found == pytest.approx((shape, scale), rel=0.15)
    best = weibull_min.logpdf(values, found[0], 0, found[1]).sum()
    others = [weibull_min.fit(values, floc=0)[::2]]
    others += [(found[0] * a, found[1] * b) for a in (0.999, 1, 1.001) for b in (0.999, 1, 1.001)]
    assert best >= max(weibull_min.logpdf(values, k, 0, lam).sum() for k, lam in others) - 1e-9


def test_openmax_never_revises_a_class_without_a_tail(world: LogitWorld) -> None:
    kept = (world.labels != 1) & ((world.labels != 2) | (np.arange(len(world.labels)) == 2))
    world.train, world.validation, world.labels = world.train[kept], world.validation[kept], world.labels[kept]
    fitted = world.fit("openmax")
    assert torch.isinf(fitted.weibulls_[2]).tolist() == [False, True, True, False]
    assert len(np.unique(world.score("openmax"))) == len(world.test)


def test_openmax_needs_images_that_are_classified_correctly(world: LogitWorld) -> None:
    world.labels = (world.train.argmax(axis=1) + 1) % 4
    with pytest.raises(DataError, match="of 120 images 0 are classified correctly"):
        world.fit("openmax")


# All of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 1000])
def test_two_classes_and_many(name: str, classes: int) -> None:
    world = LogitWorld(classes, images=2 * classes + 20)
    assert len(np.unique(world.score(name))) == len(world.test)


@pytest.mark.parametrize("name", NAMES)
def test_less_confident_images_score_higher(world: LogitWorld, name: str) -> None:
    world.test = np.array([[0.3, 0.0, 0.2, 0.1], [6.0, 0.0, 0.2, 0.1]])
    undecided, confident = world.score(name)
    assert undecided > confident


@pytest.mark.parametrize("top", [4, 10, 100])
def test_gen_counts_at_most_the_classes_there_are(world: LogitWorld, top: int) -> None:
    assert np.array_equal(world.score("gen", top=top), world.score("gen"))


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("gen", {"gamma": 0.0}, "gamma must lie in"),
        ("gen", {"top": 0}, "top be at least 1"),
        ("doctor", {"temperature": -1.0}, "temperature must be positive"),
        ("openmax", {"tail": 1}, "tail must be at least 2"),
        ("openmax", {"output": "both"}, "output must be 'unknown' or 'known'"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*got"):
        registry.get("detector", name)(**settings)
