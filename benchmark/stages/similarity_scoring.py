"""Scores detectors that compare images with the same training images together, so that similarities are computed once.

A set goes through all of them block by block; every detector reads a block's similarities before the next one is
computed (plugins/training_bank.py).
"""

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
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_inputs import checked_scores, make_batch, refuse_batch_dependence
from oodbench.benchmark.stats.seeds import derive, restored_rng

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


class DetectorScores(NamedTuple):
    """A detector's scores of a set, float64 (N,), and the seconds it would take alone: similarities plus scoring."""

    scores: np.ndarray
    seconds: float


class DetectorPass:
    """One of the detectors that score a set together; if it raises, only this detector fails.

    Random numbers are seeded in every block, so that a detector draws the same numbers alone and among others.
    """

    def __init__(self, detector: Detector, seed: int, product: SharedBlock, device: torch.device) -> None:
        self.detector, self.seed, self.product, self.device = detector, seed, product, device
        self.scores: list[np.ndarray] = []
        self.error: Exception | None = None
        self.seconds = 0.0

    def score(self, block: Batch) -> None:
        """Score one block, unless the detector has failed before."""
        self._guard(lambda: self.scores.append(checked_scores(self.detector, block)))

    def check_batch_dependence(self, block: Batch) -> None:
        """Fail if the scores of the first block depend on the batch.

        Call it once all detectors have scored the block: it replaces the shared similarities by those of fewer rows.
        """
        self._guard(lambda: refuse_batch_dependence(self.detector, block, self.scores[0]))

    def outcome(self) -> DetectorScores | Exception:
        """The scores, or the error that the detector raised."""
        return self.error or DetectorScores(np.concatenate(self.scores), self.seconds + self.product.seconds)

    def _guard(self, call: Callable[[], object]) -> None:
        if self.error is not None:
            return
        start, shared = time.perf_counter(), self.product.seconds
        try:
            with restored_rng(self.device):
                torch.manual_seed(derive(self.seed, "score", str(canonical(self.detector)), len(self.scores)))
                call()
        except Exception as error:  # a plug-in may raise anything
            self.error = error
        self.seconds += time.perf_counter() - start - (self.product.seconds - shared)


def score_together(
    context: JobContext, job: ScoreJob | TuneJob, detectors: Sequence[Detector], outputs: Outputs, tick: Tick
) -> list[DetectorScores | Exception]:
    """Each detector's scores of a set, or the error that it raised, in the order of `detectors`.

    Detectors with the same bank of training images share its similarities. Progress counts the first bank only.
    """
    source = job.train if isinstance(job, TuneJob) else job.bank
    if source is None:
        raise AssertionError(f"'{job.title}' names no training split to compare with")
    outcomes: list[DetectorScores | Exception | None] = [None] * len(detectors)
    groups: list[tuple[Tensor, list[int]]] = []
    for index, detector in enumerate(detectors):
        try:
            rows = bank_rows(context, detector, source)
        except Exception as error:  # a plug-in may raise anything
            outcomes[index] = error
            continue
        same = [members for other, members in groups if torch.equal(rows, other)]
        if same:
            same[0].append(index)
        else:
            groups.append((rows, [index]))
    for number, (rows, members) in enumerate(groups):
        bank = TrainingBank(context.store.load_array(source.features), rows)
        group = [detectors[index] for index in members]
        passes = _score_group(context, job, group, outputs, bank, tick if number == 0 else None)
        for index, one_pass in zip(members, passes, strict=True):
            outcomes[index] = one_pass.outcome()
    return [outcome for outcome in outcomes if outcome is not None]


def _score_group(
    context: JobContext,
    job: ScoreJob | TuneJob,
    detectors: Sequence[Detector],
    outputs: Outputs,
    bank: TrainingBank,
    tick: Tick | None,
) -> list[DetectorPass]:
    """Score a set with detectors that share a bank: block by block, each detector in turn."""
    features = context.store.load_array(outputs.features)
    product = SharedBlock(lambda rows: bank.similarities(torch.from_numpy(np.array(features[rows], np.float32))))
    passes = [DetectorPass(detector, job.seed, product, context.device) for detector in detectors]
    batches = [make_batch(context, job, one, outputs, False, bank, product).batches(bank.block) for one in detectors]
    for number, blocks in enumerate(zip(*batches, strict=True)):
        for one_pass, block in zip(passes, blocks, strict=True):
            one_pass.score(block)
        for one_pass, block in zip(passes, blocks, strict=True) if number == 0 else ():
            one_pass.check_batch_dependence(block)
        if tick is not None:
            tick(len(blocks[0]))
    return passes


def bank_rows(context: JobContext, detector: Detector, source: Outputs) -> Tensor:
    """Indices of the training images that a detector compares with, int64 (B,); all images by default."""
    rows = detector.bank_rows(_bank_batch(context, detector, source))
    return torch.arange(source.data.images) if rows is None else rows


def _bank_batch(context: JobContext, detector: Detector, source: Outputs) -> Batch:
    """The training split as passed to `Detector.bank_rows`: labels and features, whatever the detector declares."""
    features, labels = context.store.load_array(source.features), context.labels(source.data)
    parts: dict[str, Callable[[slice], Tensor]] = {
        "features": lambda rows: torch.from_numpy(np.array(features[rows], np.float32)),
        "labels": lambda rows: torch.from_numpy(labels[rows].astype(np.int64)),
    }
    return Batch(source.data.images, parts, detector.name)
