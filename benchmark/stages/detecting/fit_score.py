"""Fits a detector, and scores batches with it, with the seeds and the sizes of batches of a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch, Classifier, FitData
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.stages.detecting.score_checks import checked_scores, refuse_batch_dependence
from oodbench.benchmark.stats.seeds import derive, restored_rng, seed_torch

CPU = torch.device("cpu")

BATCH, LOGITS = 1024, 2**17
"""Images per call of `score`; a detector that reads only logits gets as many images as have `LOGITS` logits (1 MB), if
that is more. A score depends on its own image alone, so that the batch size affects only memory and speed."""


def images_per_call(detector: Detector, classes: int) -> int:
    """How many images are passed to one call of `score`."""
    return max(BATCH, LOGITS // classes) if detector.needs == {"logits"} else BATCH


def fit_detector(
    detector: Detector,
    classifier: Classifier,
    data: FitData,
    seed: int,
    device: torch.device = CPU,
    spec: str = "",
) -> Detector:
    """Fit a detector in place and return it; torch's random numbers are seeded as in a run, and restored afterwards.

    Args:
        detector: A detector that is not fitted yet.
        classifier: The classifier, or `HeadOnly`.
        data: What it may learn from; `data.bank` from `similarities.bank_rows` if it declares 'similarities'.
        seed: The run's seed.
        device: Where the classifier computes.
        spec: The detector's name in the seed; its name with settings by default.
    """
    with restored_rng(device):
        seed_torch(derive(seed, "fit", spec or str(canonical(detector))), device)
        detector.fit(classifier, data)
    return detector


def score_batches(
    detector: Detector,
    images: Batch,
    classes: int,
    seed: int,
    device: torch.device = CPU,
    tick: Callable[[int], None] | None = None,
    probe: bool = True,
) -> np.ndarray:
    """Scores of all images of a batch by a detector that does not compare them with training images.

    Args:
        detector: A fitted detector.
        images: The images with what the detector declares; they are scored in consecutive pieces.
        classes: Number of classes, K; the size of pieces depends on it.
        seed: The run's seed.
        device: Where the classifier computes.
        tick: Called with the number of images after every piece.
        probe: Whether to score the first images once more, in a smaller batch, unless scoring runs the network.

    Returns:
        float64 (N,); higher = more OOD.

    Raises:
        PluginError: Scores are not one finite number per image, or depend on the batch.
    """
    # Written into place: small arrays of many batches, kept among large tensors that are freed, fragment the memory.
    scores, done = np.empty(len(images)), 0
    with restored_rng(device):
        seed_torch(derive(seed, "score", str(canonical(detector))), device)
        for batch in images.batches(images_per_call(detector, classes)):
            found = checked_scores(detector, batch)
            if probe and done == 0 and "network" not in detector.needs:
                refuse_batch_dependence(detector, batch, found)
            scores[done : done + len(batch)] = found
            done += len(batch)
            if tick is not None:
                tick(len(batch))
    return scores
