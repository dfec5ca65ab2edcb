"""Checks of what a detector returns: one finite number per image, from that image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from oodbench.benchmark.errors import PluginError, counted
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch

PROBE, PROBE_TOLERANCE = 5, 1e-3
"""Images scored twice to detect dependence on the batch, and how far scores may differ, relative to their spread."""


def checked_scores(detector: Detector, batch: Batch) -> np.ndarray:
    """The detector's scores of a batch, float64 (N,); higher = more OOD.

    Raises `PluginError` if the detector returns anything but one finite real number per image.
    """
    result: Any = detector.score(batch)
    scores = np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result)
    if scores.shape != (len(batch),) or scores.dtype.kind not in "iuf":
        raise PluginError(
            f"Detector '{detector.name}' returned {scores.dtype} of shape {scores.shape} for "
            f"{counted(len(batch), 'image')}; score() must return one float per image, shape ({len(batch)},)."
        )
    finite = np.isfinite(scores)
    if not finite.all():
        bad = ~finite
        raise PluginError(
            f"Detector '{detector.name}' returned {bad.sum()} NaN or infinite scores of {len(batch)}, the first for "
            f"image {int(bad.argmax())} of the batch; every score must be finite."
        )
    return scores.astype(np.float64)


def refuse_batch_dependence(detector: Detector, batch: Batch, scores: np.ndarray) -> None:
    """Raise `PluginError` if the first images get other scores in a smaller batch, as with batch statistics.

    Only for scores that need no network pass; `bench check` tests every detector more thoroughly.
    """
    alone = checked_scores(detector, next(batch.batches(PROBE)))
    together, spread = scores[: len(alone)], float(np.ptp(scores))
    worst = int(np.abs(alone - together).argmax())
    if abs(alone[worst] - together[worst]) > PROBE_TOLERANCE * max(spread, abs(float(together[worst]))):
        raise PluginError(
            f"The score of detector '{detector.name}' depends on the batch: image {worst} gets {together[worst]:.6g} "
            f"in a batch of {len(scores)} and {alone[worst]:.6g} in a batch of {len(alone)}; it must depend on the "
            "image alone."
        )
