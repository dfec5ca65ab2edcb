"""CARef and CADRef, against float64 loops over their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from tests.detectors import feature_world
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = 12
CONFIDENCES = ("energy", "max_logit", "msp", "gen")


def signed_world(units: int = UNITS, classes: int = 3, images: int = 60) -> FeatureWorld:
    """Features of both signs, with biases for which energies are positive."""
    world = feature_world.signed_world(units, classes, images)
    world.bias = world.bias + 50 * units**0.5
    return world


def means_of(world: FeatureWorld) -> dict[int, list[float]]:
    """The mean of each class's own predictions."""
    rows: dict[int, list[list[float]]] = {}
    for row in world.features.astype(np.float64).tolist():
        rows.setdefault(int(world.logits(np.array([row]))[0].argmax()), []).append(row)
    return {k: [sum(column) / len(own) for column in zip(*own, strict=True)] for k, own in rows.items()}


def caref(world: FeatureWorld, f: list[float]) -> float:
    mean = means_of(world)[int(world.logits(np.array([f]))[0].argmax())]
    return sum(abs(z - m) for z, m in zip(f, mean, strict=True)) / sum(abs(z) for z in f)


def confidence(logits: np.ndarray, kind: str) -> float:
    if kind == "gen":
        p = sorted(softmax(logits).tolist())[-max(10, len(logits) // 10) :]
        return 1 / sum(float(q**0.1 * (1 - q) ** 0.1) for q in p)
    found = {"energy": logsumexp(logits), "max_logit": max(logits), "msp": max(softmax(logits))}
    return float(found[kind])


def cadref(world: FeatureWorld, f: list[float], confidence_kind: str = "energy") -> float:
    logits = world.logits(np.array([f]))[0]
    known = [confidence(row, confidence_kind) for row in world.logits(world.features)]
    k = int(logits.argmax())
    raising = lowering = 0.0
    for z, m, w in zip(f, means_of(world)[k], world.weight[k], strict=True):
        if (z - m) * w > 0:
            raising += abs(z - m)
        elif (z - m) * w < 0:
            lowering += abs(z - m)
    size = sum(abs(z) for z in f)
    return raising / size / confidence(logits, confidence_kind) + lowering / size / (sum(known) / len(known))


def test_caref_equals_a_loop_over_its_formula() -> None:
    world = signed_world()
    found = world.score("caref")
    assert found == pytest.approx([caref(world, f) for f in world.test.tolist()], rel=1e-6)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize("kind", CONFIDENCES)
def test_cadref_equals_a_loop_over_its_formula(kind: str, classes: int) -> None:
    world = signed_world(classes=classes)
    world.weight /= 4  # of a softmax that does not saturate
    world.bias /= 4
    found = world.score("cadref", confidence=kind)
    assert found == pytest.approx([cadref(world, f, kind) for f in world.test.tolist()], rel=1e-6)
    assert len(np.unique(found)) == len(found)
    assert (found == world.score("cadref")).all() == (kind == "energy")


@pytest.mark.parametrize("units", [8, 64, 2048])
@pytest.mark.parametrize("classes", [2, 5])
def test_at_every_width_and_with_two_classes(classes: int, units: int) -> None:
    world = signed_world(units, classes)
    for name, formula in (("caref", caref), ("cadref", cadref)):
        found = world.score(name)
        assert found[:2] == pytest.approx([formula(world, f) for f in world.test[:2].tolist()], rel=1e-6)
        assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("name", ["caref", "cadref"])
def test_orders_of_images_units_and_classes_do_not_matter(name: str) -> None:
    world = signed_world()
    before = world.score(name)
    world.reorder()
    assert world.score(name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", ["caref", "cadref"])
def test_the_unit_of_features_does_not_matter(name: str) -> None:
    world = signed_world()
    before = world.score(name)
    for field in ("features", "validation", "test"):
        setattr(world, field, 4 * getattr(world, field))
    world.weight = world.weight / 4
    assert world.score(name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", ["caref", "cadref"])
def test_labels_do_not_matter(name: str) -> None:
    world = signed_world()
    before = world.score(name)
    world.labels = world.labels[::-1].copy()
    assert np.array_equal(world.score(name), before)


@pytest.mark.parametrize("name", ["caref", "cadref"])
def test_scores_do_not_depend_on_the_block_that_an_image_is_in(name: str) -> None:
    world = signed_world()
    world.test = np.random.RandomState(8).randn(300, UNITS).astype(np.float32)
    fitted = world.fit(name)
    parts = [fitted.score(world.batch(fitted, piece)).numpy() for piece in np.split(world.test, [1, 140])]
    assert np.concatenate(parts) == pytest.approx(world.score(name), rel=1e-6)


def test_with_one_confidence_for_all_images_cadref_is_caref() -> None:
    world = signed_world()
    world.bias += 1e9
    assert 1e9 * world.score("cadref") == pytest.approx(world.score("caref"), rel=1e-6)


def test_a_unit_that_the_class_does_not_use_counts_in_caref_only() -> None:
    world = signed_world()
    world.weight[:, 3] = 0
    before = world.score("caref"), world.score("cadref")
    world.test[:, 3] += 2 * np.sign(world.test[:, 3])
    size = abs(world.test).sum(axis=1)
    assert world.score("cadref") * size / (size - 2) == pytest.approx(before[1], rel=1e-9)
    assert world.score("caref") * size / (size - 2) != pytest.approx(before[0], rel=1e-3)


def test_a_class_that_is_never_predicted_has_the_mean_of_all() -> None:
    world = signed_world()
    world.features = world.features[world.logits(world.features).argmax(axis=1) != 1]
    world.labels = world.labels[: len(world.features)]
    strange = world.logits(world.test).argmax(axis=1) == 1
    assert strange.any()
    mean = world.features.astype(np.float64).mean(axis=0)
    expected = abs(world.test - mean).sum(axis=1) / abs(world.test).sum(axis=1)
    assert world.score("caref")[strange] == pytest.approx(expected[strange], rel=1e-6)
    assert np.isfinite(world.score("cadref")).all()


@pytest.mark.parametrize("name", ["caref", "cadref"])
def test_degenerate_features(name: str) -> None:
    world = signed_world()
    world.test[0] = 0
    found = world.score(name)
    assert found[0] > 1e6 * found[1:].max()  # no size to relate the distance to
    assert np.isfinite(world.score(name)).all()
    world.features, world.labels = world.features[:3], world.labels[:3]
    assert np.isfinite(world.score(name)).all()
    world.features[:], world.test[:] = 0.5, 0.5
    assert world.score(name).tolist() == [0.0] * 9


def test_a_confidence_that_is_not_positive() -> None:
    world = signed_world()
    logits = world.logits(world.features)
    world.bias = world.bias - logsumexp(logits, axis=1).mean() + 1
    world.test[:3] = world.features[logits.max(axis=1).argsort()[-3:]]
    energies = logsumexp(world.logits(world.test), axis=1)
    assert energies.min() < 0 < energies.max()
    found, relative = world.score("cadref"), world.score("caref")
    assert found[energies < 0].min() > 1e3 * relative.max()
    world.bias -= 2
    with pytest.raises(DataError, match=r"confidence 'energy', whose mean over the training images is -1 and must be"):
        world.score("cadref")
    assert np.isfinite(world.score("cadref", confidence="msp")).all()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence must be one of energy, max_logit, msp, gen, got 'entropy'"):
        registry.get("detector", "cadref")(confidence="entropy")


def test_the_grid_has_every_confidence() -> None:
    cls: Any = registry.get("detector", "cadref")
    assert cls.grid == {"confidence": CONFIDENCES}
