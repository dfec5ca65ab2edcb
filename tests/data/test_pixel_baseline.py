"""The baselines without a network: the best statistic of a pair, the one-class model, and their cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ShrunkCovariance

from oodbench.benchmark import ImageSet
from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.image_statistics import STATISTICS, Values, statistics
from oodbench.benchmark.data.one_class import CLIPPED, SHRINKAGE, OneClass
from oodbench.benchmark.data.pixel_baseline import CachedBaselines, baselines_of, fitted_rows
from oodbench.benchmark.metrics import exact
from tests.support import noise_images


def naive_auroc(id_scores: list[float], ood_scores: list[float]) -> float:
    wins = sum((b > a) + 0.5 * (a == b) for a in id_scores for b in ood_scores)
    return wins / (len(id_scores) * len(ood_scores))


def baselines(training: np.ndarray, id_images: np.ndarray, ood_images: np.ndarray) -> dict[str, Any]:
    return baselines_of(*map(statistics, (training, id_images, ood_images)))


def of_normal_draws(count: int, seed: int) -> dict[str, Values]:
    """Correlated values in place of statistics, some of them heavy-tailed, one of them constant."""
    random = np.random.RandomState(seed)
    values = random.standard_normal((count, len(STATISTICS))) @ random.standard_normal((len(STATISTICS),) * 2)
    values[:, 1] **= 3
    values[:, 2] = 40.0
    return dict(zip(STATISTICS, values.T, strict=True))


def test_the_one_class_model_is_that_of_scikit_learn_and_scipy() -> None:
    training, others = of_normal_draws(300, 0), of_normal_draws(40, 1)
    model = OneClass.fit(training)

    def standardised(of: dict[str, Values]) -> np.ndarray:
        columns = []
        for name, statistic in STATISTICS.items():
            low, middle, high = (np.quantile(training[name], q) for q in (0.25, 0.5, 0.75))
            columns.append((of[name] - middle) / max((high - low) / 1.3489795003921634, statistic.step))
        return np.stack(columns, axis=1)

    fitted = ShrunkCovariance(shrinkage=SHRINKAGE).fit(np.clip(standardised(training), -CLIPPED, CLIPPED))
    assert model.scores(others) == pytest.approx(fitted.mahalanobis(standardised(others)), rel=1e-8)
    by_scipy = [mahalanobis(z, fitted.location_, np.linalg.inv(fitted.covariance_)) for z in standardised(others)]
    assert np.sqrt(model.scores(others)) == pytest.approx(by_scipy, rel=1e-8)


def test_a_statistic_that_is_constant_in_training_counts_from_its_step_on() -> None:
    training = {name: np.zeros(50) for name in STATISTICS}
    model = OneClass.fit(training)
    step = STATISTICS["colour difference"].step
    (deviation,) = model.deviations({n: np.array([3 * step if n == "colour difference" else 0.0]) for n in STATISTICS})
    assert deviation.tolist() == pytest.approx([3.0 if name == "colour difference" else 0.0 for name in STATISTICS])
    assert np.isfinite(model.scores(training)).all()


def test_the_one_class_model_is_fitted_without_test_images() -> None:
    training, id_images, ood_images = (noise_images(30, seed, (3, 8, 8)) for seed in range(3))
    model = OneClass.fit(statistics(training))
    id_scores, ood_scores = (model.scores(statistics(images)) for images in (id_images, ood_images))
    found = baselines(training, id_images, ood_images)["one_class"]
    assert found == {"fitted_on": 30, **exact.evaluate(id_scores, ood_scores)}
    assert found["auroc"] == pytest.approx(naive_auroc(list(id_scores), list(ood_scores)), rel=1e-12)


def test_large_training_sets_are_thinned_evenly() -> None:
    assert fitted_rows(7).tolist() == list(range(7))
    assert fitted_rows(50_000).tolist() == list(range(0, 50_000, 25))
    rows = fitted_rows(2_999)
    assert len(rows) == 2_000
    assert set(np.diff(rows)) == {1, 2}


def test_a_set_is_measured_once_and_a_pair_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, one, two, three = (ImageSet(noise_images(12, seed)) for seed in range(4))
    measured: list[int] = []

    def counted(images: np.ndarray) -> dict[str, Values]:
        measured.append(len(images))
        return statistics(images)

    monkeypatch.setattr(pixel_baseline, "statistics", counted)
    for expected in (4, 4):
        results = CachedBaselines(DataCache(tmp_path))
        found = [results.of(training, one, other) for other in (two, three, two)]
        assert len(measured) == expected
    direct = [baselines(training.images, one.images, other.images) for other in (two, three, two)]
    assert found == direct, "the same floats, through the file as well"
    other_training = ImageSet(noise_images(12, 9))
    assert CachedBaselines(DataCache(tmp_path)).of(other_training, one, two)["one_class"] != direct[0]["one_class"]
    (tmp_path / "statistics.json").write_text("[not JSON")
    assert CachedBaselines(DataCache(tmp_path)).of(training, one, two) == direct[0]


def uniform_images(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Images of a single grey value each, so that only brightness varies."""
    shades = np.random.RandomState(seed).randint(low, high, (count, 1, 1, 1))
    return np.broadcast_to(shades, (count, 1, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    "id_images, ood_images, statistic, direction",
    [
        (uniform_images(20, 0, 120, 0), uniform_images(15, 100, 255, 1), "pixel mean", "higher is OOD"),
        (uniform_images(20, 100, 255, 0), uniform_images(15, 0, 120, 1), "pixel mean", "lower is OOD"),
        (uniform_images(20, 100, 140, 0), uniform_images(30, 0, 256, 1), "pixel mean", "unusual is OOD"),
    ],
)
def test_best_statistic_and_its_direction_are_found(
    id_images: np.ndarray, ood_images: np.ndarray, statistic: str, direction: str
) -> None:
    training = id_images[::2]
    best = baselines(training, id_images, ood_images)["best"]
    assert (best["statistic"], best["direction"]) == (statistic, direction)
    middle = np.median([image.mean() for image in training])
    rank: Callable[[float], float] = {
        "higher is OOD": lambda value: value,
        "lower is OOD": lambda value: -value,
        "unusual is OOD": lambda value: abs(value - middle),
    }[direction]
    id_scores, ood_scores = ([rank(image.mean()) for image in images] for images in (id_images, ood_images))
    assert best["auroc"] == pytest.approx(naive_auroc(id_scores, ood_scores), rel=1e-12)
    assert best == {"statistic": statistic, "direction": direction, **exact.evaluate(id_scores, ood_scores)}


@pytest.mark.parametrize("seed", range(4))
def test_no_statistic_beats_the_best(seed: int) -> None:
    training, id_images, ood_images = (noise_images(n, 10 * n + seed, (3, 4, 4)) for n in (14, 12, 9))
    found = [statistics(images) for images in (training, id_images, ood_images)]
    areas = {}
    for name in STATISTICS:
        middle = np.median(found[0][name])
        id_values, ood_values = (list(values[name]) for values in found[1:])
        area = naive_auroc(id_values, ood_values)
        distances = [[abs(value - middle) for value in values] for values in (id_values, ood_values)]
        areas[name, "higher is OOD"], areas[name, "lower is OOD"] = area, 1 - area
        areas[name, "unusual is OOD"] = naive_auroc(*distances)
    best = baselines(training, id_images, ood_images)["best"]
    assert best["auroc"] == pytest.approx(max(areas.values()), rel=1e-12)
    assert areas[str(best["statistic"]), str(best["direction"])] == pytest.approx(max(areas.values()), rel=1e-12)


def permuted(images: np.ndarray, seed: int) -> np.ndarray:
    """The same pixels of each image at other places, except in the first row: every value keeps its number."""
    order = np.random.RandomState(seed).permutation(images[0, 0, 1:].size)
    below = images[:, :, 1:].reshape(len(images), images.shape[1], -1)[:, :, order]
    return np.concatenate([images[:, :, :1], below.reshape(images[:, :, 1:].shape)], axis=2)


def smooth(count: int, seed: int) -> np.ndarray:
    """Grey images in three channels: broad waves, under a first row that gives all the same steepest edge."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:12, :12] / 12 * 2 * np.pi
    waves = np.stack([np.sin(x + a) + np.sin(y + b) for a, b in random.uniform(0, 2 * np.pi, (count, 2))])
    images = np.repeat((127 + 40 * waves + random.uniform(-2, 2, waves.shape))[:, None], 3, axis=1).astype(np.uint8)
    images[:, :, 0] = np.arange(12) % 2 * 200 + 20
    return images


def with_tint(images: np.ndarray, seed: int) -> np.ndarray:
    """The images with a red and a blue that differ by two grey levels: mean, contrast and edges stay."""
    return np.asarray(images.astype(int) + np.array([1, 0, -1]).reshape(1, 3, 1, 1), dtype=np.uint8)


def with_texture(images: np.ndarray, seed: int) -> np.ndarray:
    """Every second pixel raised by two grey levels, every other one lowered, which leaves the mean alone."""
    checks = 2 * (np.indices(images.shape[2:]).sum(axis=0) % 2) - 1
    checks[0] = 0
    return np.asarray(images.astype(int) + 2 * checks, dtype=np.uint8)


@pytest.mark.parametrize(
    "change, statistic",
    [(with_tint, "colour difference"), (permuted, "spectrum slope"), (with_texture, "residual entropy")],
)
def test_sets_that_one_kind_of_statistic_tells_apart_are_caught(
    change: Callable[[np.ndarray, int], np.ndarray], statistic: str
) -> None:
    training, id_images = smooth(80, 0), smooth(60, 1)
    ood_images = change(smooth(60, 2), 3)
    sets = [statistics(images) for images in (training, id_images, ood_images)]
    found = baselines_of(*sets)
    assert found["best"]["auroc"] > 0.95
    assert found["one_class"]["auroc"] > 0.95, "without having seen an OOD image"
    areas = {name: exact.auroc(sets[1][name], sets[2][name]) for name in STATISTICS}
    assert max(areas[statistic], 1 - areas[statistic]) > 0.95, "the statistic that the change was made for"
    brightness = [areas[name] for name in ("pixel mean", "pixel std", "pixel gradient")]
    assert max(*brightness, *(1 - area for area in brightness)) < 0.75, "brightness and contrast do not see it"
