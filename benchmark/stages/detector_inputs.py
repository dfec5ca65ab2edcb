"""Builds the `Batch` given to a detector from the inputs it declares in `needs`, and validates the returned scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.pictures.block import block_of
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob, TuneJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch, Classifier
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.plugins.training_bank import TrainingBank

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


BATCH, LOGITS = 1024, 2**17
"""Images per call of `score`; a detector that reads only logits gets as many images as have `LOGITS` logits (1 MB), if
that is more. A score depends on its own image alone, so that the batch size affects only memory and speed."""

PROBE, PROBE_TOLERANCE = 5, 1e-3
"""Images scored twice to detect dependence on the batch, and how far scores may differ, relative to their spread."""


def images_per_call(detector: Detector, classes: int) -> int:
    """How many images are passed to one call of `score`."""
    return max(BATCH, LOGITS // classes) if detector.needs == {"logits"} else BATCH


def checked_scores(detector: Detector, batch: Batch) -> np.ndarray:
    """The detector's scores of a batch, float64 (N,); higher = more OOD.

    Raises `PluginError` if the detector returns anything but one finite real number per image.
    """
    result: Any = detector.score(batch)
    scores = np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result)
    if scores.shape != (len(batch),) or scores.dtype.kind not in "iuf":
        raise PluginError(
            f"Detector '{detector.name}' returned {scores.dtype} of shape {scores.shape} for {len(batch)} images; "
            f"score() must return one float per image, shape ({len(batch)},)."
        )
    bad = ~np.isfinite(scores)
    if bad.any():
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


def fit_batch(context: JobContext, job: FitJob | TuneJob, detector: Detector, outputs: Outputs) -> Batch:
    """All images of a set that a detector may fit on, as one lazily read batch."""
    return make_batch(context, job, detector, outputs, labelled=context.images(outputs.data).labels is not None)


def make_batch(
    context: JobContext,
    job: FitJob | ScoreJob | TuneJob,
    detector: Detector,
    outputs: Outputs,
    labelled: bool,
    bank: TrainingBank | None = None,
    similarities: Callable[[slice], Tensor] | None = None,
) -> Batch:
    """A set as a detector sees it: only the inputs that it declares in `needs`, read lazily."""
    parts: dict[str, Callable[[slice], Tensor]] = {}
    if "logits" in detector.needs:
        logits = context.store.load_array(outputs.logits)
        parts["logits"] = lambda rows: _tensor(logits[rows], np.float64)
    if "features" in detector.needs:
        features = context.store.load_array(outputs.features)
        parts["features"] = lambda rows: _tensor(features[rows], np.float32)
    if reduced := outputs.maps.get(str(canonical(detector))):
        maps = context.store.load_array(reduced)
        parts["maps"] = lambda rows: _tensor(maps[rows], np.float32)
    most = 0
    if "images" in detector.needs:
        data, channels = context.images(outputs.data), job.checkpoint.image_shape[0]
        images = data.images
        device = context.device  # not the context itself: through it, a detector could reach the test split
        order: Literal["C", "K"] = "K" if data.lazy is not None else "C"
        most = _most(context, job) if data.lazy is not None else 0
        parts["images"] = lambda rows: _pixels(images[rows], channels, order).to(device).float().div_(255)
    if labelled:
        labels = context.labels(outputs.data)
        parts["labels"] = lambda rows: torch.from_numpy(labels[rows].astype(np.int64))
    if similarities is not None:
        parts["similarities"] = similarities
    classifier = classifier_for(context, job, detector) if "network" in detector.needs else None
    return Batch(outputs.data.images, parts, detector.name, classifier, bank=bank, most=most)


def _most(context: JobContext, job: FitJob | ScoreJob | TuneJob) -> int:
    """Images that a detector gets at a time, where they are resized for the network: those of a block of the pass."""
    return block_of(job.checkpoint.image_shape, str(context.library.files.view.preprocessing or ""))


def _pixels(rows: np.ndarray, channels: int, order: Literal["C", "K"]) -> Tensor:
    """Images in the network's channels, in memory of their own; channels last if they are decoded so (`order` "K")."""
    return torch.from_numpy(np.array(in_channels(rows, channels), order=order))


def _tensor(rows: np.ndarray, dtype: type[np.floating[Any]]) -> Tensor:
    """Rows of a memory-mapped array, which may be float16 on disk, read and converted in one copy."""
    return torch.from_numpy(np.array(rows, dtype=dtype))


def classifier_for(context: JobContext, job: FitJob | ScoreJob | TuneJob, detector: Detector) -> Classifier:
    """The network as passed to a detector; only detectors that declare 'maps' can access its blocks."""
    classifier = context.classifier(job.checkpoint)
    return classifier if "maps" in detector.needs else classifier.without_blocks()
