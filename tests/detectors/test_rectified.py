"""Detectors that change the feature and apply the head to it, GradNorm, and the sanity baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp

from oodbench.benchmark import Batch
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._rectified import pooled_percentile
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = 12


@pytest.fixture
def world() -> FeatureWorld:
    """Features after a ReLU, some exactly 0. Those to score are float64, in which every formula is exact."""
    world = FeatureWorld(units=UNITS)
    world.test = world.test.astype(np.float64)
    world.features[np.random.RandomState(5).rand(*world.features.shape) < 0.2] = 0
    world.test[np.random.RandomState(6).rand(*world.test.shape) < 0.2] = 0
    return world


def energy(world: FeatureWorld, shaped: list[float], weight: np.ndarray | None = None) -> float:
    weight = world.weight if weight is None else weight
    return -float(logsumexp([sum(w * z for w, z in zip(row, shaped, strict=True)) for row in weight] + world.bias))


def react(world: FeatureWorld, f: list[float], percentile: float = 90.0) -> float:
    clip = np.percentile(world.features.astype(np.float64), percentile)
    return energy(world, [min(z, clip) for z in f])


def vra(
    world: FeatureWorld, f: list[float], low: float = 60.0, high: float = 90.0, gamma: float = 0.0, pooled: bool = False
) -> float:
    shaped = []
    for unit, z in enumerate(f):
        known = world.features.astype(np.float64) if pooled else world.features[:, unit].astype(np.float64)
        a, b = np.percentile(known, low), np.percentile(known, high)
        shaped.append(0 if z < a else b if z > b else z + gamma)
    return energy(world, shaped)


def dice(world: FeatureWorld, f: list[float], percentile: float = 90.0) -> float:
    contribution = world.weight * world.features.astype(np.float64).mean(axis=0)
    return energy(world, f, np.where(contribution > np.percentile(contribution, percentile), world.weight, 0))


def split(f: list[float], percentile: float) -> tuple[list[float], float, float]:
    kept = sorted(f, reverse=True)[: len(f) - round(len(f) * percentile / 100)]
    pruned = [z if z >= kept[-1] else 0.0 for z in f]
    return pruned, sum(f), sum(pruned)


def ash(world: FeatureWorld, f: list[float], percentile: float = 90.0, variant: str = "s") -> float:
    pruned, before, after = split(f, percentile)
    count = sum(z > 0 for z in pruned)
    shaped = {
        "p": pruned,
        "s": [z * np.exp(before / after) for z in pruned],
        "b": [before / count if z > 0 else 0.0 for z in pruned],
    }
    return energy(world, shaped[variant])


def scale(world: FeatureWorld, f: list[float], percentile: float = 85.0) -> float:
    _, before, after = split(f, percentile)
    return energy(world, [z * np.exp(before / after) for z in f])


def gradnorm(world: FeatureWorld, f: list[float], temperature: float = 1.0) -> float:
    weight = torch.tensor(world.weight, requires_grad=True)
    logits = weight @ torch.tensor(f, dtype=torch.float64) + torch.from_numpy(world.bias)
    F.log_softmax(logits / temperature, dim=0).mean().backward()
    assert weight.grad is not None
    return -float(weight.grad.abs().sum())


FORMULAS: list[tuple[str, Callable[..., float], dict[str, Any]]] = [
    *[("react", react, {"percentile": percentile}) for percentile in (90.0, 50.0, 99.9)],
    ("vra", vra, {}),
    ("vra", vra, {"low": 30.0, "high": 75.0, "gamma": 0.5}),
    ("vra", vra, {"low": 30.0, "pooled": True}),
    *[("dice", dice, {"percentile": percentile}) for percentile in (90.0, 70.0, 0.0)],
    *[("ash", ash, {"variant": v, "percentile": p}) for v in ("s", "b", "p") for p in (90.0, 65.0, 0.0)],
    *[("scale", scale, {"percentile": percentile}) for percentile in (85.0, 65.0)],
    ("gradnorm", gradnorm, {}),
    ("gradnorm", gradnorm, {"temperature": 10.0}),
]
NAMES = list(dict.fromkeys(name for name, _, _ in FORMULAS))


@pytest.mark.parametrize("name, formula, settings", FORMULAS, ids=lambda value: str(value).split(" at ")[0])
def test_equals_a_loop_over_its_formula(
    world: FeatureWorld, name: str, formula: Callable[..., float], settings: Any
) -> None:
    found = world.score(name, **settings)
    assert found == pytest.approx([formula(world, f, **settings) for f in world.test.tolist()], rel=1e-9, abs=1e-12)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("name", NAMES)
def test_orders_of_images_units_and_classes_do_not_matter(world: FeatureWorld, name: str) -> None:
    before = world.score(name)
    world.reorder()
    assert world.score(name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", ["react", "dice", "ash", "scale", "vra"])
def test_a_constant_added_to_the_biases_is_taken_from_the_energy(world: FeatureWorld, name: str) -> None:
    before = world.score(name)
    world.bias = world.bias + 2.5
    assert world.score(name) == pytest.approx(before - 2.5, rel=1e-9)


@pytest.mark.parametrize(
    "name, settings", [("react", {"percentile": 99.999}), ("ash", {"variant": "p", "percentile": 0.0})]
)
def test_without_a_change_of_the_feature_it_is_energy(world: FeatureWorld, name: str, settings: Any) -> None:
    world.test = world.features[:5].astype(np.float64) / 2
    assert world.score(name, **settings) == pytest.approx(world.score("energy"), rel=1e-9)


@pytest.mark.parametrize("name, settings", [("ash", {"variant": "s"}), ("ash", {"variant": "b"}), ("scale", {})])
def test_the_scale_of_features_scales_logits_alone(world: FeatureWorld, name: str, settings: Any) -> None:
    world.bias[:] = 0
    before = world.score(name, **settings)
    world.features, world.test, world.weight = 4 * world.features, 4 * world.test, world.weight / 4
    assert world.score(name, **settings) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("variant", ["s", "b", "p"])
def test_ties_and_zeros_are_treated_alike_in_whatever_order(world: FeatureWorld, variant: str) -> None:
    world.test = np.zeros((3, UNITS), dtype=np.float32)
    world.test[1, [3, 7, 8]], world.test[2, 5] = 2, 1
    world.weight[:] = np.arange(3)[:, None]  # all units are equal
    before = world.score("ash", variant=variant, percentile=70.0)
    world.test = world.test[:, ::-1].copy()
    assert world.score("ash", variant=variant, percentile=70.0) == pytest.approx(before, rel=1e-12)
    assert world.score("scale")[0] == pytest.approx(-logsumexp(world.bias))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 200])
def test_two_classes_and_many(name: str, classes: int) -> None:
    found = FeatureWorld(classes=classes, units=UNITS, images=2 * classes).score(name)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("name", ["ash", "scale"])
def test_negative_features_are_refused_where_sums_would_mean_nothing(world: FeatureWorld, name: str) -> None:
    world.features[3, 1] = -0.25
    with pytest.raises(DataError, match=f"'{name}' takes features to be activations after a ReLU.*down to -0.25"):
        world.score(name)


@pytest.mark.parametrize(
    "name, formula, settings",
    [("react", react, {}), ("vra", vra, {}), ("dice", dice, {"percentile": 90.0}), ("gradnorm", gradnorm, {})],
)
def test_negative_features_are_fine_elsewhere(
    world: FeatureWorld, name: str, formula: Callable[..., float], settings: Any
) -> None:
    world.features, world.test = world.features - 0.5, world.test - 0.5
    found = world.score(name, **settings)
    assert found == pytest.approx([formula(world, f, **settings) for f in world.test.tolist()], rel=1e-9)


def test_percentiles_that_leave_nothing_are_told(world: FeatureWorld) -> None:
    world.features *= np.random.RandomState(4).rand(*world.features.shape) < 0.05
    with pytest.raises(DataError, match="90th percentile of the training features is 0: clipping there leaves nothing"):
        world.score("react")
    for pooled in (False, True):
        with pytest.raises(DataError, match="90th percentile of every unit's training features is at most 0"):
            world.score("vra", pooled=pooled)
    with pytest.raises(DataError, match="Of 12 features none is above the 99th percentile"):
        world.score("ash", percentile=99.0)
    world.features[:] = 0
    with pytest.raises(DataError, match="No weight of the head contributes more than the 90th percentile"):
        world.score("dice", percentile=90.0)


@pytest.mark.parametrize("percentile", [0.0, 10.0, 50.0, 90.0, 99.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_pooled_percentiles_are_numpys(world: FeatureWorld, percentile: float, sign: int) -> None:
    random = np.random.RandomState(7)
    features = sign * (random.randn(9000, 7) * 10.0 ** random.randint(-30, 30, (9000, 7))).astype(np.float32)
    features[:40] = 0
    batch = world.batch(registry.get("detector", "react")(), features[:, :7])
    exact = np.percentile(features.astype(np.float64), percentile)
    assert pooled_percentile(batch, percentile) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("react", {"percentile": 100.0}, "percentile"),
        ("dice", {"percentile": -1.0}, "percentile"),
        ("ash", {"percentile": 100.0}, "percentile"),
        ("ash", {"variant": "rand"}, "variant"),
        ("scale", {"percentile": float("nan")}, "percentile"),
        ("vra", {"low": 90.0, "high": 60.0}, "low must be below high"),
        ("vra", {"high": 100.0}, "high"),
        ("gradnorm", {"temperature": 0.0}, "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*got"):
        registry.get("detector", name)(**settings)


# Sanity baselines


def hashed(pixels: np.ndarray, **settings: Any) -> np.ndarray:
    images = torch.from_numpy(pixels).float().div(255)
    found: np.ndarray = (
        registry.get("detector", "random")(**settings)
        .score(Batch(len(images), {"images": images.__getitem__}, "random"))
        .numpy()
    )
    return found


def test_random_scores_are_a_uniform_function_of_the_image() -> None:
    pixels = np.random.RandomState(0).randint(256, size=(4000, 1, 4, 4)).astype(np.uint8)
    pixels[1] = pixels[0]
    found = hashed(pixels)
    assert found[0] == found[1]
    assert len(np.unique(found)) == 3999
    assert np.histogram(found, 10, (0, 1))[0] == pytest.approx(400, abs=80)
    assert abs(np.corrcoef(found, pixels.mean(axis=(1, 2, 3)))[0, 1]) < 0.06
    assert np.array_equal(hashed(pixels[::-1].copy()), found[::-1])
    assert abs(np.corrcoef(found, hashed(pixels, salt=1))[0, 1]) < 0.06


def test_the_constant_row_looks_at_nothing() -> None:
    constant = registry.get("detector", "constant")()
    assert constant.needs == frozenset()
    assert constant.score(Batch(3, {}, "constant")).tolist() == [0, 0, 0]
