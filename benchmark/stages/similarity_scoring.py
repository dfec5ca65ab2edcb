"""Detectors that compare images with the same training images, scored together, block by block (bank.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plan.jobs import Outputs, ScoreJob, TuneJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_inputs import checked_scores, make_batch, refuse_batch_dependence

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


class DetectorScores(NamedTuple):
    """A detector's scores of a set, (N,), and the seconds of making them alone: the product's and its own."""

    scores: np.ndarray
    seconds: float


class DetectorPass:
    """One detector among those that go through a set together. What it raises is its own: the others go on.

    Random numbers are seeded anew in each block, so that a detector draws the same alone and among others.
    """

    def __init__(self, detector: Detector, seed: int, product: SharedBlock) -> None:
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

    def outcome(self) -> DetectorScores | Exception:
        """What became of it."""
        return self.failed or DetectorScores(np.concatenate(self.scores), self.seconds + self.product.seconds)

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


def score_together(
    context: JobContext, job: ScoreJob | TuneJob, detectors: Sequence[Detector], outputs: Outputs, tick: Tick
) -> list[DetectorScores | Exception]:
    """What each detector gives on a set, or what it raised; the first bank's detectors first, told of progress."""
    source = job.train if isinstance(job, TuneJob) else job.bank
    if source is None:
        raise AssertionError(f"'{job.title}' names no training split to compare with")
    outcomes: list[DetectorScores | Exception | None] = [None] * len(detectors)
    groups: list[tuple[Tensor, list[int]]] = []
    for place, detector in enumerate(detectors):
        try:
            rows = bank_rows(context, detector, source)
        except Exception as error:  # a plug-in may raise anything
            outcomes[place] = error
            continue
        same = [places for other, places in groups if torch.equal(rows, other)]
        if same:
            same[0].append(place)
        else:
            groups.append((rows, [place]))
    for number, (rows, places) in enumerate(groups):
        bank = TrainingBank(context.store.load_array(source.features), rows)
        turns = _score_in_turns(
            context, job, [detectors[place] for place in places], outputs, bank, tick if not number else None
        )
        for place, turn in zip(places, turns, strict=True):
            outcomes[place] = turn.outcome()
    return [outcome for outcome in outcomes if outcome is not None]


def _score_in_turns(
    context: JobContext,
    job: ScoreJob | TuneJob,
    detectors: Sequence[Detector],
    outputs: Outputs,
    bank: TrainingBank,
    tick: Tick | None,
) -> list[DetectorPass]:
    """Show a set to detectors of one bank: block after block, each detector in turn."""
    features = context.store.load_array(outputs.features)
    product = SharedBlock(lambda rows: bank.similarities(torch.from_numpy(np.array(features[rows]))))
    turns = [DetectorPass(detector, job.seed, product) for detector in detectors]
    batches = [make_batch(context, job, one, outputs, False, bank, product).batches(bank.block) for one in detectors]
    for number, blocks in enumerate(zip(*batches, strict=True)):
        for turn, block in zip(turns, blocks, strict=True):
            turn.take(block)
        for turn, block in zip(turns, blocks, strict=True) if number == 0 else ():
            turn.look_again(block)
        if tick is not None:
            tick(len(blocks[0]))
    return turns


def bank_rows(context: JobContext, detector: Detector, source: Outputs) -> Tensor:
    """Which training images a detector compares with, (B,)."""
    rows = detector.bank_rows(_bank_batch(context, detector, source))
    return torch.arange(source.data.images) if rows is None else rows


def _bank_batch(context: JobContext, detector: Detector, source: Outputs) -> Batch:
    """The training split as `bank_rows` sees it: labels and features, whatever else the detector declares."""
    features, labels = context.store.load_array(source.features), context.labels(source.data)
    parts: dict[str, Callable[[slice], Tensor]] = {
        "features": lambda rows: torch.from_numpy(np.array(features[rows])),
        "labels": lambda rows: torch.from_numpy(labels[rows].astype(np.int64)),
    }
    return Batch(source.data.images, parts, detector.name)
