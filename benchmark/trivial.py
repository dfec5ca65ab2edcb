"""What no network is needed for: how well a single pixel statistic separates two sets.

A set that the mean, the spread or the sharpest edge of the pixels tells apart says little about a detector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oodbench.benchmark.metrics import auroc, evaluate


def mean(images: np.ndarray) -> np.ndarray:
    """Mean of all pixels of each image, (N,)."""
    means: np.ndarray = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    return means


def standard_deviation(images: np.ndarray) -> np.ndarray:
    """Standard deviation of all pixels of each image, (N,)."""
    spread: np.ndarray = images.reshape(len(images), -1).std(axis=1, dtype=np.float64)
    return spread


def largest_gradient(images: np.ndarray) -> np.ndarray:
    """Largest absolute difference between neighbouring pixels of each image, (N,)."""
    signed = images.astype(np.int16)
    across = np.abs(np.diff(signed, axis=3)).max(axis=(1, 2, 3))
    down = np.abs(np.diff(signed, axis=2)).max(axis=(1, 2, 3))
    steepest: np.ndarray = np.maximum(across, down).astype(np.float64)
    return steepest


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixel mean": mean,
    "pixel std": standard_deviation,
    "pixel gradient": largest_gradient,
}


def best_statistic(id_images: np.ndarray, ood_images: np.ndarray) -> dict[str, object]:
    """The statistic and direction with the highest AUROC between two uint8 sets (N, C, H, W), with its metrics."""
    candidates = []
    for name, statistic in STATISTICS.items():
        ours, theirs = statistic(id_images), statistic(ood_images)
        for direction, sign in (("higher is OOD", 1), ("lower is OOD", -1)):
            candidates.append((auroc(sign * ours, sign * theirs), name, direction, sign * ours, sign * theirs))
    _, name, direction, ours, theirs = max(candidates, key=lambda c: c[0])
    return {"statistic": name, "direction": direction, **evaluate(ours, theirs)}
