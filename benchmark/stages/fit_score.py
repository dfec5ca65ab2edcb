"""Fitting a detector on ID outputs, and scoring sets with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob, TuneJob
from oodbench.benchmark.plugins.detector import Detector, compares
from oodbench.benchmark.plugins.inputs import FitData
from oodbench.benchmark.plugins.specs import canonical, create, parse_spec
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_inputs import (
    checked_scores,
    classifier_for,
    fit_batch,
    images_per_call,
    make_batch,
    refuse_batch_dependence,
)
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.stages.similarity_scoring import DetectorScores, bank_rows, score_together

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def fit(context: JobContext, job: FitJob, tick: Tick) -> None:
    """Fit a detector and store what it learned."""
    detector = fitted_detector(context, job, chosen(context, job))
    tick(job.size)
    context.store.save(job.makes[0], lambda path: save_state(detector, path), context.about(job))


def fitted_detector(context: JobContext, job: FitJob | TuneJob, spec: str) -> Detector:
    """A detector with settings, fitted on what the job names."""
    detector: Detector = create("detector", parse_spec(spec))
    if spec in job.train.observed:
        load_state(detector, context.store.require(job.train.observed[spec]))
    outliers = (
        fit_batch(context, job, detector, job.outliers) if job.outliers and "outliers" in detector.needs else None
    )
    rows = bank_rows(context, detector, job.train) if compares(detector) else None
    data = FitData(
        fit_batch(context, job, detector, job.train), fit_batch(context, job, detector, job.validation), outliers, rows
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "fit", spec))
        detector.fit(classifier_for(context, job, detector), data)
    return detector


def chosen(context: JobContext, job: FitJob | ScoreJob) -> str:
    """The detector of a job, with the settings chosen for it if there was a choice."""
    return job.detector if job.tuned is None else str(context.store.load_json(job.tuned)["detector"])


def score(context: JobContext, job: ScoreJob, tick: Tick) -> None:
    """Score every image of one set and store the scores, float64.

    A detector that compares images with the training split takes along the other jobs that can share its product. One
    that is not ready yet, or fails, is left to its own turn.
    """
    if job.id in context.scored:
        context.scored.remove(job.id)
        tick(job.size)
        return
    detector = _ready(context, job)
    if not compares(detector):
        context.store.save_array(job.makes[0], scores_of(context, job, detector, job.outputs, tick), context.about(job))
        return
    ready = [
        (job, detector),
        *((one, made) for one in job.others if (made := _ready_or_none(context, one)) is not None),
    ]
    outcomes = score_together(context, job, [detector for _, detector in ready], job.outputs, tick)
    for (one, _), outcome in zip(ready, outcomes, strict=True):
        if isinstance(outcome, DetectorScores):
            context.store.save_array(
                one.makes[0], outcome.scores, context.about(one, seconds=round(outcome.seconds, 3))
            )
            if one is not job:
                context.scored.add(one.id)
        elif one is job:
            raise outcome


def _ready(context: JobContext, job: ScoreJob) -> Detector:
    """The detector of a job with its settings and what it has learned."""
    spec = chosen(context, job)
    detector: Detector = create("detector", parse_spec(spec))
    if learned := job.fitted or job.outputs.observed.get(spec):
        load_state(detector, context.store.require(learned))
    return detector


def _ready_or_none(context: JobContext, job: ScoreJob) -> Detector | None:
    if job.id in context.scored or not all(context.store.has(key) for key in (job.fitted, job.tuned) if key):
        return None
    try:
        return _ready(context, job)
    except Exception:  # told when it is its own turn
        return None


def scores_of(
    context: JobContext, job: ScoreJob | TuneJob, detector: Detector, outputs: Outputs, tick: Tick
) -> np.ndarray:
    """A fitted detector's scores of a set, float64 (N,)."""
    if compares(detector):
        (outcome,) = score_together(context, job, [detector], outputs, tick)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.scores
    scores: list[np.ndarray] = []
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "score", str(canonical(detector))))
        size = images_per_call(detector, job.checkpoint.num_classes)
        for batch in make_batch(context, job, detector, outputs, labelled=False).batches(size):
            scores.append(checked_scores(detector, batch))
            if len(scores) == 1 and "network" not in detector.needs:
                refuse_batch_dependence(detector, batch, scores[0])
            tick(len(batch))
    return np.concatenate(scores)
