"""Settings that follow an author's released code where it differs from the paper, against loops over its arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.detectors.map_network import Array, batch, classifier, images_of, maps_of, predicted
from tests.detectors.test_maps import gram, naive_row_sums

pytestmark = pytest.mark.usefixtures("one_thread")

# OpenMax: the shift of libmr


def weibull_by_bisection(values: list[Decimal]) -> tuple[Decimal, Decimal]:
    """Shape and scale of greatest likelihood, with 50 digits: the root of the likelihood's slope in the shape."""
    logs = [value.ln() for value in values]
    mean = sum(logs, Decimal()) / len(logs)

    def slope(shape: Decimal) -> Decimal:
        powers = [(shape * (log - max(logs))).exp() for log in logs]
        return sum(p * log for p, log in zip(powers, logs, strict=True)) / sum(powers, Decimal()) - 1 / shape - mean

    low, high = Decimal("1e-3"), Decimal("1e9")
    for _ in range(110):
        middle = (low * high).sqrt()
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    total = sum(((low * (log - max(logs))).exp() for log in logs), Decimal()) / len(logs)
    return low, (max(logs) + total.ln() / low).exp()


class Logits:
    """Logits of training and test images of three classes."""

    def __init__(self) -> None:
        random = np.random.RandomState(3)
        self.labels = np.arange(90) % 3
        self.train = random.randn(90, 3) + 4 * np.eye(3)[self.labels]
        self.test = 3 * random.randn(9, 3)

    def scores(self, name: str) -> Array:
        detector: Detector = create("detector", parse_spec(name))
        train = self._batch(self.train, self.labels)
        detector.fit(Classifier(nn.Module(), 3), FitData(train, train))
        found: Array = detector.score(self._batch(self.test, None)).numpy()
        return found

    def _batch(self, logits: Array, labels: Array | None) -> Batch:
        parts = {"logits": torch.from_numpy(logits).__getitem__}
        if labels is not None:
            parts["labels"] = torch.from_numpy(labels).__getitem__
        return Batch(len(logits), parts, "")


def openmax(world: Logits, shift: float, tail: int) -> list[float]:
    """Log odds of 'unknown' of the test images, with distances and Weibull distributions in 50 digits."""
    fitted = []
    for k in range(3):
        own = [z for z, label in zip(world.train, world.labels, strict=True) if label == k == z.argmax()]
        mean = sum(own) / len(own)
        largest = sorted(Decimal(math.dist(z, mean)) for z in own)[-tail:]
        moved = Decimal(shift) - largest[0]
        fitted.append((mean, moved, *weibull_by_bisection([d + moved for d in largest])))
    return [log_odds(v, fitted) for v in world.test]


def log_odds(v: Array, fitted: list[tuple[Array, Decimal, Decimal, Decimal]]) -> float:
    order = sorted(range(3), key=lambda k: -v[k])
    revised, unknown = [], 0.0
    for k, (mean, moved, shape, scale) in enumerate(fitted):
        x = max(Decimal(0), Decimal(math.dist(v, mean)) + moved)
        inside = (-((shape * (x / scale).ln()).exp())).exp() if x else Decimal(1)
        weight = (3 - order.index(k)) / 3 * float(1 - inside)
        revised.append(v[k] * (1 - weight))
        unknown += v[k] * weight
    return unknown - math.log(sum(math.exp(value) for value in revised))


@pytest.mark.parametrize(("shift", "tail"), [(1.0, 20), (10000.0, 20), (10000.0, 5), (0.01, 20), (1e6, 20)])
def test_openmax_shifts_distances_as_either_library(shift: float, tail: int) -> None:
    world = Logits()
    with localcontext() as context:
        context.prec = 50
        expected = openmax(world, shift, tail)
    assert world.scores(f"openmax[alpha=3,shift={shift},tail={tail}]") == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_shift_is_that_of_pypi_by_default_and_matters() -> None:
    world = Logits()
    assert np.array_equal(world.scores("openmax"), world.scores("openmax[shift=1.0]"))
    assert np.abs(world.scores("openmax") - world.scores("openmax[shift=10000.0]")).max() > 0.01


@pytest.mark.parametrize("shift", ["0.0", "-1.0"])
def test_a_shift_that_is_not_positive_is_refused(shift: str) -> None:
    with pytest.raises(UserError, match="shift must be positive and finite, got"):
        create("detector", parse_spec(f"openmax[shift={shift}]"))


# Gram matrices: deviations divided by the largest softmax


def gram_by_softmax(net: Classifier, train: Tensor, validation: Tensor, test: Tensor, powers: int) -> Array:
    """The authors' order: deviations of a block, over the image's largest softmax, over their mean in validation."""

    def values(images: Tensor) -> list[list[list[float]]]:
        both = maps_of(net, images)
        return [
            [[v for p in range(1, powers + 1) for v in naive_row_sums(layer[n], p)] for layer in both]
            for n in range(len(images))
        ]

    training, classes = values(train), predicted(net, train)

    def deviations(images: Tensor) -> Array:
        rows = []
        logits = net(images).tolist()
        for value, k, z in zip(values(images), predicted(net, images), logits, strict=True):
            own = [v for v, c in zip(training, classes, strict=True) if c == k]
            confidence = 1 / sum(math.exp(other - max(z)) for other in z)
            row = []
            for block in range(2):
                total = 0.0
                for i, v in enumerate(value[block]):
                    low, high = min(o[block][i] for o in own), max(o[block][i] for o in own)
                    total += max(low - v, 0) / max(abs(low), 1e-6) + max(v - high, 0) / max(abs(high), 1e-6)
                row.append(total / confidence)
            rows.append(row)
        return np.array(rows)

    found: Array = (deviations(test) / np.maximum(deviations(validation).mean(axis=0), 1e-7)).sum(axis=1)
    return found


@pytest.mark.parametrize("powers", [1, 3])
def test_gram_divides_by_the_largest_softmax(powers: int) -> None:
    net = classifier()
    train, validation, test = images_of(18, 0), images_of(6, 1), 1.5 * images_of(6, 2)
    detector = gram(f"gram[by_softmax=true,powers={powers}]", net, train, validation)
    scores = detector.score(batch(detector, net, test)).numpy()
    with torch.no_grad():
        expected = gram_by_softmax(net, train, validation, test, powers)
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-6)
    plain = gram(f"gram[powers={powers}]", net, train, validation)
    assert np.abs(plain.score(batch(plain, net, test)).numpy() - scores).max() > 1e-3
