"""Fitting a detector on ID outputs, and scoring sets with it. What a detector does not declare, it is not handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.contract import Batch, Classifier, Detector, FitData
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.jobs import FitJob, Outputs, ScoreJob, TuneJob
from oodbench.benchmark.loop import Tick
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.specs import canonical, create, parse_spec
from oodbench.benchmark.state import load_state, save_state

if TYPE_CHECKING:
    from oodbench.benchmark.work import Bench

SCORING_VERSION = "1"
BATCH = 1024
"""Images a call of `score`; a score depends on its own image alone, so that this is a matter of memory only."""
PROBE, PROBE_TOLERANCE = 5, 1e-3
"""Images scored twice to see whether the batch matters, and how far scores may differ, relative to their spread."""


def fit(bench: Bench, job: FitJob, tick: Tick) -> None:
    """Fit a detector and store what it learned."""
    detector = fitted_detector(bench, job, chosen(bench, job))
    tick(job.size)
    bench.store.save(job.makes[0], lambda path: save_state(detector, path), bench.about(job))


def fitted_detector(bench: Bench, job: FitJob | TuneJob, spec: str) -> Detector:
    """A detector with settings, fitted on what the job names."""
    detector: Detector = create("detector", parse_spec(spec))
    if spec in job.train.observed:
        load_state(detector, bench.store.require(job.train.observed[spec]))
    outliers = whole(bench, job, detector, job.outliers) if job.outliers and "outliers" in detector.needs else None
    data = FitData(whole(bench, job, detector, job.train), whole(bench, job, detector, job.validation), outliers)
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "fit", spec))
        detector.fit(_classifier(bench, job, detector), data)
    return detector


def chosen(bench: Bench, job: FitJob | ScoreJob) -> str:
    """The detector of a job, with the settings chosen for it if there was a choice."""
    return job.detector if job.tuned is None else str(bench.store.load_json(job.tuned)["detector"])


def score(bench: Bench, job: ScoreJob, tick: Tick) -> None:
    """Score every image of one set and store the scores, float64."""
    spec = chosen(bench, job)
    detector: Detector = create("detector", parse_spec(spec))
    if learned := job.fitted or job.outputs.observed.get(spec):
        load_state(detector, bench.store.require(learned))
    bench.store.save_array(job.makes[0], scores_of(bench, job, detector, job.outputs, tick), bench.about(job))


def scores_of(bench: Bench, job: ScoreJob | TuneJob, detector: Detector, outputs: Outputs, tick: Tick) -> np.ndarray:
    """A fitted detector's scores of a set, float64 (N,)."""
    scores: list[np.ndarray] = []
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "score", str(canonical(detector))))
        for batch in _batch(bench, job, detector, outputs, labelled=False).batches(BATCH):
            scores.append(checked_scores(detector, batch))
            if len(scores) == 1 and "network" not in detector.needs:
                refuse_batch_dependence(detector, batch, scores[0])
            tick(len(batch))
    return np.concatenate(scores)


def checked_scores(detector: Detector, batch: Batch) -> np.ndarray:
    """The detector's scores of a batch as float64 (N,); anything else it returns is an error that says what."""
    result: Any = detector.score(batch)
    scores = np.asarray(result.detach().cpu() if isinstance(result, Tensor) else result)
    if scores.shape != (len(batch),) or scores.dtype.kind not in "iuf":
        raise PluginError(
            f"Detector '{detector.name}' returned {scores.dtype} of shape {scores.shape} for {len(batch)} images; "
            f"score() must return one float an image, shape ({len(batch)},)."
        )
    bad = ~np.isfinite(scores)
    if bad.any():
        raise PluginError(
            f"Detector '{detector.name}' returned {bad.sum()} NaN or infinite scores of {len(batch)}, the first for "
            f"image {int(bad.argmax())} of the batch; every score must be finite."
        )
    return scores.astype(np.float64)


def refuse_batch_dependence(detector: Detector, batch: Batch, scores: np.ndarray) -> None:
    """Score the first images once more, in a batch of their own: a score that uses the batch's statistics differs.

    Only for scores that cost no network pass; `bench check` looks closer, at every detector.
    """
    alone = checked_scores(detector, next(batch.batches(PROBE)))
    together, spread = scores[: len(alone)], float(np.ptp(scores))
    worst = int(np.abs(alone - together).argmax())
    if abs(alone[worst] - together[worst]) > PROBE_TOLERANCE * max(spread, abs(float(together[worst]))):
        raise PluginError(
            f"The score of detector '{detector.name}' depends on the batch: image {worst} has {together[worst]:.6g} "
            f"among {len(scores)} and {alone[worst]:.6g} among {len(alone)}; it must depend on the image alone."
        )


def whole(bench: Bench, job: FitJob | TuneJob, detector: Detector, outputs: Outputs) -> Batch:
    """All images of a set that a detector may fit on, as one lazily read batch."""
    return _batch(bench, job, detector, outputs, labelled=bench.images(outputs.data).labels is not None)


def _batch(
    bench: Bench, job: FitJob | ScoreJob | TuneJob, detector: Detector, outputs: Outputs, labelled: bool
) -> Batch:
    parts: dict[str, Callable[[slice], Tensor]] = {}
    if "logits" in detector.needs:
        logits = bench.store.load_array(outputs.logits)
        parts["logits"] = lambda rows: _tensor(logits[rows], np.float64)
    if "features" in detector.needs:
        features = bench.store.load_array(outputs.features)
        parts["features"] = lambda rows: _tensor(features[rows], np.float32)
    if kept := outputs.maps.get(str(canonical(detector))):
        maps = bench.store.load_array(kept)
        parts["maps"] = lambda rows: _tensor(maps[rows], np.float32)
    if "images" in detector.needs:
        images = bench.images(outputs.data).images
        device = bench.device  # not the bench itself: a detector could reach the test split through it
        parts["images"] = lambda rows: torch.from_numpy(np.array(images[rows])).to(device).float().div_(255)
    if labelled:
        labels = bench.labels(outputs.data)
        parts["labels"] = lambda rows: torch.from_numpy(labels[rows].astype(np.int64))
    classifier = _classifier(bench, job, detector) if "network" in detector.needs else None
    return Batch(outputs.data.images, parts, detector.name, classifier)


def _tensor(rows: np.ndarray, dtype: type[np.floating[Any]]) -> Tensor:
    """Rows of a memory-mapped array, which may be float16 on disk, in one copy: only these are read."""
    return torch.from_numpy(np.array(rows, dtype=dtype))


def _classifier(bench: Bench, job: FitJob | ScoreJob | TuneJob, detector: Detector) -> Classifier:
    classifier = bench.classifier(job.checkpoint)
    return classifier if "maps" in detector.needs else classifier.without_blocks()
