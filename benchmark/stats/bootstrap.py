"""The paired bootstrap: metrics on resampled images, many resamples at a time, the same ones for every detector.

A resample gives each image a whole-number weight, how often it was drawn; images that depend on each other are drawn
together. Scores are sorted once; on the sorted scores the weights' running sums are the confusion counts at every
threshold, from which each metric is read as in `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.stats.clustered import ResamplingUnits

Floats = NDArray[np.float64]

Ints = NDArray[np.int64]

Scores = tuple[NDArray[Any], NDArray[Any]]
"""(N,) ID and (M,) OOD scores, higher = more OOD."""

BLOCK = 1 << 20
"""Weights held at a time."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """One detector's scores, sorted once for all resamples."""

    order: NDArray[np.intp]
    """(N + M,): which image comes where; ID images are the first N numbers."""
    ends: NDArray[np.intp]
    """(G,): where each group of equal scores ends."""
    is_id: NDArray[np.bool_]
    """(N + M,): of the sorted images."""

    @classmethod
    def of(cls, scores: Scores) -> Ordered:
        """Sort (N,) ID and (M,) OOD scores, finite."""
        joined = np.concatenate(scores)
        order = np.argsort(joined, kind="stable")
        values = joined[order]
        ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
        return cls(order, ends, order < len(scores[0]))

    def counts(self, weights: Ints) -> Weighted:
        """Confusion counts on R resamples, from weights (R, N + M)."""
        drawn = weights[:, self.order]
        both, of_id = np.cumsum(drawn, axis=1), np.cumsum(drawn * self.is_id, axis=1)
        if len(self.ends) < len(self.order):
            both, of_id = both[:, self.ends], of_id[:, self.ends]
        start = np.zeros((len(weights), 1), np.int64)
        return Weighted(np.hstack((start, of_id)), np.hstack((start, both - of_id)))


@dataclass(frozen=True, eq=False)
class Weighted:
    """`metrics.Counts` of R resamples: int64 (R, G + 1), entry 0 the threshold minus infinity."""

    id_at_most: Ints
    ood_at_most: Ints

    @property
    def n_id(self) -> Ints:
        """(R, 1): number of ID images; groups of unlike size make resamples of unlike size."""
        return self.id_at_most[:, -1:]

    @property
    def n_ood(self) -> Ints:
        """(R, 1): number of OOD images."""
        return self.ood_at_most[:, -1:]


def _fpr_at_tpr95(c: Weighted) -> Floats:
    entry = (20 * c.id_at_most < 19 * c.n_id).sum(axis=1)
    share: Floats = c.ood_at_most[np.arange(len(entry)), entry] / c.n_ood[:, 0]
    return share


def _openood_fpr95(c: Weighted) -> Floats:
    entry = (20 * c.ood_at_most <= c.n_ood).sum(axis=1) - 1
    share: Floats = 1 - c.id_at_most[np.arange(len(entry)), entry] / c.n_id[:, 0]
    return share


def _auroc(c: Weighted) -> Floats:
    above = c.n_ood - c.ood_at_most
    doubled = (np.diff(c.id_at_most) * (above[:, 1:] + above[:, :-1])).sum(axis=1)
    share: Floats = doubled / (2 * c.n_id * c.n_ood)[:, 0]
    return share


def _detection_accuracy(c: Weighted) -> Floats:
    gain = (c.id_at_most / c.n_id - c.ood_at_most / c.n_ood).max(axis=1)
    share: Floats = (1 + gain) / 2
    return share


def _average_precision(new: Ints, hits: Ints, misses: NDArray[Any]) -> Floats:
    retrieved = hits + misses
    terms = np.divide(new * hits, retrieved, out=np.zeros_like(retrieved), where=retrieved > 0)
    total: Floats = terms.sum(axis=1) / new.sum(axis=1)
    return total


def _aupr_in(c: Weighted, ood_weight: float | Floats) -> Floats:
    return _average_precision(np.diff(c.id_at_most), c.id_at_most[:, 1:], c.ood_at_most[:, 1:] * ood_weight)


def _aupr_out(c: Weighted, id_weight: float | Floats) -> Floats:
    hits, misses = c.n_ood - c.ood_at_most[:, :-1], c.n_id - c.id_at_most[:, :-1]
    return _average_precision(np.diff(c.ood_at_most), hits, misses * id_weight)


METRICS: Mapping[str, Callable[[Weighted], Floats]] = {
    "auroc": _auroc,
    "tnr_at_tpr95": lambda c: 1 - _fpr_at_tpr95(c),
    "fpr_at_tpr95": _fpr_at_tpr95,
    "openood_fpr95": _openood_fpr95,
    "detection_accuracy": _detection_accuracy,
    "aupr_in": lambda c: _aupr_in(c, c.n_id / c.n_ood),
    "aupr_out": lambda c: _aupr_out(c, c.n_ood / c.n_id),
    "aupr_in_counts": lambda c: _aupr_in(c, 1.0),
    "aupr_out_counts": lambda c: _aupr_out(c, 1.0),
}
"""`records.METRICS`, of weighted counts."""


def resampled(
    metrics: Sequence[str],
    scores: Sequence[Sequence[Scores]],
    count: int,
    rng: np.random.Generator,
    units: tuple[ResamplingUnits, ResamplingUnits] | None = None,
) -> dict[str, Floats]:
    """Metric -> (count, D): its mean over S seeds for D detectors, on `count` resamples of the images; `scores[s][d]`.

    ID and OOD images are each drawn with replacement, as many as there are; with `units` of the ID and the OOD set,
    whole groups. All detectors, seeds and metrics get the same draws.
    """
    sides = units or tuple(ResamplingUnits.of(len(array)) for array in scores[0][0])
    ordered = [[Ordered.of(pair) for pair in own] for own in scores]
    blocks = [
        np.mean([[_values(metrics, one.counts(weights)) for one in own] for own in ordered], axis=0)
        for weights in _weights(sides, count, rng)
    ]
    by_metric = np.concatenate(blocks, axis=2)
    return {metric: by_metric[:, k].T for k, metric in enumerate(metrics)}


def _values(metrics: Sequence[str], counts: Weighted) -> Floats:
    """(metrics, R); the counts, which are large, go when this is done."""
    return np.array([METRICS[metric](counts) for metric in metrics])


def _weights(units: Sequence[ResamplingUnits], count: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Weights (R, N + M) of `count` resamples in blocks; where images are the units they sum to N and M."""
    rows = max(1, BLOCK // sum(side.images for side in units))
    for start in range(0, count, rows):
        size = min(rows, count - start)
        yield np.hstack([side.resample_counts(size, rng) for side in units])
