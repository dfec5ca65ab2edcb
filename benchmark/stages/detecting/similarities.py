"""Scores detectors that compare images with the same training images together, so that similarities are computed once.

A set goes through all of them block by block; every detector reads a block's similarities before the next one is
computed (plugins/training_bank.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Batch
from oodbench.benchmark.plugins.neighbours.shared import SharedProduct
from oodbench.benchmark.plugins.specs import canonical
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank
from oodbench.benchmark.stages.detecting.fit_score import CPU
from oodbench.benchmark.stages.detecting.score_checks import checked_scores, refuse_batch_dependence
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays
from oodbench.benchmark.stats.seeds import derive, restored_rng, seed_torch

BatchWith = Callable[[Detector, TrainingBank, SharedBlock], Batch]
"""Makes the batch of a set for one of the detectors, with the bank and the similarities that they share."""


class DetectorScores(NamedTuple):
    """A detector's scores of a set, float64 (N,), and the seconds it would take alone: similarities plus scoring."""

    scores: np.ndarray
    seconds: float


class _DetectorPass:
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
        """Fail if the scores of the first block depend on the batch."""
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
                seed = derive(self.seed, "score", str(canonical(self.detector)), len(self.scores))
                seed_torch(seed, self.device)
                call()
        except Exception as error:  # a plug-in may raise anything
            self.error = error
        self.seconds += time.perf_counter() - start - (self.product.seconds - shared)


def bank_rows(detector: Detector, train: SetArrays) -> Tensor:
    """Indices of the training images that a detector compares with, int64 (B,); all images by default.

    `bank_rows` of the detector gets the features and, where there are any, the labels of the training split, whatever
    it declares.
    """
    labels = train.labels
    parts: dict[str, Callable[[slice], Tensor]] = {"features": train.feature_rows}
    if labels is not None:
        parts["labels"] = lambda rows: torch.from_numpy(labels[rows].astype(np.int64))
    once = train.once_of(parts, detector.name) if train.once_of else None
    rows = detector.bank_rows(Batch(train.count, parts, detector.name, once=once))
    return torch.arange(train.count) if rows is None else rows


def score_together(
    detectors: Sequence[Detector],
    train: SetArrays,
    images: SetArrays,
    batch_with: BatchWith,
    seed: int,
    device: torch.device = CPU,
    tick: Callable[[int], None] | None = None,
) -> list[DetectorScores | Exception]:
    """Each detector's scores of a set, or the error that it raised, in the order of `detectors`.

    Detectors with the same bank of training images share its similarities. Progress counts the first bank only.

    Args:
        detectors: Fitted detectors that declare 'similarities'.
        train: Features and labels of the training split.
        images: Features of the set.
        batch_with: Makes the batch of the set for a detector.
        seed: The run's seed.
        device: Where the classifier computes.
        tick: Called with the number of images after every block.
    """
    outcomes: list[DetectorScores | Exception | None] = [None] * len(detectors)
    groups: list[tuple[Tensor, list[int]]] = []
    for index, detector in enumerate(detectors):
        try:
            rows = bank_rows(detector, train)
        except Exception as error:  # a plug-in may raise anything
            outcomes[index] = error
            continue
        same = [members for other, members in groups if torch.equal(rows, other)]
        if same:
            same[0].append(index)
        else:
            groups.append((rows, [index]))
    for number, (rows, members) in enumerate(groups):
        if train.features is None:
            raise AssertionError("the training split has no features to compare with")
        bank, group = TrainingBank(train.features, rows), [detectors[index] for index in members]
        found = score_with_bank(group, bank, images, batch_with, seed, device, tick if number == 0 else None)
        for index, outcome in zip(members, found, strict=True):
            outcomes[index] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def score_with_bank(
    detectors: Sequence[Detector],
    bank: TrainingBank,
    images: SetArrays,
    batch_with: BatchWith,
    seed: int,
    device: torch.device = CPU,
    tick: Callable[[int], None] | None = None,
    probe: bool = True,
) -> list[DetectorScores | Exception]:
    """Score a set with detectors that share a bank: block by block, each detector in turn.

    The arguments are those of `score_together`; `probe`: whether to score the first images once more, in a smaller
    batch, to find scores that depend on it.
    """
    product = SharedProduct(bank, images.feature_rows, images.count, device)
    passes = [_DetectorPass(detector, seed, product, device) for detector in detectors]
    batches = [batch_with(detector, bank, product).batches(bank.block) for detector in detectors]
    for number, blocks in enumerate(zip(*batches, strict=True)):
        for one_pass, block in zip(passes, blocks, strict=True):
            one_pass.score(block)
        for one_pass, block in zip(passes, blocks, strict=True) if probe and number == 0 else ():
            one_pass.check_batch_dependence(block)
        if tick is not None:
            tick(len(blocks[0]))
    product.release()
    return [one_pass.outcome() for one_pass in passes]
