"""Builds the `Batch` given to a detector from the inputs it declares in `needs`, read from the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.pictures.block import block_of
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch, Classifier
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.set_arrays import OnceOf, SetArrays, array_parts, as_tensor, named_parts

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


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
    arrays = SetArrays(
        outputs.data.images,
        context.store.load_array(outputs.logits) if "logits" in detector.needs else None,
        context.store.load_array(outputs.features) if "features" in detector.needs else None,
        context.labels(outputs.data) if labelled else None,
    )
    parts = array_parts(detector, arrays, labelled)
    if detector.reads and outputs.named is not None:
        parts |= named_parts(detector, job.checkpoint.named, context.store.load_array(outputs.named))
    if reduced := outputs.maps.get(str(canonical(detector))):
        maps = context.store.load_array(reduced)
        parts["maps"] = lambda rows: as_tensor(maps[rows], np.float32)
    most = 0
    if "images" in detector.needs:
        data, channels = context.images(outputs.data), job.checkpoint.image_shape[0]
        images = data.images
        device = context.device  # not the context itself: through it, a detector could reach the test split
        order: Literal["C", "K"] = "K" if data.lazy is not None else "C"
        most = _most(context, job) if data.lazy is not None else 0
        parts["images"] = lambda rows: _pixels(images[rows], channels, order).to(device).float().div_(255)
    if similarities is not None:
        parts["similarities"] = similarities
    classifier = classifier_for(context, job, detector) if "network" in detector.needs else None
    size, once = outputs.data.images, None
    if labelled:
        once = once_of(context, outputs)(parts, detector.name)
    return Batch(size, parts, detector.name, classifier, bank=bank, most=most, once=once)


def once_of(context: JobContext, outputs: Outputs) -> OnceOf:
    """Makes what `Batch.once` of a labelled set calls."""
    identity = f"{outputs.data!r} {outputs.logits.digest} {outputs.features.digest}"
    return partial(context.shared_results.of, identity, outputs.data.images)


def _most(context: JobContext, job: FitJob | ScoreJob | TuneJob) -> int:
    """Images that a detector gets at a time, where they are resized for the network: those of a block of the pass."""
    return block_of(job.checkpoint.image_shape, str(context.library.files.view.preprocessing or ""))


def _pixels(rows: np.ndarray, channels: int, order: Literal["C", "K"]) -> Tensor:
    """Images in the network's channels, in memory of their own; channels last if they are decoded so (`order` "K")."""
    return torch.from_numpy(np.array(in_channels(rows, channels), order=order))


def classifier_for(context: JobContext, job: FitJob | ScoreJob | TuneJob, detector: Detector) -> Classifier:
    """The network as passed to a detector; only detectors that declare 'maps' can access its blocks."""
    classifier = context.classifier(job.checkpoint)
    return classifier if "maps" in detector.needs else classifier.without_blocks()
