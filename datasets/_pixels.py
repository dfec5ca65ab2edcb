"""Helpers of the embedded sets: finds files of installed packages, enlarges 8 x 8 ink counts to 32 x 32 images."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError


def package_file(package: str, name: str) -> Path | None:
    """The path of a file in an installed package's folder, found without the import, which can take seconds.

    None if the package is not installed or does not have the file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (path := Path(folder) / name).is_file():
            return path
    return None


def sklearn_file(name: str) -> Path:
    """The path of one of the files in scikit-learn's folder `datasets`. Raises `DataError` if it is not there."""
    if path := package_file("sklearn", f"datasets/{name}"):
        return path
    raise DataError(f"scikit-learn's file 'datasets/{name}' is not there. Install scikit-learn 1.4 or later.")


def upsample_counts(counts: np.ndarray) -> np.ndarray:
    """Enlarge ink counts, uint8 (N, 8, 8) in 0..16, to grey images, uint8 (N, 1, 32, 32).

    Bilinear with half-pixel centres and clamped edges; 16 becomes 255. The arithmetic uses integers with one final
    rounding, so the result is identical on every machine.
    """
    # Row 4k + r of the image is (2r - 3) / 8 of a block below the centre of block k, so the weights are eighths.
    weights = np.zeros((32, 8))
    for row in range(32):
        above, eighths = divmod(2 * row - 3, 8)
        weights[row, max(above, 0)] += 8 - eighths
        weights[row, min(above + 1, 7)] += eighths
    # Integers up to 16 * 8 * 8, which float64 has exactly; NumPy multiplies matrices of integers much more slowly.
    ink = (weights @ counts.astype(np.float64) @ weights.T).astype(np.int64)
    grey: np.ndarray = ((ink * 255 + 512) // 1024).astype(np.uint8)
    return grey[:, None]
