"""Detectors of penultimate features against loops over their formulas, and their invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def world(world: FeatureWorld) -> FeatureWorld:
    """Training features in float64 as well."""
    world.features = world.features.astype(np.float64)
    return world


def unit(x: np.ndarray) -> np.ndarray:
    length: float = np.sqrt(sum(v * v for v in x.astype(np.float64).tolist()))
    return x.astype(np.float64) / length


def means(world: FeatureWorld) -> list[np.ndarray]:
    return [world.features[world.labels == k].astype(np.float64).mean(axis=0) for k in np.unique(world.labels)]


def within(world: FeatureWorld) -> np.ndarray:
    total = np.zeros((world.features.shape[1],) * 2)
    for k, mean in zip(np.unique(world.labels), means(world), strict=True):
        for f in world.features[world.labels == k].astype(np.float64):
            total = total + np.outer(f - mean, f - mean)
    return np.asarray(total / len(world.features))


def quadratic(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    d = x.astype(np.float64) - mean
    return float(d @ np.linalg.solve(covariance, d))


def around(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features.T, bias=True)


def mahalanobis(world: FeatureWorld, f: np.ndarray) -> float:
    return min(quadratic(f, mean, within(world)) for mean in means(world))


def relative_mahalanobis(world: FeatureWorld, f: np.ndarray) -> float:
    return mahalanobis(world, f) - quadratic(f, *around(world.features))


def ssd(world: FeatureWorld, f: np.ndarray) -> float:
    return quadratic(unit(f), *around(np.stack([unit(g) for g in world.features])))


def ssd_classes(world: FeatureWorld, f: np.ndarray) -> float:
    z = np.stack([unit(g) for g in world.features])
    return min(quadratic(unit(f), *around(z[world.labels == k])) for k in np.unique(world.labels))


def gmm(world: FeatureWorld, f: np.ndarray, pseudo_images: float = 1.0) -> float:
    logs = []
    for k, mean in zip(np.unique(world.labels), means(world), strict=True):
        own = world.features[world.labels == k]
        weight = len(own) + pseudo_images
        covariance = (len(own) * around(own)[1] + pseudo_images * within(world)) / weight
        share = np.log(len(own) / len(world.labels))
        logs.append(share - quadratic(f, mean, covariance) / 2 - np.linalg.slogdet(covariance)[1] / 2)
    return float(-logsumexp(logs) - np.linalg.slogdet(within(world))[1] / 2)


def knn(world: FeatureWorld, f: np.ndarray, k: int = 5) -> float:
    return sorted(float(np.linalg.norm(unit(f) - unit(g))) for g in world.features)[k - 1]


def nnguide(world: FeatureWorld, f: np.ndarray, k: int = 10) -> float:
    guided = sorted((float(unit(f) @ unit(g)) * logsumexp(world.logits(g)) for g in world.features), reverse=True)
    return float(-logsumexp(world.logits(f)) * np.mean(guided[:k]))


def relation(world: FeatureWorld, f: np.ndarray, power: float = 1.0, threshold: float = 0.0) -> float:
    related = []
    for g in world.features:
        r = max(0.0, float(unit(f) @ unit(g))) * float(softmax(world.logits(f)) @ softmax(world.logits(g)))
        related.append(r**power if r > threshold else 0.0)
    return -float(np.mean(related))


def cosine(world: FeatureWorld, f: np.ndarray, to: str = "weights") -> float:
    return -max(float(unit(f) @ unit(w)) for w in (world.weight if to == "weights" else means(world)))


def residual(world: FeatureWorld, f: np.ndarray, dim: int = 2) -> float:
    origin = -np.linalg.pinv(world.weight) @ world.bias
    _, _, directions = np.linalg.svd(world.features - origin)  # independent of the eigenvectors of the covariance
    return float(np.linalg.norm(directions[dim:] @ (f - origin)))


def vim(world: FeatureWorld, f: np.ndarray, dim: int = 2) -> float:
    largest = np.mean([world.logits(g).max() for g in world.features])
    alpha = largest / np.mean([residual(world, g, dim) for g in world.features])
    return float(alpha * residual(world, f, dim) - logsumexp(world.logits(f)))


def she(world: FeatureWorld, f: np.ndarray, metric: str = "inner_product") -> float:
    predicted = world.logits(f).argmax()
    right = [
        g.astype(np.float64)
        for g, label in zip(world.features, world.labels, strict=True)
        if label == predicted == world.logits(g).argmax()
    ]
    pattern = np.mean(right, axis=0)
    scores = {"inner_product": -f @ pattern, "euclidean": np.linalg.norm(f - pattern)}
    return float(scores.get(metric, -unit(f) @ unit(pattern)))


def fdbd(world: FeatureWorld, f: np.ndarray, normalizer: str = "distance") -> float:
    z, c = world.logits(f), int(world.logits(f).argmax())
    others = [k for k in range(len(z)) if k != c]
    distances = [(z[c] - z[k]) / np.linalg.norm(world.weight[c] - world.weight[k]) for k in others]
    centre = world.features.astype(np.float64).mean(axis=0) if normalizer == "distance" else 0
    return float(-np.mean(distances) / np.linalg.norm(f - centre))


def nci(world: FeatureWorld, f: np.ndarray, alpha: float = 1e-4) -> float:
    centred = f - world.features.astype(np.float64).mean(axis=0)
    proximity = world.weight[world.logits(f).argmax()] @ centred / np.linalg.norm(centred)
    return float(-(proximity + alpha * sum(abs(v) for v in f.tolist())))


FORMULAS: list[tuple[str, Callable[..., float], dict[str, Any]]] = [
    ("mahalanobis", mahalanobis, {}),
    ("relative_mahalanobis", relative_mahalanobis, {}),
    ("ssd", ssd, {}),
    ("ssd", lambda world, f, clusters: ssd_classes(world, f), {"clusters": "classes"}),
    ("gmm", gmm, {}),
    ("gmm", gmm, {"pseudo_images": 0.0}),
    ("gmm", gmm, {"pseudo_images": 7.5}),
    *[("knn", knn, {"k": k}) for k in (1, 5, 42)],
    ("nnguide", nnguide, {}),
    ("nnguide", nnguide, {"k": 3}),
    ("relation", relation, {}),
    ("relation", relation, {"power": 4.0, "threshold": 0.3}),
    ("cosine", cosine, {}),
    ("cosine", cosine, {"to": "means"}),
    *[(name, formula, {"dim": dim}) for name, formula in (("residual", residual), ("vim", vim)) for dim in (1, 2, 4)],
    *[("she", she, {"metric": metric}) for metric in ("inner_product", "euclidean", "cosine")],
    ("fdbd", fdbd, {}),
    ("fdbd", fdbd, {"normalizer": "norm"}),
    ("nci", nci, {}),
    ("nci", nci, {"alpha": 0.1}),
]
DEFAULTS = {"knn": {"k": 5}, "vim": {"dim": 2}, "residual": {"dim": 2}}
"""Detectors with settings for the small feature world."""
NAMES = list(dict.fromkeys(name for name, _, _ in FORMULAS))


FLOAT32 = {"nnguide": 1e-6, "relation": 1e-6}
"""Relative precision of detectors that use float32 similarities directly; for others it is 1e-9."""


def scores(world: FeatureWorld, name: str, **settings: Any) -> np.ndarray:
    found: np.ndarray = world.score(name, **(settings or DEFAULTS.get(name, {})))
    return found


@pytest.mark.parametrize("name, formula, settings", FORMULAS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_equals_a_loop_over_its_formula(
    world: FeatureWorld, name: str, formula: Callable[..., float], settings: Any
) -> None:
    found = scores(world, name, **settings)
    assert found == pytest.approx(
        [formula(world, f, **settings) for f in world.test.astype(np.float64)], rel=FLOAT32.get(name, 1e-9), abs=1e-12
    )
    assert len(np.unique(found)) == len(found)


# Invariances


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_training_images_does_not_matter(world: FeatureWorld, name: str) -> None:
    before, order = scores(world, name), np.random.RandomState(1).permutation(len(world.labels))
    world.features, world.labels = world.features[order], world.labels[order]
    assert scores(world, name) == pytest.approx(before, rel=FLOAT32.get(name, 1e-9))


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_classes_do_not_matter(world: FeatureWorld, name: str) -> None:
    before, new = scores(world, name), np.array([2, 0, 1])
    world.labels = new[world.labels]
    world.weight, world.bias = world.weight[np.argsort(new)], world.bias[np.argsort(new)]
    assert scores(world, name) == pytest.approx(before, rel=FLOAT32.get(name, 1e-9))


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gmm"])
def test_affine_maps_of_features_move_no_distance(world: FeatureWorld, name: str) -> None:
    before, random = scores(world, name), np.random.RandomState(2)
    matrix, shift = np.eye(5) + 0.3 * random.randn(5, 5), random.randn(5)
    for field in ("features", "test"):
        setattr(world, field, getattr(world, field) @ matrix.T + shift)
    assert scores(world, name) == pytest.approx(before, rel=1e-8)


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gmm", "ssd", "knn", "cosine"])
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_the_unit_of_features_does_not_matter(world: FeatureWorld, name: str, factor: float) -> None:
    before = scores(world, name)
    world.features, world.test = np.float32(factor) * world.features, np.float32(factor) * world.test
    assert scores(world, name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", ["knn", "ssd", "cosine"])
def test_the_size_of_an_image_s_feature_does_not_matter(world: FeatureWorld, name: str) -> None:
    before = scores(world, name)
    world.test = np.float32(8) * world.test
    assert scores(world, name) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_residuals_are_measured_from_where_the_logits_are_zero(world: FeatureWorld, name: str) -> None:
    before, shift = scores(world, name), world.weight.T @ np.array([0.4, -0.2, 0.1])
    world.bias = world.bias - world.weight @ shift
    world.features, world.test = world.features + shift, world.test + shift
    assert scores(world, name) == pytest.approx(before, rel=1e-9)


def test_relation_is_halved_by_training_images_that_are_not_related(world: FeatureWorld) -> None:
    before = scores(world, "relation")
    strangers = -np.repeat(world.test.mean(axis=0, keepdims=True), len(world.features), axis=0)
    world.features = np.concatenate([world.features, strangers])
    world.labels = np.concatenate([world.labels, world.labels])
    assert scores(world, "relation") == pytest.approx(before / 2, rel=1e-6)


def test_a_distance_to_a_near_neighbour_keeps_its_digits(world: FeatureWorld) -> None:
    world.test = world.features[:1].copy()
    world.test[0, 0] *= 1 + 1e-6
    exact = np.linalg.norm(unit(world.test[0]) - unit(world.features[0]))
    assert exact < 1e-6
    assert world.score("knn", k=1) == pytest.approx([exact], rel=1e-8)
