"""`SetArrays`: the logits, features and labels of one set, and how a detector reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import NAMED, Batch
from oodbench.benchmark.plugins.networks.with_outputs import split_outputs
from oodbench.benchmark.plugins.training_bank import TrainingBank

Parts = Mapping[str, Callable[[slice], Tensor]]
"""The inputs of a detector, as functions of rows."""

OnceOf = Callable[[Parts, str], Callable[..., Any]]
"""Makes what `Batch.once` of a set calls, from a detector's inputs and its name."""


@dataclass(frozen=True)
class SetArrays:
    """Arrays of N images, in memory or memory-mapped; what no detector reads may be None."""

    count: int
    """Number of images, N."""
    logits: np.ndarray | None = None
    """(N, K), read as float64."""
    features: np.ndarray | None = None
    """(N, D), read as float32."""
    labels: np.ndarray | None = None
    """Numbers of classes, integers (N,)."""
    once_of: OnceOf | None = None
    """What detectors share of a training split, for `Batch.once`; None: every one computes it."""

    def feature_rows(self, rows: slice) -> Tensor:
        """The features of some images, float32 (n, D), in memory of their own."""
        if self.features is None:
            raise AssertionError("this set has no features")
        return as_tensor(self.features[rows], np.float32)


def array_parts(detector: Detector, arrays: SetArrays, labelled: bool = False) -> dict[str, Callable[[slice], Tensor]]:
    """The inputs among logits and features that a detector declares, and labels if `labelled`: functions of rows.

    What is None is left out: reading it raises `PluginError`.
    """
    logits, features, labels = arrays.logits, arrays.features, arrays.labels
    parts: dict[str, Callable[[slice], Tensor]] = {}
    if "logits" in detector.needs and logits is not None:
        parts["logits"] = lambda rows: as_tensor(logits[rows], np.float64)
    if "features" in detector.needs and features is not None:
        parts["features"] = lambda rows: as_tensor(features[rows], np.float32)
    if labelled and labels is not None:
        parts["labels"] = lambda rows: torch.from_numpy(labels[rows].astype(np.int64))
    return parts


def named_parts(
    detector: Detector, named: Sequence[tuple[str, int]], stored: np.ndarray
) -> dict[str, Callable[[slice], Tensor]]:
    """The named outputs that a detector declares in `reads`: functions of rows.

    `named`: names and widths of all outputs; `stored`: their values side by side, (N, W).
    """
    columns = split_outputs(dict(named))

    def reader(name: str) -> Callable[[slice], Tensor]:
        return lambda rows: as_tensor(stored[rows, columns[name]], np.float64)

    return {NAMED + name: reader(name) for name in sorted(detector.reads & columns.keys())}


def array_batch(
    detector: Detector,
    arrays: SetArrays,
    labelled: bool = False,
    bank: TrainingBank | None = None,
    similarities: Callable[[slice], Tensor] | None = None,
) -> Batch:
    """A set of arrays as a detector sees it: only the inputs that it declares in `needs`, read lazily."""
    parts = array_parts(detector, arrays, labelled)
    if similarities is not None:
        parts["similarities"] = similarities
    return Batch(arrays.count, parts, detector.name or type(detector).__name__, bank=bank)


def no_images(detector: Detector) -> Batch:
    """What a detector whose `fit` reads no image gets in place of images."""
    return Batch(0, {}, detector.name or type(detector).__name__)


def as_tensor(rows: np.ndarray, dtype: type[np.floating[Any]]) -> Tensor:
    """Rows of an array, which may be memory-mapped and float16 on disk, read and converted, in memory of their own.

    torch converts float16 in vector registers, 7 to 14 times faster than NumPy; its rows are copied before, since torch
    takes no read-only memory.
    """
    if rows.dtype == np.float16:
        rows = torch.from_numpy(np.array(rows)).float().numpy()
        return torch.from_numpy(rows.astype(dtype, copy=False))
    return torch.from_numpy(np.array(rows, dtype=dtype))
