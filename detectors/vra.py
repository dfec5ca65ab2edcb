"""VRA: energy of activations that are zeroed below one threshold and clipped above another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData, detector
from oodbench.detectors._rectified import COUNTED, Rectified, kept_from, pooled_percentile, require_percentile

HELD = 2**26
"""Number of training features held in memory at once, for a group of units (256 MB). The training set is read once per
group of units. This affects memory only."""


@detector(
    "vra",
    title="VRA",
    paper="Xu, Lian, Liu & Tao, VRA: Variational Rectified Activation for Out-of-Distribution Detection, NeurIPS 2023",
    display_name="VRA",
    cite="xu2023vra",
)
class VRA(Rectified):
    """Energy of the head on g(z), for each unit 0 if z < a, z + gamma from a to b, and b if z > b.

    a and b are percentiles of each unit's training features, or with `pooled=true` of all units together. gamma above 0
    is the paper's VRA+; VRA++ is not implemented. A unit whose b is not above 0 is always 0; if that holds for every
    unit, the percentiles are refused.

    Differs: OpenOOD and pytorch-ood raise values below a to a, which is not the paper's function; OpenOOD pools the
    units and takes validation images from the test set. Defaults are those of the authors' code for CIFAR-10, which has
    percentiles per unit; for ImageNet it has fixed thresholds.
    """

    grid = {"low": (10.0, 40.0, 60.0), "high": (90.0, 95.0, 99.0)}
    low: float = 60.0
    high: float = 90.0
    gamma: float = 0.0
    pooled: bool = False

    def __post_init__(self) -> None:
        """Check both percentiles and their order."""
        require_percentile(self.low, "low")
        require_percentile(self.high, "high")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head and both thresholds, each (D,) or a number. Raises `DataError` if b is nowhere positive."""
        super().fit(classifier, data)
        shares = (self.low, self.high)
        if self.pooled:
            low, high = (torch.tensor(pooled_percentile(data.train, share), dtype=torch.float64) for share in shares)
        else:
            low, high = torch.from_numpy(np.concatenate(list(_percentiles(data.train, shares)), axis=1))
        if not (high > 0).any():
            raise DataError(
                f"The {self.high:g}th percentile of every unit's training features is at most 0: nothing of any image "
                "would be left. Choose a higher one."
            )
        self.low_, self.high_ = low, high

    def shaped(self, features: Tensor) -> Tensor:
        """g(z), (N, D)."""
        low, high = _rounded_up(self.low_, features.dtype), -_rounded_up(-self.high_, features.dtype)
        if self.gamma:
            raised = torch.where(features < low, 0.0, features + self.gamma)
            return torch.where(features > high, high, raised)
        return kept_from(low, features, torch.minimum(features, high))


def _rounded_up(thresholds: Tensor, dtype: torch.dtype) -> Tensor:
    """Round thresholds up to a precision: comparing numbers of that precision gives the same result with both."""
    rounded = thresholds.to(dtype)
    return torch.where(rounded < thresholds, torch.nextafter(rounded, torch.full_like(rounded, torch.inf)), rounded)


def _percentiles(train: Batch, shares: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Percentiles of each unit's training features, float64 (shares, units), for a few units at a time."""
    total, group = next(train.batches(1)).features.shape[1], max(1, HELD // len(train))
    for start in range(0, total, group):
        held = torch.empty(min(group, total - start), len(train))
        done = 0
        for part in train.batches(COUNTED):
            held[:, done : done + len(part)] = part.features[:, start : start + group].T.contiguous()
            done += len(part)
        ordered = held.numpy()
        ordered.sort(axis=1)  # in float32, which NumPy sorts in less time than it selects two ranks
        yield np.stack([of_sorted(ordered, share) for share in shares])


def of_sorted(ordered: np.ndarray, percentile: float) -> np.ndarray:
    """A percentile of each row of sorted numbers (N, M), float64 (N,): the same bits as `np.percentile` in float64."""
    position = percentile / 100 * (ordered.shape[1] - 1)
    place, share = int(position), position - int(position)
    low, high = (ordered[:, min(k, ordered.shape[1] - 1)].astype(np.float64) for k in (place, place + 1))
    found: np.ndarray = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
    return found
