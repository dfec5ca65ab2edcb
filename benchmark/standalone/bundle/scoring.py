"""Scores images as a run does, from pixels to scores: a network, a detector, and where it has one its bank.

A pass of a network and a product of matrices change their last bits with the number of images in a batch. `Scorer`
therefore works in pieces of a fixed size, the last one padded, so that an image has the same score alone and among
others. `Scorer.as_in_run` cuts and joins images as the stages do, for the bits of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.plan.precision import in_float32
from oodbench.benchmark.plugins.detector import Detector, reduces
from oodbench.benchmark.plugins.inputs import Batch, Classifier, ForwardOutput
from oodbench.benchmark.plugins.neighbours.hardware import torch_threads
from oodbench.benchmark.plugins.networks.with_outputs import joined_outputs
from oodbench.benchmark.plugins.networks.without_logits import WithoutLogits
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.fit_score import score_batches
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays, array_parts, as_tensor, named_parts
from oodbench.benchmark.stages.detecting.similarities import score_with_bank
from oodbench.benchmark.stages.extract import checked_reduction, padded
from oodbench.benchmark.stages.training.train_loop import floats

SCORED = 64
"""Images per call of `score` where a block of the network is smaller: products of few rows have other last bits."""

PROBES = 4

Pixels: TypeAlias = NDArray[Any]
"""Images in the network's channels and size: uint8, or float32 in [0, 1], (n, C, H, W)."""


@dataclass(frozen=True)
class Arithmetic:
    """What the last bits of scores depend on, besides the network and the detector."""

    block: int
    """Images per forward call."""
    threads: int
    """CPU threads."""
    features: str = "float32"
    """What the run stored features as."""
    from_features: bool = False
    """Whether logits were computed from stored features in blocks of `BLOCK`, as for a head fitted to features."""
    seed: int = 0
    """The run's seed, for detectors that draw random numbers."""
    most: int = 0
    """Most images that a detector which reads pixels gets at a time; 0 for no limit."""

    def on(self, threads: int) -> Arithmetic:
        """The same on another number of threads."""
        return replace(self, threads=threads)


class Passed(NamedTuple):
    """What a network's pass gives for some images, on the CPU, as the run stores it."""

    images: Pixels
    features: NDArray[np.floating[Any]]
    """(n, D)"""
    logits: NDArray[np.float32]
    """(n, K); (n, 0) of a network that is not trained to tell classes apart"""
    maps: NDArray[np.float32] | None
    """What the detector keeps of the feature maps, (n, M); None if it keeps nothing."""
    named: NDArray[np.float32] | None
    """The network's named outputs side by side, (n, W); None if it has none."""

    def at(self, rows: NDArray[np.intp]) -> Passed:
        """The same for the images at `rows`."""
        maps, named = (None if part is None else part[rows] for part in (self.maps, self.named))
        return Passed(self.images[rows], self.features[rows], self.logits[rows], maps, named)


class ScoredImages(NamedTuple):
    """Scores and logits of some images."""

    scores: NDArray[np.float64]
    """(n,); higher = more OOD."""
    logits: NDArray[np.float32]
    """(n, K); (n, 0) of a network that is not trained to tell classes apart"""


