"""Fitting a detector on ID outputs, and scoring sets with it. What a detector does not declare, it is not handed.

Detectors that compare images with the same training images are scored together, block by block (`bank.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.bank import Bank, Shared
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
BATCH, LOGITS = 1024, 2**17
"""Images a call of `score`, or logits, 1 MB of them, where a detector reads nothing else and that is more images. A
score depends on its own image alone, so that this is a matter of memory and speed only."""
PROBE, PROBE_TOLERANCE = 5, 1e-3
"""Images scored twice to see whether the batch matters, and how far scores may differ, relative to their spread."""


def compares(detector: Detector) -> bool:
    """Whether it compares images with those of the training split."""
    return "similarities" in detector.needs


def images_at_once(detector: Detector, classes: int) -> int:
    """How many images a call of `score` is handed."""
    return max(BATCH, LOGITS // classes) if detector.needs == {"logits"} else BATCH


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
    rows = bank_rows(bench, detector, job.train) if compares(detector) else None
    data = FitData(whole(bench, job, detector, job.train), whole(bench, job, detector, job.validation), outliers, rows)
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "fit", spec))
        detector.fit(_classifier(bench, job, detector), data)
    return detector


def chosen(bench: Bench, job: FitJob | ScoreJob) -> str:
    """The detector of a job, with the settings chosen for it if there was a choice."""
    return job.detector if job.tuned is None else str(bench.store.load_json(job.tuned)["detector"])


def score(bench: Bench, job: ScoreJob, tick: Tick) -> None:
    """Score every image of one set and store the scores, float64.

    A detector that compares images with the training split takes along the other jobs that can share its product. One
    that is not ready yet, or fails, is left to its own turn.
    """
    if job.id in bench.scored:
        bench.scored.remove(job.id)
        tick(job.size)
        return
    detector = _ready(bench, job)
    if not compares(detector):
        bench.store.save_array(job.makes[0], scores_of(bench, job, detector, job.outputs, tick), bench.about(job))
        return
    ready = [(job, detector), *((one, made) for one in job.others if (made := _ready_or_none(bench, one)) is not None)]
    outcomes = _compared(bench, job, [detector for _, detector in ready], job.outputs, tick)
    for (one, _), outcome in zip(ready, outcomes, strict=True):
        if isinstance(outcome, Compared):
            bench.store.save_array(one.makes[0], outcome.scores, bench.about(one, seconds=round(outcome.seconds, 3)))
            if one is not job:
                bench.scored.add(one.id)
        elif one is job:
            raise outcome


def _ready(bench: Bench, job: ScoreJob) -> Detector:
    """The detector of a job with its settings and what it has learned."""
    spec = chosen(bench, job)
    detector: Detector = create("detector", parse_spec(spec))
    if learned := job.fitted or job.outputs.observed.get(spec):
        load_state(detector, bench.store.require(learned))
    return detector


def _ready_or_none(bench: Bench, job: ScoreJob) -> Detector | None:
    if job.id in bench.scored or not all(bench.store.has(key) for key in (job.fitted, job.tuned) if key):
        return None
    try:
        return _ready(bench, job)
    except Exception:  # told when it is its own turn
        return None


def scores_of(bench: Bench, job: ScoreJob | TuneJob, detector: Detector, outputs: Outputs, tick: Tick) -> np.ndarray:
    """A fitted detector's scores of a set, float64 (N,)."""
    if compares(detector):
        (outcome,) = _compared(bench, job, [detector], outputs, tick)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.scores
    scores: list[np.ndarray] = []
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "score", str(canonical(detector))))
        size = images_at_once(detector, job.checkpoint.num_classes)
        for batch in _batch(bench, job, detector, outputs, labelled=False).batches(size):
            scores.append(checked_scores(detector, batch))
            if len(scores) == 1 and "network" not in detector.needs:
                refuse_batch_dependence(detector, batch, scores[0])
            tick(len(batch))
    return np.concatenate(scores)


# Detectors that compare images with the training split


class Compared(NamedTuple):
    """A detector's scores of a set, (N,), and the seconds of making them alone: the product's and its own."""

    scores: np.ndarray
    seconds: float


