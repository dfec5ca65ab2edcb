"""Edge cases of feature detectors: small banks, singular covariances, absent classes, inactive units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")


SETTINGS: dict[str, dict[str, Any]] = {
    "mahalanobis": {},
    "relative_mahalanobis": {},
    "ssd": {},
    "gmm": {},
    "knn": {"k": 5},
    "nnguide": {},
    "relation": {},
    "cosine": {},
    "residual": {"dim": 2},
    "vim": {"dim": 2},
    "she": {},
    "fdbd": {},
    "nci": {},
}
"""Every detector that uses features directly, with settings for the small feature world."""


def scores(world: FeatureWorld, name: str) -> np.ndarray:
    found: np.ndarray = world.score(name, **SETTINGS[name])
    return found


# Banks


@pytest.mark.parametrize("name", ["knn", "nnguide", "relation"])
def test_a_smaller_bank_is_the_same_share_of_every_class_whatever_the_order(world: FeatureWorld, name: str) -> None:
    settings = {"fraction": 0.5, **({} if name == "relation" else {"k": 2})}
    rows = world.bank_rows(registry.get("detector", name)(**settings))
    assert np.bincount(world.labels[rows]).tolist() == [7, 7, 7]
    before, order = world.score(name, **settings), np.random.RandomState(1).permutation(len(world.labels))
    world.features, world.labels = world.features[order], world.labels[order]
    assert world.score(name, **settings) == pytest.approx(before, rel=1e-9 if name == "knn" else 1e-6)
    assert world.score(name, **settings, bank_seed=1) != pytest.approx(before, rel=1e-3)
    assert world.score(
        name, **{**settings, "fraction": 1e-9, "k": 1} if name != "relation" else {"fraction": 1e-9}
    ).size


def test_a_bank_smaller_than_k_is_told(world: FeatureWorld) -> None:
    with pytest.raises(DataError, match="holds 42 training images, fewer than the 50 neighbours"):
        world.score("knn", k=50)


# Degenerate worlds


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("classes", [2, 200])
def test_two_classes_and_many(name: str, classes: int) -> None:
    found = scores(FeatureWorld(classes=classes, units=6, images=6 * classes), name)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("name", SETTINGS)
def test_units_that_are_dead_in_training_change_nothing(world: FeatureWorld, name: str) -> None:
    before = scores(world, name)
    for field in ("features", "validation", "test", "weight"):
        setattr(world, field, np.insert(getattr(world, field), [1, 5], 0, axis=1))
    assert scores(world, name) == pytest.approx(before, rel=1e-6 if name in ("nnguide", "relation") else 1e-8)


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gmm"])
def test_a_unit_that_repeats_another_changes_no_distance(world: FeatureWorld, name: str) -> None:
    before = scores(world, name)
    for field in ("features", "validation", "test", "weight"):
        setattr(world, field, np.concatenate([getattr(world, field), getattr(world, field)[:, :1]], axis=1))
    assert scores(world, name) == pytest.approx(before, rel=1e-8)


def test_a_singular_covariance_is_inverted_as_scikit_learn_does() -> None:
    world = FeatureWorld(units=40, images=30)
    means = np.stack([world.features[world.labels == k].astype(np.float64).mean(axis=0) for k in range(3)])
    world.test = world.test.astype(np.float64)
    fitted = EmpiricalCovariance().fit(world.features - means[world.labels])
    distances = [[(f - mean) @ fitted.precision_ @ (f - mean) for mean in means] for f in world.test.astype(np.float64)]
    assert np.linalg.matrix_rank(fitted.covariance_) == 27
    assert world.score("mahalanobis") == pytest.approx(np.min(distances, axis=1), rel=1e-8)


@pytest.mark.parametrize("name", SETTINGS)
def test_absent_classes_and_classes_of_one_image(world: FeatureWorld, name: str) -> None:
    kept = (world.labels == 0) | (np.arange(len(world.labels)) == 2)  # image 2 is the first of class 2
    world.features, world.labels = world.features[kept], world.labels[kept]
    assert len(np.unique(scores(world, name))) == len(world.test)


def test_she_compares_a_class_without_a_pattern_with_the_nearest(world: FeatureWorld) -> None:
    world.test = np.stack([f for f in world.features[world.labels == 1] if world.logits(f).argmax() == 1])
    kept = world.labels != 1
    world.features, world.labels = world.features[kept], world.labels[kept]
    right = world.logits(world.features).argmax(axis=1) == world.labels
    patterns = [world.features[right & (world.labels == k)].astype(np.float64).mean(axis=0) for k in (0, 2)]
    assert world.score("she") == pytest.approx([min(-f @ pattern for pattern in patterns) for f in world.test])


def test_classes_too_small_for_a_covariance_of_their_own_are_told(world: FeatureWorld) -> None:
    kept = (world.labels != 2) | (np.arange(len(world.labels)) < 9)
    world.features, world.labels = world.features[kept], world.labels[kept]
    with pytest.raises(DataError, match=r"class 2 vary in 2 directions, those of others in up to 5"):
        world.score("ssd", clusters="classes")
    with pytest.raises(DataError, match="Class 2 has 3 training images, which give no covariance in 5 directions"):
        world.score("gmm", pseudo_images=0.0)


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gmm", "ssd"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_that_do_not_vary_are_told(world: FeatureWorld, name: str, value: float) -> None:
    world.features[:] = value
    with pytest.raises(DataError, match="training features do not vary"):
        world.score(name)


@pytest.mark.parametrize("name", ["vim", "residual"])
def test_principal_spaces_that_leave_nothing_are_told(world: FeatureWorld, name: str) -> None:
    assert world.fit(name).residual_.shape == (5, 3)  # half of the units
    for dim in (5, 512):
        with pytest.raises(
            DataError, match=f"{dim} of 5 directions were asked for, and they span 5. Choose a dim from"
        ):
            world.score(name, dim=dim)
    flat = np.random.RandomState(3).randn(2, 5)
    world.weight, world.bias = world.weight @ flat.T @ flat, 0 * world.bias
    world.features = (abs(world.features) @ flat.T @ flat).astype(np.float32)
    assert world.fit("residual").residual_.shape == (5, 4)


def test_all_zero_features_have_a_score(world: FeatureWorld) -> None:
    world.test[0] = 0
    for name in SETTINGS:
        assert np.isfinite(scores(world, name)).all()
    assert scores(world, "knn")[0] == 1
    assert scores(world, "cosine")[0] == 0


def test_an_image_at_the_training_mean_has_a_score(world: FeatureWorld) -> None:
    world.features[:21] = np.round(world.features[:21])
    world.features[21:] = 8 - world.features[:21]
    world.test = np.full((1, 5), 4, dtype=np.float32)
    assert world.score("nci", alpha=0.5) == pytest.approx([-10])
    assert world.score("fdbd") < -1e9


def test_networks_that_a_formula_does_not_fit_are_told(world: FeatureWorld) -> None:
    world.weight[1] = world.weight[0]
    with pytest.raises(DataError, match="Classes 0 and 1 have the same weights"):
        world.score("fdbd")
    world.bias = world.bias - 1000
    with pytest.raises(DataError, match="NNGuide multiplies by logsumexp"):
        world.score("nnguide")
    with pytest.raises(DataError, match="ViM scales the residual by the mean largest logit"):
        world.score("vim")
    world.bias[1] = world.bias[0] - 1
    world.labels[:] = 1
    with pytest.raises(DataError, match="gets none right"):
        world.score("she")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("mahalanobis", {"cutoff": 0.0}),
        ("ssd", {"clusters": "two"}),
        ("gmm", {"pseudo_images": -1.0}),
        ("knn", {"k": 0}),
        ("nnguide", {"k": 0}),
        ("knn", {"fraction": 0.0}),
        ("relation", {"power": 0.0}),
        ("relation", {"threshold": 1.0}),
        ("cosine", {"to": "bank"}),
        ("vim", {"dim": -1}),
        ("residual", {"dim": 0}),
        ("openmax", {"tail": 1}),
        ("she", {"metric": "manhattan"}),
        ("fdbd", {"normalizer": "none"}),
        ("nci", {"alpha": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*got"):
        registry.get("detector", name)(**settings)
