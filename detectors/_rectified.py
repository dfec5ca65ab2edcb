"""`Rectified`, the base of detectors that take the energy of changed features, and exact percentiles of features."""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData
from oodbench.detectors._head import energy, head

COUNTED = 256
"""Images whose features are counted at a time, so that they stay in the processor's cache."""
EITHER_SIGN = ("optfs", "rank_shift", "lts", "actsub", "adascale", "react")
"""Detectors that shape features of either sign, for the message of those that refuse negative ones."""


class Rectified(Detector):
    """Energy of the head on a changed feature; subclasses define `shaped`, and fit what it needs."""

    needs = frozenset({"features", "head"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head."""
        self.weight_, self.bias_ = head(classifier)

    def shaped(self, features: Tensor) -> Tensor:
        """Change features (N, D); returns them in the same precision."""
        raise NotImplementedError

    def score(self, batch: Batch) -> Tensor:
        """-logsumexp of the logits of the shaped features."""
        return energy(self.shaped(batch.features), self.weight_, self.bias_)


def kept_from(low: Tensor, features: Tensor, values: Tensor) -> Tensor:
    """`values` where features are at least `low`, and 0 elsewhere.

    The derivative of a ReLU does this in one kernel; torch.where with a comparison takes seven times as long.
    """
    below = torch.nextafter(low, torch.full_like(low, -torch.inf))
    kept: Tensor = torch.ops.aten.threshold_backward(values, features - below, 0)
    return kept


def require_percentile(value: float, name: str = "percentile") -> None:
    """Check that a percentile is at least 0 and below 100."""
    if not 0 <= value < 100:
        raise ValueError(f"{name} must lie in [0, 100), got {value}")


def units_above(units: int, percentile: float) -> int:
    """The number of an image's units above its own percentile, D - round(D percentile / 100).

    Raises `DataError` if there is none.
    """
    if (count := units - round(units * percentile / 100)) < 1:
        raise DataError(
            f"Of {units} features none is above the {percentile:g}th percentile of an image; choose a lower one."
        )
    return count


class Positive(NamedTuple):
    """The signs of training features."""

    units: int
    """Features of an image, D."""
    active: float
    """Mean number of units above 0 in an image."""
    lowest: float
    """The smallest feature."""


def positive_units(train: Batch) -> Positive:
    """Count the units above 0 in the training images."""
    units, active, lowest = 0, 0, np.inf
    for part in train.batches(COUNTED):
        features = part.features.numpy()  # NumPy takes a quarter of the time of torch to count
        units, lowest = features.shape[1], min(lowest, float(features.min()))
        active += int(np.count_nonzero(features > 0))
    return Positive(units, active / max(1, len(train)), lowest)


def mean_active(train: Batch, who: str) -> float:
    """Mean number of units above 0 in a training image, for methods that expect activations after a ReLU.

    Raises `DataError` if a training feature is negative.
    """
    found = train.once(positive_units)
    if found.lowest < 0:
        raise DataError(
            f"'{who}' takes features to be activations after a ReLU, and some go down to {found.lowest:.3g}; use it "
            f"with a backbone whose features are not negative, or a detector for features of either sign: "
            f"{', '.join(EITHER_SIGN[:-1])} or {EITHER_SIGN[-1]}."
        )
    return found.active


def pooled_percentile(train: Batch, percentile: float) -> float:
    """The exact percentile of all training features of all units, interpolated linearly between ranks as in NumPy.

    Features are counted by the upper half of their bit pattern, which has the order of the numbers, and then by the
    lower half within the bin that contains the rank: the split is neither held in memory nor sorted.
    """
    counts = _count(train, None)
    position = percentile / 100 * (int(counts.sum()) - 1)
    low, share = int(position), position - int(position)
    below, inside = np.cumsum(counts), dict[int, np.ndarray]()
    found = [_ranked(train, below, rank, inside) for rank in ((low, low + 1) if share else (low,))]
    return found[0] if not share else found[0] + share * (found[1] - found[0])


def _ranked(train: Batch, below: np.ndarray, rank: int, inside: dict[int, np.ndarray]) -> float:
    """The feature with this rank, counted from 0; `inside` keeps the counts of bins that were looked into."""
    upper = int(np.searchsorted(below, rank, side="right"))
    if upper not in inside:
        inside[upper] = np.cumsum(_count(train, upper))
    rest = rank - (int(below[upper - 1]) if upper else 0)
    lower = int(np.searchsorted(inside[upper], rest, side="right"))
    key = upper << 16 | lower
    bits = key ^ 0x80000000 if key & 0x80000000 else key ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def _count(train: Batch, upper: int | None) -> np.ndarray:
    """Number of features by upper half of the bit pattern; or, with `upper` given, by lower half within that bin."""
    total = np.zeros(1 << 16, dtype=np.int64)
    for part in train.batches(COUNTED):
        bits = part.features.contiguous().numpy().ravel().view(np.uint32)
        if int(bits.max(initial=0)) >> 31:  # a negative number
            keys = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
            halves = keys >> 16 if upper is None else keys[keys >> 16 == upper] & 0xFFFF
            total += np.bincount(halves, minlength=1 << 16)
            continue
        lower_half, upper_half = (bits.view(np.uint16)[k::2] for k in ((0, 1) if sys.byteorder == "little" else (1, 0)))
        if upper is None:  # as in `keys`, the sign's bit is set
            total[1 << 15 :] += np.bincount(upper_half, minlength=1 << 15)
        elif upper >> 15:
            total += np.bincount(lower_half[upper_half == upper & 0x7FFF], minlength=1 << 16)
    return total
