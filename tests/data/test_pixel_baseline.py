"""The pixel baseline: statistics of images, the best one of a pair, and its cache."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark import ImageSet
from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.pixel_baseline import (
    CachedStatistics,
    best_statistic,
    best_statistic_of,
    largest_gradient,
    mean,
    standard_deviation,
    statistics,
)
from oodbench.benchmark.metrics import exact
from tests.support import noise_images


def naive_auroc(id_scores: list[float], ood_scores: list[float]) -> float:
    wins = sum((b > a) + 0.5 * (a == b) for a in id_scores for b in ood_scores)
    return wins / (len(id_scores) * len(ood_scores))


def naive_statistics(image: np.ndarray) -> dict[str, float]:
    values = [float(value) for value in image.ravel()]
    average = sum(values) / len(values)
    steps = [
        abs(int(channel[y, x]) - int(channel[y + dy, x + dx]))
        for channel in image
        for dy, dx in ((0, 1), (1, 0))
        for y in range(channel.shape[0] - dy)
        for x in range(channel.shape[1] - dx)
    ]
    spread = (sum((value - average) ** 2 for value in values) / len(values)) ** 0.5
    return {"pixel mean": average, "pixel std": spread, "pixel gradient": float(max(steps))}


def test_statistics_are_those_of_naive_loops() -> None:
    images = noise_images(6, shape=(2, 4, 5))
    naive = [naive_statistics(image) for image in images]
    assert mean(images).tolist() == pytest.approx([row["pixel mean"] for row in naive], rel=1e-12)
    assert standard_deviation(images).tolist() == pytest.approx([row["pixel std"] for row in naive], rel=1e-12)
    assert largest_gradient(images).tolist() == [row["pixel gradient"] for row in naive]


@pytest.mark.parametrize("block", [1, 3 * 31 * 33, 5 * 3 * 31 * 33 + 7, 1 << 20])
def test_blocks_change_no_bit_of_a_statistic(block: int) -> None:
    images = noise_images(23, shape=(3, 31, 33))
    for flipped in (images, images[:, :, ::-1]):
        whole = [mean(flipped), standard_deviation(flipped), largest_gradient(flipped)]
        assert [part.tobytes() for part in statistics(flipped, block).values()] == [array.tobytes() for array in whole]


def test_temporaries_of_big_images_are_small() -> None:
    images = np.zeros((40, 3, 256, 256), np.uint8)
    tracemalloc.start()
    statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * pixel_baseline.BLOCK, "computed at once, the standard deviation alone takes 60 MiB"


def test_a_set_is_measured_once_and_a_pair_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (ImageSet(noise_images(12, seed)) for seed in range(3))
    measured: list[int] = []

    def counted(images: np.ndarray) -> dict[str, np.ndarray]:
        measured.append(len(images))
        return statistics(images)

    monkeypatch.setattr(pixel_baseline, "statistics", counted)
    for expected in (3, 3):
        results = CachedStatistics(DataCache(tmp_path))
        found = [results.best(one, other) for other in (two, three, two)]
        assert len(measured) == expected
    direct = [best_statistic_of(*(statistics(s.images) for s in (one, other))) for other in (two, three, two)]
    assert found == direct, "the same floats, through the file as well"
    (tmp_path / "statistics.json").write_text("[not JSON")
    assert CachedStatistics(DataCache(tmp_path)).best(one, two) == direct[0]


def uniform_images(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Images of a single gray value each, so that only the mean varies."""
    shades = np.random.RandomState(seed).randint(low, high, (count, 1, 1, 1))
    return np.broadcast_to(shades, (count, 1, 4, 5)).astype(np.uint8)


def stripes(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Images of mean 128 whose rows alternate by a random contrast."""
    contrast = np.random.RandomState(seed).randint(low, high, (count, 1, 1, 1))
    sign = np.array([1, -1, 1, -1]).reshape(1, 1, 4, 1)
    return np.broadcast_to(128 + sign * contrast, (count, 1, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    "id_images, ood_images, statistic, direction",
    [
        (uniform_images(20, 0, 120, 0), uniform_images(15, 100, 255, 1), "pixel mean", "higher is OOD"),
        (uniform_images(20, 100, 255, 0), uniform_images(15, 0, 120, 1), "pixel mean", "lower is OOD"),
        (stripes(20, 0, 60, 0), stripes(15, 50, 120, 1), "pixel std", "higher is OOD"),
        (stripes(20, 50, 120, 0), stripes(15, 0, 60, 1), "pixel std", "lower is OOD"),
    ],
)
def test_best_statistic_and_its_direction_are_found(
    id_images: np.ndarray, ood_images: np.ndarray, statistic: str, direction: str
) -> None:
    best = best_statistic(id_images, ood_images)
    assert (best["statistic"], best["direction"]) == (statistic, direction)
    sign = 1 if direction == "higher is OOD" else -1
    id_scores, ood_scores = (
        [sign * naive_statistics(i)[statistic] for i in images] for images in (id_images, ood_images)
    )
    assert best["auroc"] == pytest.approx(naive_auroc(id_scores, ood_scores), rel=1e-12)
    assert best == {"statistic": statistic, "direction": direction, **exact.evaluate(id_scores, ood_scores)}


@pytest.mark.parametrize("seed", range(6))
def test_no_statistic_beats_the_best(seed: int) -> None:
    id_images, ood_images = noise_images(12, seed, (1, 3, 3)), noise_images(9, seed + 100, (1, 3, 3))
    naive = [[naive_statistics(image) for image in images] for images in (id_images, ood_images)]
    values = {}
    for name in naive[0][0]:
        area = naive_auroc([row[name] for row in naive[0]], [row[name] for row in naive[1]])
        values.update({(name, "higher is OOD"): area, (name, "lower is OOD"): 1 - area})
    best = best_statistic(id_images, ood_images)
    assert best["auroc"] == pytest.approx(max(values.values()), rel=1e-12)
    assert values[str(best["statistic"]), str(best["direction"])] == pytest.approx(max(values.values()), rel=1e-12)


def test_steepest_edge_alone_can_separate_sets() -> None:
    one = np.tile(np.array([0, 100, 100, 200], np.uint8), (5, 1, 4, 1))
    two = np.tile(np.array([0, 200, 100, 100], np.uint8), (5, 1, 4, 1))
    best = best_statistic(one, two)
    assert (best["statistic"], best["direction"], best["auroc"]) == ("pixel gradient", "higher is OOD", 1.0)
