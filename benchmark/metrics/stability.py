"""How well a score tells slightly changed ID images from the same images unchanged, as AUROC; 0.5: not at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.metrics.names import STABILITY

IMAGES = 150
"""At most this many ID test images are changed, evenly spaced in stored order."""


def changed_rows(images: int) -> NDArray[np.intp]:
    """Rows of the ID test images that are changed, given the number of test images."""
    count = min(images, IMAGES)
    return np.arange(count) * images // count


def stability(id_scores: NDArray[np.float64], changed_scores: NDArray[np.float64]) -> dict[str, float]:
    """AUROC of changed against unchanged images for every change, by the names of `STABILITY`.

    Args:
        id_scores: Scores of all ID test images, (N,); higher = more OOD.
        changed_scores: Scores of the changed images, (changes x M,): the M images under the first change, under the
            second, and so on.

    Raises:
        MetricError: A score is not finite, or the numbers of scores do not fit.
    """
    unchanged = id_scores[changed_rows(len(id_scores))]
    if np.shape(changed_scores) != (len(STABILITY) * len(unchanged),):
        raise MetricError(
            f"scores of changed images have shape {np.shape(changed_scores)}; expected {len(STABILITY)} x "
            f"{len(unchanged)} scores in one row"
        )
    by_change = changed_scores.reshape(len(STABILITY), len(unchanged))
    return {name: auroc(unchanged, scores) for name, scores in zip(STABILITY, by_change, strict=True)}
