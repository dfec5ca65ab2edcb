"""Which scores are computed in float32, and how far they are from float64.

Detectors get features in float32. Each test scores the same features in float32 and float64, and compares with an
independent float64 computation from NumPy's pseudo-inverse or singular vectors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors import _gaussian, vim
from oodbench.detectors._gaussian import PANEL, product, trapezoidal
from oodbench.detectors._rectified import kept_from
from oodbench.detectors.vra import _rounded_up
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")


UNITS, IMAGES = 40, 400
IN_FLOAT32 = (
    *("mahalanobis", "vim[dim=20]", "residual[dim=20]", "she", "nci"),
    *("react", "dice[percentile=50.0]", "ash", "ash[variant=b]", "scale", "vra", "vra[gamma=0.5]"),
    *("optfs", "optfs[statistic=energy]", "rank_shift"),
    *("caref", "cadref[confidence=msp]"),
)


def spread_world(smallest: float) -> FeatureWorld:
    """A world whose features have standard deviations from 1 down to `smallest` within a class, rotated, and > 0."""
    world, random = FeatureWorld(units=UNITS, images=IMAGES), np.random.RandomState(3)
    rotation = np.linalg.qr(random.randn(UNITS, UNITS))[0]
    deviations = np.geomspace(1, smallest, UNITS)

    def draw(labels: np.ndarray, factor: float) -> np.ndarray:
        noise = factor * random.randn(len(labels), UNITS) * deviations
        features: np.ndarray = (8 + 0.3 * centres[labels] + noise @ rotation.T).astype(np.float32)
        return features

    centres = random.randn(3, UNITS) * deviations @ rotation.T
    world.features = draw(world.labels, 1.0)
    world.test = np.concatenate([draw(np.arange(200) % 3, 1.0), draw(np.arange(200) % 3, 2.0)])
    world.weight, world.bias = centres, np.zeros(3)
    return world


def score_in_both(world: FeatureWorld, spec: str) -> tuple[Detector, np.ndarray, np.ndarray]:
    """A fitted detector, and its scores of the test features in float32 and in float64."""
    named = parse_spec(spec)
    detector = world.fit(named.name, **create("detector", named).changed_settings())
    single = detector.score(world.batch(detector, world.test)).numpy()
    parts = {"features": torch.from_numpy(world.test).double().__getitem__}
    if "logits" in detector.needs:
        parts["logits"] = torch.from_numpy(world.logits(world.test)).__getitem__
    return detector, single, detector.score(Batch(len(world.test), parts, spec)).numpy()


def max_error(scores: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the larger of a score and the median score."""
    size = np.maximum(np.abs(expected), np.median(np.abs(expected)))
    return float((np.abs(scores - expected) / size).max())


@pytest.mark.parametrize("spec", IN_FLOAT32)
def test_float32_is_good_to_six_digits_and_does_not_tie(spec: str) -> None:
    world = spread_world(0.1)
    _, single, double = score_in_both(world, spec)
    assert single.dtype == np.float64
    assert 0 < max_error(single, double) < 1e-5  # 0 would mean that float32 was not used
    assert len(np.unique(single)) == len(single)


def by_pseudo_inverse(world: FeatureWorld) -> np.ndarray:
    """The squared distance to the nearest class mean, in float64."""
    features = world.features.astype(np.float64)
    means = np.stack([features[world.labels == k].mean(axis=0) for k in range(3)])
    centred = features - means[world.labels]
    inverse = np.linalg.pinv(centred.T @ centred / len(centred), rcond=1e-10, hermitian=True)
    offsets = world.test.astype(np.float64)[:, None] - means
    distances: np.ndarray = np.einsum("ncd,de,nce->nc", offsets, inverse, offsets).min(axis=1)
    return distances


@pytest.mark.parametrize("smallest, single", [(0.1, True), (0.006, True), (1e-3, False), (2e-5, False)])
def test_mahalanobis_uses_float32_only_where_its_bound_holds(smallest: float, single: bool) -> None:
    world = spread_world(smallest)
    detector, found, double = score_in_both(world, "mahalanobis")
    condition = detector.state()["space_"].condition
    assert 1 < condition * smallest**2 < 20  # from the largest variance, and from the means
    assert (condition <= _gaussian.SINGLE) is single
    assert np.array_equal(found, double) is not single
    assert max_error(found, by_pseudo_inverse(world)) < (2**-23 * condition**0.5 if single else 1e-5 * condition / 1e10)


