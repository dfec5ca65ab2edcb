"""WeiPer+KLD, against a float64 loop over its formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._rules import repeats_of
from oodbench.detectors.weiper import smoothed
from tests.detectors import feature_world
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = 12


def signed_world(units: int = UNITS, classes: int = 3, images: int = 60) -> FeatureWorld:
    """Features of both signs, with logits of the same size for every number of units."""
    world = feature_world.signed_world(units, classes, images)
    world.weight, world.bias = world.weight / units**0.5, world.bias / units**0.5
    return world


def heads_of(world: FeatureWorld, repeats: int, delta: float, seed: int = 0) -> np.ndarray:
    """Perturbed heads (R, K, D), rounded to float32 as they are stored."""
    random, heads = torch.Generator().manual_seed(seed), []
    for _ in range(repeats):
        noise = torch.randn(world.weight.shape, generator=random, dtype=torch.float64).numpy()
        rows = [w + delta * np.linalg.norm(w) * n / np.linalg.norm(n) for w, n in zip(world.weight, noise, strict=True)]
        heads.append(rows)
    return np.array(heads).astype(np.float32).astype(np.float64)


def histogram(values: list[float], low: float, high: float, bins: int) -> list[float]:
    counts = [0.0] * bins
    for value in values:
        if low <= value <= high:
            counts[min(bins - 1, math.floor((value - low) / (high - low) * bins))] += 1 / len(values)
    return counts


def window_mean(density: list[float], window: int) -> list[float]:
    before = (window - 1) // 2
    found = []
    for start in range(len(density)):
        places = [min(max(start - before + k, 0), len(density) - 1) for k in range(window)]
        found.append(sum(density[place] for place in places) / window)
    return found


def apart(q: list[float], p: list[float], added: float) -> float:
    q, p = [value + added for value in q], [value + added for value in p]
    return float(entropy(q, p) + entropy(p, q))  # scipy normalises both


def weiper(
    world: FeatureWorld,
    tests: list[list[float]],
    repeats: int = 100,
    smoothing: int = 4,
    bins: int = 100,
    lambda_1: float = 2.5,
    lambda_2: float = 0.1,
    delta: float = 1.8,
    smoothing_perturbed: int = 15,
    seed: int = 0,
) -> list[float]:
    heads = heads_of(world, repeats, delta, seed)

    def logits_of(f: list[float]) -> list[list[float]]:
        found: list[list[float]] = [(own @ np.array(f) + world.bias).tolist() for own in heads]
        return found

    def flat(rows: list[list[float]]) -> list[float]:
        return [value for row in rows for value in row]

    known = world.features.astype(np.float64).tolist()
    spaces, windows, added = (
        [known, [flat(logits_of(f)) for f in known]],
        (smoothing, smoothing_perturbed),
        (0.01, 0.025),
    )
    ranges = [(min(map(min, rows)), max(map(max, rows))) for rows in spaces]
    means = []
    for rows, ends in zip(spaces, ranges, strict=True):
        own = [histogram(row, *ends, bins) for row in rows]
        means.append([sum(column) / len(own) for column in zip(*own, strict=True)])
    scores = []
    for f in tests:
        logits = logits_of(f)
        parts = []
        for place, values in enumerate((f, flat(logits))):
            q = window_mean(histogram(values, *ranges[place], bins), windows[place])
            parts.append(apart(q, means[place], added[place]))
        confidence = sum(max(softmax(row)) for row in logits) / len(logits)
        scores.append(parts[0] + lambda_1 * parts[1] - lambda_2 * float(confidence))
    return scores


@pytest.mark.parametrize(
    "settings",
    [
        {"repeats": 20, "smoothing": 4},
        {"repeats": 7, "smoothing": 5, "smoothing_perturbed": 2, "bins": 30, "delta": 2.4},
        {"repeats": 4, "smoothing": 1, "smoothing_perturbed": 1, "lambda_1": 0.0, "lambda_2": 5.0},
        {"repeats": 4, "smoothing": 20, "delta": 0.0, "bins": 10},
    ],
    ids=lambda v: ",".join(v),
)
def test_equals_a_loop_over_its_formula(settings: dict[str, Any]) -> None:
    world = signed_world()
    found = world.score("weiper", **settings)
    assert found == pytest.approx(weiper(world, world.test.tolist(), **settings), rel=1e-6)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("units", [8, 64, 2048])
@pytest.mark.parametrize("classes, repeats", [(2, 500), (5, 200)])
def test_defaults_at_every_width_and_with_two_classes(classes: int, repeats: int, units: int) -> None:
    world = signed_world(units, classes, images=12)
    fitted = world.fit("weiper")
    assert fitted.chosen_ == {"repeats": repeats}
    found = world.score("weiper")
    assert np.array_equal(world.score("weiper", **fitted.chosen_), found)
    assert world.fit("weiper", repeats=3).chosen_ == {}
    assert found[:2] == pytest.approx(weiper(world, world.test[:2].tolist(), **fitted.chosen_), rel=1e-6)
    assert len(np.unique(found)) == len(found)


def test_rules_are_the_authors_numbers_where_they_use_them() -> None:
    assert [repeats_of(classes) for classes in (10, 100, 1000)] == [100, 100, 100]
    assert [repeats_of(classes) for classes in (1, 2, 3, 9)] == [1000, 500, 334, 112]


def test_the_order_of_images_does_not_matter() -> None:
    world = signed_world()
    before = world.score("weiper")
    order = np.random.RandomState(1).permutation(len(world.labels))
    world.features, world.labels = world.features[order], world.labels[order]
    assert world.score("weiper") == pytest.approx(before, rel=1e-9)


def test_the_unit_of_features_and_a_constant_added_to_the_biases_do_not_matter() -> None:
    world = signed_world()
    before = world.score("weiper")
    world.features, world.test, world.weight = 4 * world.features, 4 * world.test, world.weight / 4
    assert world.score("weiper") == pytest.approx(before, rel=1e-9)
    world.bias = world.bias + 2.0
    assert world.score("weiper") == pytest.approx(before, rel=1e-9)


def test_without_perturbations_the_order_of_units_and_classes_does_not_matter() -> None:
    world = signed_world()
    before, random = world.score("weiper", delta=0.0), np.random.RandomState(1)
    units, classes = random.permutation(UNITS), random.permutation(3)
    world.features, world.test = world.features[:, units], world.test[:, units]
    world.weight, world.bias = world.weight[classes][:, units], world.bias[classes]
    assert world.score("weiper", delta=0.0) == pytest.approx(before, rel=1e-9)


def test_scores_do_not_depend_on_the_block_that_an_image_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    world = signed_world()
    world.test = np.random.RandomState(8).randn(300, UNITS).astype(np.float32)
    fitted = world.fit("weiper")
    whole = fitted.score(world.batch(fitted, world.test)).numpy()
    parts = [fitted.score(world.batch(fitted, piece)).numpy() for piece in np.split(world.test, [1, 140])]
    assert np.concatenate(parts) == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr("oodbench.detectors.weiper.VALUES", 1)  # one head at a time
    assert fitted.score(world.batch(fitted, world.test)).numpy() == pytest.approx(whole, rel=1e-9)


def test_the_seed_draws_other_heads() -> None:
    world = signed_world()
    one, same, other = (world.score("weiper", perturbation_seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert (one != other).all()
    assert world.score("weiper", repeats=5, perturbation_seed=3) == pytest.approx(
        weiper(world, world.test.tolist(), repeats=5, seed=3), rel=1e-6
    )


def test_at_most_so_many_training_images_are_used_equally_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.detectors.weiper.SUMMED", 7)
    world = signed_world()
    found = world.score("weiper", images=20)
    world.features, world.labels = world.features[1::3], world.labels[1::3]
    assert found == pytest.approx(world.score("weiper"), rel=1e-12)


def test_a_training_image_s_largest_value_is_in_the_last_bin_and_what_lies_beyond_in_none() -> None:
    world = signed_world()
    fitted = world.fit("weiper")
    low, high = float(world.features.min()), float(world.features.max())
    counts = fitted._histograms(np.array([[low, high, low - 1e-9, high + 1e-9, (low + high) / 2]]), 0)
    assert counts[0, 0] == counts[0, 99] == counts[0, 50] == 1
    assert counts.sum() == 3
    assert fitted.densities_.sum(dim=1).tolist() == pytest.approx([1.0, 1.0], rel=1e-12)


def test_features_and_logits_outside_of_every_bin() -> None:
    world = signed_world()
    world.test[0], world.test[1] = 1e6, -1e6
    found = world.score("weiper")
    assert found[:2] == pytest.approx(weiper(world, world.test[:2].tolist(), repeats=334), rel=1e-6)
    assert np.isfinite(found).all()


def test_windows_of_even_and_odd_length() -> None:
    density = torch.tensor([[1.0, 0.0, 0.0, 4.0]], dtype=torch.float64)
    assert smoothed(density, 1).tolist() == density.tolist()
    assert smoothed(density, 2).tolist() == [[0.5, 0.0, 2.0, 4.0]]
    assert smoothed(density, 3)[0].tolist() == pytest.approx([2 / 3, 1 / 3, 4 / 3, 8 / 3])
    kernel = torch.nn.Conv1d(1, 1, 4, padding="same", padding_mode="replicate", bias=False).double()
    kernel.weight.data.fill_(0.25)
    assert torch.allclose(smoothed(density, 4), kernel(density[None])[0])


def test_one_image_a_class_and_a_class_without_images() -> None:
    world = signed_world(images=3)
    assert len(np.unique(world.score("weiper"))) == 9
    world.features, world.labels = world.features[:2], world.labels[:2]
    assert np.isfinite(world.score("weiper")).all()


def test_what_does_not_vary_is_refused() -> None:
    world = signed_world()
    world.features[:] = 0.5
    with pytest.raises(DataError, match=r"histograms of the features of images, which are all 0\.5 in training"):
        world.score("weiper")
    world = signed_world()
    world.weight[:], world.bias[:] = 0, 2
    with pytest.raises(DataError, match="histograms of the perturbed logits of images, which are all 2 in training"):
        world.score("weiper")


@pytest.mark.parametrize("name", ["repeats", "bins", "smoothing", "smoothing_perturbed", "images"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        registry.get("detector", "weiper")(**{name: 0})


@pytest.mark.parametrize("name", ["lambda_1", "lambda_2", "delta"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_weights_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative and must be finite, got"):
        registry.get("detector", "weiper")(**{name: value})
