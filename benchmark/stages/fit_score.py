"""Fits a detector on ID outputs, and scores sets with it."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.errors import PluginError, typed_first_line
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plan.used_code import refuse_other_code
from oodbench.benchmark.plan.weights.file import OUTPUTS
from oodbench.benchmark.plugins.detector import Detector, compares
from oodbench.benchmark.plugins.inputs import FitData, UndeclaredInputError
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.record import NOT_GIVEN
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detecting.fit_score import fit_detector, score_batches
from oodbench.benchmark.stages.detecting.set_arrays import no_images
from oodbench.benchmark.stages.detecting.similarities import DetectorScores
from oodbench.benchmark.stages.detector_inputs import classifier_for, fit_batch, make_batch
from oodbench.benchmark.stages.detector_state import chosen_settings, load_state, save_state
from oodbench.benchmark.stages.similarity_scoring import bank_rows, score_together

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def fit(context: JobContext, job: FitJob, tick: Tick) -> None:
    """Fit a detector and store what it learned."""
    context.shared_results.saved = 0.0
    detector = fitted_detector(context, job, job.detector)
    tick(job.size)
    about = context.about(job, earlier=context.shared_results.saved)  # the same cost, whoever computed it
    if detector.chosen_:
        about["chosen"] = chosen_settings(detector)
    context.store.save(job.makes[0], lambda path: save_state(detector, path), about)


def fitted_detector(context: JobContext, job: FitJob | TuneJob, spec: str) -> Detector:
    """A detector with settings, fitted on the outputs that the job names."""
    detector: Detector = create("detector", parse_spec(spec))
    if job.train and spec in job.train.observed:
        load_state(detector, context.store.require(job.train.observed[spec]))
    outliers = (
        fit_batch(context, job, detector, job.outliers) if job.outliers and "outliers" in detector.needs else None
    )
    train, validation = (
        fit_batch(context, job, detector, outputs) if outputs and detector.fits_images else no_images(detector)
        for outputs in (job.train, job.validation)
    )
    try:
        rows = bank_rows(context, detector, job.train) if job.train and compares(detector) else None
        data = FitData(train, validation, outliers, rows)
        return fit_detector(detector, classifier_for(context, job, detector), data, job.seed, context.device, spec)
    except Exception as error:  # a plug-in may raise anything
        if isinstance(error, UndeclaredInputError) and job.checkpoint.recipe == OUTPUTS:
            raise PluginError(f"it needs {error.name}, {NOT_GIVEN}.") from error
        if why := _outputs_without_images(job):
            raise PluginError(f"{typed_first_line(error).rstrip('.')}; {why}.") from error
        raise


def _outputs_without_images(job: FitJob | TuneJob) -> str:
    """What a detector may lack under a given head that keeps all of its outputs; empty under any other."""
    outputs = job.train.data.label_outputs if job.train else ()
    if not outputs:
        return ""
    missing, all_of_them = job.checkpoint.num_classes - len(outputs), job.checkpoint.num_classes
    return f"{missing:,} of the {all_of_them:,} outputs have no training images, as the head keeps all (head = all)"


def chosen(context: JobContext, job: ScoreJob) -> str:
    """The spec of a job's detector; with the chosen settings if it was tuned."""
    return job.detector if job.tuned is None else str(context.store.load_json(job.tuned)["detector"])


def score(context: JobContext, job: ScoreJob, tick: Tick) -> None:
    """Score every image of one set and store the scores, float64 (N,); higher = more OOD.

    For a detector that compares images with the training split, the other jobs that can share its similarities are done
    along with it. Those that are not ready yet, or fail, are left to their own turn.
    """
    if job.id in context.scored:
        context.scored.remove(job.id)
        tick(job.size)
        return
    spec = chosen(context, job)
    place = spec, job.outputs.logits.digest, job.outputs.features.digest
    known = context.chosen_scores.get(place) if job.tuned else None
    if known and context.store.has(known):  # another choice was the same
        seconds = context.store.about(known).get("seconds", 0.0)
        context.store.save_array(job.makes[0], context.store.load_array(known), context.about(job, seconds=seconds))
        tick(job.size)
        return
    if job.tuned:
        context.chosen_scores[place] = job.makes[0]
    detector = _ready(context, job)
    if not compares(detector):
        context.store.save_array(job.makes[0], scores_of(context, job, detector, job.outputs, tick), context.about(job))
        return
    ready = [
        (job, detector),
        *((other, fitted) for other in job.others if (fitted := _ready_or_none(context, other)) is not None),
    ]
    outcomes = score_together(context, job, [detector for _, detector in ready], job.outputs, tick)
    for (ready_job, _), outcome in zip(ready, outcomes, strict=True):
        if isinstance(outcome, DetectorScores):
            with (
                nullcontext() if ready_job is job else suppress(PluginError)
            ):  # of the others, raised in their own turn
                about = context.about(ready_job, seconds=round(outcome.seconds, 3))
                context.store.save_array(ready_job.makes[0], outcome.scores, about)
                if ready_job is not job:
                    context.scored.add(ready_job.id)
        elif ready_job is job:
            raise outcome


def _ready(context: JobContext, job: ScoreJob) -> Detector:
    """The detector of a job with its settings and its fitted state."""
    spec = chosen(context, job)
    detector: Detector = create("detector", parse_spec(spec))
    if state := job.state_of(spec):
        load_state(detector, context.store.require(state))
    return detector


def _ready_or_none(context: JobContext, job: ScoreJob) -> Detector | None:
    """The same; None if the job is done, waits for another one, or its detector cannot be restored."""
    if job.id in context.scored or not all(context.store.has(key) for key in (job.fitted, job.tuned) if key):
        return None
    try:
        refuse_other_code(job)
        return _ready(context, job)
    except Exception:  # raised and reported in its own turn
        return None


def scores_of(
    context: JobContext, job: ScoreJob | TuneJob, detector: Detector, outputs: Outputs, tick: Tick
) -> np.ndarray:
    """A fitted detector's scores of a set, float64 (N,); higher = more OOD."""
    if compares(detector):
        (outcome,) = score_together(context, job, [detector], outputs, tick)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.scores
    images = make_batch(context, job, detector, outputs, labelled=False)
    return score_batches(detector, images, job.checkpoint.num_classes, job.seed, context.device, tick)