@pytest.mark.parametrize("smallest", [1e-3, 1e-4])
def test_float32_is_not_enough_where_float64_is_used(smallest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world = spread_world(smallest)
    exact = score_in_both(world, "mahalanobis")[1]
    monkeypatch.setattr(_gaussian, "SINGLE", np.inf)
    assert max_error(score_in_both(world, "mahalanobis")[1], exact) > 10 * max_error(exact, by_pseudo_inverse(world))


def test_a_far_class_mean_counts_in_the_condition() -> None:
    world = spread_world(0.1)
    near = score_in_both(world, "mahalanobis")[0].state()["space_"].condition
    world.features[world.labels == 1] += 500
    far, single, double = score_in_both(world, "mahalanobis")
    assert near < 2000 < _gaussian.SINGLE < far.state()["space_"].condition
    assert np.array_equal(single, double)


def test_relative_mahalanobis_is_float64_whatever_the_condition() -> None:
    world = spread_world(0.1)
    _, single, double = score_in_both(world, "relative_mahalanobis")
    assert np.array_equal(single, double)
    features = world.features.astype(np.float64)
    mean, inverse = features.mean(axis=0), np.linalg.inv(np.cov(features.T, bias=True))
    to_all = [(f - mean) @ inverse @ (f - mean) for f in world.test.astype(np.float64)]
    assert max_error(single, by_pseudo_inverse(world) - to_all) < 1e-9


@pytest.mark.parametrize("smallest, single", [(0.1, True), (1e-5, False)])
def test_vim_uses_float32_only_where_its_bound_holds(smallest: float, single: bool) -> None:
    world = spread_world(smallest)
    detector, found, double = score_in_both(world, "vim[dim=20]")
    ratio = detector.state()["ratio_"]
    assert (ratio <= vim.SINGLE) is single
    assert np.array_equal(found, double) is not single
    origin = -np.linalg.pinv(world.weight) @ world.bias
    directions = np.linalg.svd(world.features.astype(np.float64) - origin)[2][20:]
    lengths = [
        np.linalg.norm((part.astype(np.float64) - origin) @ directions.T, axis=1)
        for part in (world.features, world.test)
    ]
    alpha = world.logits(world.features).max(axis=1).mean() / lengths[0].mean()
    expected = alpha * lengths[1] - logsumexp(world.logits(world.test), axis=1)
    assert max_error(found, expected) < (2**-23 * ratio * 10 if single else 1e-6)


@pytest.mark.parametrize("units, rank", [(1, 1), (5, 3), (PANEL + 7, PANEL), (3 * PANEL, 2 * PANEL + 1)])
def test_a_trapezoidal_root_gives_the_same_lengths(units: int, rank: int) -> None:
    random = np.random.RandomState(0)
    matrix, x = torch.from_numpy(random.randn(units, rank)), torch.from_numpy(random.randn(6, units))
    root = trapezoidal(matrix)
    assert torch.equal(root, root.tril())
    assert product(x, root).numpy() == pytest.approx((x @ root).numpy(), rel=1e-10, abs=1e-12)
    assert product(x, root).norm(dim=1).tolist() == pytest.approx((x @ matrix).norm(dim=1).tolist(), rel=1e-12)


def test_features_are_on_the_same_side_of_a_threshold_in_float32() -> None:
    values = torch.linspace(0.1, 0.2, 1000, dtype=torch.float32)
    near = torch.nextafter(values, torch.ones(()))
    between = (values.double() + near.double()) / 2 + torch.linspace(-3e-9, 3e-9, 1000, dtype=torch.float64)
    rounded = _rounded_up(between, torch.float32)
    for side in (values, near):
        assert torch.equal(side.double() >= between, side >= rounded)
        assert torch.equal(kept_from(rounded, side, torch.ones_like(side)).bool(), side.double() >= between)
    assert torch.equal(_rounded_up(between, torch.float64), between)