class _Turn:
    """One detector among those that go through a set together. What it raises is its own: the others go on.

    Random numbers are seeded anew in each block, so that a detector draws the same alone and among others.
    """

    def __init__(self, detector: Detector, seed: int, product: Shared) -> None:
        self.detector, self.seed, self.product = detector, seed, product
        self.scores: list[np.ndarray] = []
        self.failed: Exception | None = None
        self.seconds = 0.0

    def take(self, block: Batch) -> None:
        """Score a block."""
        self._guard(lambda: self.scores.append(checked_scores(self.detector, block)))

    def look_again(self, block: Batch) -> None:
        """Refuse scores that depend on the batch; after all have scored the block, whose product is then let go."""
        self._guard(lambda: refuse_batch_dependence(self.detector, block, self.scores[0]))

    def outcome(self) -> Compared | Exception:
        """What became of it."""
        return self.failed or Compared(np.concatenate(self.scores), self.seconds + self.product.seconds)

    def _guard(self, call: Callable[[], object]) -> None:
        if self.failed is not None:
            return
        start, shared = time.perf_counter(), self.product.seconds
        try:
            with torch.random.fork_rng():
                torch.manual_seed(derive(self.seed, "score", str(canonical(self.detector)), len(self.scores)))
                call()
        except Exception as error:  # a plug-in may raise anything
            self.failed = error
        self.seconds += time.perf_counter() - start - (self.product.seconds - shared)


def _compared(
    bench: Bench, job: ScoreJob | TuneJob, detectors: Sequence[Detector], outputs: Outputs, tick: Tick
) -> list[Compared | Exception]:
    """What each detector gives on a set, or what it raised; the first bank's detectors first, told of progress."""
    source = job.train if isinstance(job, TuneJob) else job.bank
    if source is None:
        raise AssertionError(f"'{job.title}' names no training split to compare with")
    outcomes: list[Compared | Exception | None] = [None] * len(detectors)
    groups: list[tuple[Tensor, list[int]]] = []
    for place, detector in enumerate(detectors):
        try:
            rows = bank_rows(bench, detector, source)
        except Exception as error:  # a plug-in may raise anything
            outcomes[place] = error
            continue
        same = [places for other, places in groups if torch.equal(rows, other)]
        if same:
            same[0].append(place)
        else:
            groups.append((rows, [place]))
    for number, (rows, places) in enumerate(groups):
        bank = Bank(bench.store.load_array(source.features), rows)
        turns = _in_turns(
            bench, job, [detectors[place] for place in places], outputs, bank, tick if not number else None
        )
        for place, turn in zip(places, turns, strict=True):
            outcomes[place] = turn.outcome()
    return [outcome for outcome in outcomes if outcome is not None]


def _in_turns(
    bench: Bench,
    job: ScoreJob | TuneJob,
    detectors: Sequence[Detector],
    outputs: Outputs,
    bank: Bank,
    tick: Tick | None,
) -> list[_Turn]:
    """Show a set to detectors of one bank: block after block, each detector in turn."""
    features = bench.store.load_array(outputs.features)
    product = Shared(lambda rows: bank.similarities(torch.from_numpy(np.array(features[rows]))))
    turns = [_Turn(detector, job.seed, product) for detector in detectors]
    batches = [_batch(bench, job, one, outputs, False, bank, product).batches(bank.block) for one in detectors]
    for number, blocks in enumerate(zip(*batches, strict=True)):
        for turn, block in zip(turns, blocks, strict=True):
            turn.take(block)
        for turn, block in zip(turns, blocks, strict=True) if number == 0 else ():
            turn.look_again(block)
        if tick is not None:
            tick(len(blocks[0]))
    return turns


def bank_rows(bench: Bench, detector: Detector, source: Outputs) -> Tensor:
    """Which training images a detector compares with, (B,)."""
    rows = detector.bank_rows(_bank_batch(bench, detector, source))
    return torch.arange(source.data.images) if rows is None else rows


def _bank_batch(bench: Bench, detector: Detector, source: Outputs) -> Batch:
    """The training split as `bank_rows` sees it: labels and features, whatever else the detector declares."""
    features, labels = bench.store.load_array(source.features), bench.labels(source.data)
    parts: dict[str, Callable[[slice], Tensor]] = {
        "features": lambda rows: torch.from_numpy(np.array(features[rows])),
        "labels": lambda rows: torch.from_numpy(labels[rows].astype(np.int64)),
    }
    return Batch(source.data.images, parts, detector.name)


# What a detector is handed, and what it returns


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
    bench: Bench,
    job: FitJob | ScoreJob | TuneJob,
    detector: Detector,
    outputs: Outputs,
    labelled: bool,
    bank: Bank | None = None,
    similarities: Callable[[slice], Tensor] | None = None,
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
    if similarities is not None:
        parts["similarities"] = similarities
    classifier = _classifier(bench, job, detector) if "network" in detector.needs else None
    return Batch(outputs.data.images, parts, detector.name, classifier, bank=bank)


def _tensor(rows: np.ndarray, dtype: type[np.floating[Any]]) -> Tensor:
    """Rows of a memory-mapped array, which may be float16 on disk, in one copy: only these are read."""
    return torch.from_numpy(np.array(rows, dtype=dtype))


def _classifier(bench: Bench, job: FitJob | ScoreJob | TuneJob, detector: Detector) -> Classifier:
    classifier = bench.classifier(job.checkpoint)
    return classifier if "maps" in detector.needs else classifier.without_blocks()