class Scorer:
    """A network and a fitted detector, which score images."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        bank: TrainingBank | None,
        arithmetic: Arithmetic,
        device: torch.device,
        block: int = 0,
        named: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Put the parts together.

        Args:
            classifier: The network, on `device`.
            detector: With its settings and its fitted state.
            bank: The training images that it compares with; None for detectors that do not.
            arithmetic: That of the run.
            device: Where the network computes.
            named: Names and widths of the network's named outputs.
            block: Images per piece; 0 for the run's. With 1, a single image costs one pass and no padding; the last
                bits of scores then differ from the run's.
        """
        self.classifier = classifier if "maps" in detector.needs else classifier.without_blocks()
        self.detector, self.bank, self.arithmetic, self.device = detector, bank, arithmetic, device
        self.block = block or arithmetic.block
        forwards = "network" in detector.needs
        self.piece = self.block if block or forwards else max(self.block, SCORED)
        self._classifier = classifier
        self.gives_logits, self.named = not isinstance(classifier, WithoutLogits), tuple(named)

    def __call__(self, images: Pixels) -> ScoredImages:
        """Score any number of images; each score is independent of the others in `images`."""
        return joined(self.pieces(images[start : start + self.piece] for start in range(0, len(images), self.piece)))

    def pieces(self, pieces: Iterable[Pixels]) -> Iterator[ScoredImages]:
        """Score pieces of at most `piece` images, one after the other."""
        for images in pieces:
            with on_threads(self.arithmetic.threads), in_float32(self.device):
                scored = self._piece(images)
            yield scored

    def as_in_run(self, images: Pixels) -> ScoredImages:
        """Score a whole set of images in the calls that a run makes for it: the bits of the run's scores.

        Only the last bits of few images differ from `__call__`, for detectors whose arithmetic depends on the number of
        images in a call.
        """
        with on_threads(self.arithmetic.threads), in_float32(self.device):
            blocks = (images[start : start + self.block] for start in range(0, len(images), self.block))
            passed = [self._pass(block, cut=True) for block in blocks]
            whole = _together(passed)
            return ScoredImages(self._scores(whole), whole.logits)

    def _piece(self, images: Pixels) -> ScoredImages:
        """Score at most `piece` images, in calls of the full size."""
        count = len(images)
        blocks = [images[start : start + self.block] for start in range(0, count, self.block)]
        passed = [self._pass(block, cut=False) for block in blocks]
        whole = _together(passed)
        # The last image stands in for those that are missing.
        full = whole.at(np.minimum(np.arange(self.piece), count - 1))
        return ScoredImages(self._scores(full)[:count], whole.logits[:count])

    def _pass(self, images: Pixels, cut: bool) -> Passed:
        """Forward a block of images, padded with black ones; `cut`: keep only what belongs to the images."""
        count, size = len(images), self.block
        block = _padded(images, size)
        with torch.inference_mode():
            tensor = torch.from_numpy(block).to(self.device)
            whole = floats(tensor) if images.dtype == np.uint8 else tensor.contiguous(memory_format=torch.channels_last)
            maps: list[Tensor] = []
            if reduces(self.detector):
                maps, features, logits = self._classifier.forward_with_maps(whole)
            else:
                maps, features, logits = self._classifier.outputs_of(self._classifier.features(whole), [])
            named = None
            if self.named:
                given = self._classifier.outputs(features)
                named = joined_outputs(given, dict(self.named), size, count).cpu().numpy()
            rows = slice(0, count if cut else size)
            features, logits, maps = features[rows], logits[rows], [part[rows] for part in maps]
            reduced = None
            if reduces(self.detector):
                reduced = checked_reduction(self.detector, ForwardOutput(maps, features, logits)).cpu().numpy()
        stored = features.float().cpu().numpy().astype(self.arithmetic.features)
        found = logits.float().cpu().numpy() if self.gives_logits else np.empty((len(stored), 0), np.float32)
        if self.arithmetic.from_features:
            found = self._classified(stored)
        return Passed(block[rows], stored, found, reduced, named)

    @torch.inference_mode()
    def _classified(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Logits (n, K) of stored features (n, D), in blocks of `BLOCK` as `stages.classify_features` computes them."""
        found = []
        for start in range(0, len(features), BLOCK):
            rows = features[start : start + BLOCK]
            whole = np.zeros((BLOCK, features.shape[1]), dtype=np.float32)
            whole[: len(rows)] = rows
            logits = self._classifier.head(torch.from_numpy(whole).to(self.device))
            found.append(logits[: len(rows)].float().cpu().numpy())
        return np.concatenate(found)

    def _scores(self, passed: Passed) -> NDArray[np.float64]:
        """Scores of images, (n,), by the code and with the seeds of a run."""
        arrays = SetArrays(len(passed.logits), passed.logits, passed.features)
        seed, device = self.arithmetic.seed, self.device
        if self.bank is None:
            batch = self._batch(passed, arrays)
            return score_batches(self.detector, batch, self.classifier.num_classes, seed, device, probe=False)

        def batch_with(detector: Detector, bank: TrainingBank, similarities: Callable[[slice], Tensor]) -> Batch:
            return self._batch(passed, arrays, bank, similarities)

        (outcome,) = score_with_bank([self.detector], self.bank, arrays, batch_with, seed, device, probe=False)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.scores

    def _batch(
        self,
        passed: Passed,
        arrays: SetArrays,
        bank: TrainingBank | None = None,
        similarities: Callable[[slice], Tensor] | None = None,
    ) -> Batch:
        """The images as the detector sees them: only what it declares in `needs`."""
        needs, device = self.detector.needs, self.device
        parts = array_parts(self.detector, arrays)
        if (maps := passed.maps) is not None:
            parts["maps"] = lambda rows: as_tensor(maps[rows], np.float32)
        if (named := passed.named) is not None:
            parts |= named_parts(self.detector, self.named, named)
        if "images" in needs:
            parts["images"] = lambda rows: _pixels(passed.images[rows]).to(device)
        if similarities is not None:
            parts["similarities"] = similarities
        classifier = self.classifier if "network" in needs else None
        return Batch(arrays.count, parts, self.detector.name, classifier, bank=bank, most=self.arithmetic.most)


def probe_images(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images of noise, uint8 (PROBES, C, H, W), always the same: they tell whether two machines score alike."""
    return np.random.RandomState(0).randint(0, 256, (PROBES, *shape)).astype(np.uint8)


def joined(pieces: Iterable[ScoredImages]) -> ScoredImages:
    """The scores and logits of several pieces, one or more, as one."""
    scores, logits = zip(*pieces, strict=True)
    return ScoredImages(np.concatenate(scores), np.concatenate(logits))


def _together(passed: Sequence[Passed]) -> Passed:
    """Several passes as one."""
    maps, named = (
        [rows for rows in parts if rows is not None]
        for parts in ([part.maps for part in passed], [part.named for part in passed])
    )
    return Passed(
        np.concatenate([part.images for part in passed]),
        np.concatenate([part.features for part in passed]),
        np.concatenate([part.logits for part in passed]),
        np.concatenate(maps) if maps else None,
        np.concatenate(named) if named else None,
    )


def _padded(images: Pixels, size: int) -> Pixels:
    """Images with black ones up to a size; of uint8 as the stage of extraction does it."""
    if images.dtype == np.uint8:
        return padded(images, size)
    whole = np.zeros((size, *images.shape[1:]), dtype=np.float32)
    whole[: len(images)] = images
    return whole


def _pixels(rows: Pixels) -> Tensor:
    """Images of a batch, float32 in [0, 1], in memory of their own."""
    tensor = torch.from_numpy(np.array(rows, order="K"))
    return tensor.float().div_(255) if rows.dtype == np.uint8 else tensor


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute on a number of CPU threads within the block, whatever the process computes on otherwise."""
    with _thread_pools(len(sys.modules)).limit(limits=count), torch_threads(count):
        yield


@lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """The thread pools of the libraries that are loaded; searched for again when `modules` have become more."""
    return ThreadpoolController()
