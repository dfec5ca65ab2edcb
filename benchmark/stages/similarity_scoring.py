"""Scores sets of a run with detectors that compare images with training images, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from oodbench.benchmark.plan.jobs import Outputs, ScoreJob
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detecting import similarities
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays
from oodbench.benchmark.stages.detecting.similarities import DetectorScores
from oodbench.benchmark.stages.detector_inputs import make_batch, once_of

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def score_together(
    context: JobContext, job: ScoreJob | TuneJob, detectors: Sequence[Detector], outputs: Outputs, tick: Tick
) -> list[DetectorScores | Exception]:
    """Each detector's scores of a set, or the error that it raised, in the order of `detectors`.

    Detectors with the same bank of training images share its similarities. Progress counts the first bank only.
    """
    source = job.train if isinstance(job, TuneJob) else job.bank
    if source is None:
        raise AssertionError(f"'{job.title}' names no training split to compare with")
    images = SetArrays(outputs.data.images, features=context.store.load_array(outputs.features))
    return similarities.score_together(
        detectors,
        _bank_arrays(context, source),
        images,
        lambda detector, bank, product: make_batch(context, job, detector, outputs, False, bank, product),
        job.seed,
        context.device,
        tick,
    )


def bank_rows(context: JobContext, detector: Detector, source: Outputs) -> Tensor:
    """Indices of the training images that a detector compares with, int64 (B,); all images by default."""
    return similarities.bank_rows(detector, _bank_arrays(context, source))


def _bank_arrays(context: JobContext, source: Outputs) -> SetArrays:
    """The training split as passed to `Detector.bank_rows`: features and, unless outputs are given without, labels."""
    features, has_labels = context.store.load_array(source.features), context.images(source.data).labels is not None
    labels = context.labels(source.data) if has_labels else None
    return SetArrays(source.data.images, features=features, labels=labels, once_of=once_of(context, source))
