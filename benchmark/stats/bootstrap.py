"""Paired bootstrap: metrics on many resamples of the images at once, with the same resamples for every detector.

A resample gives each image an integer weight: how often it was drawn. Images that depend on each other are drawn
together. Scores are sorted once; the cumulative sums of the sorted weights are then the confusion counts at every
threshold, from which each metric is computed as in `metrics.exact`.
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
"""Weights held in memory at a time."""


@dataclass(frozen=True, eq=False)
class SortedScores:
    """One detector's scores, sorted once for all resamples."""

    order: NDArray[np.intp]
    """(N + M,): image indices in ascending order of the score; indices below N are ID images."""
    ends: NDArray[np.intp]
    """(G,): index of the last image of each group of equal scores."""
    is_id: NDArray[np.bool_]
    """(N + M,): whether each of the sorted images is ID."""

    @classmethod
    def of(cls, scores: Scores) -> SortedScores:
        """Sort (N,) ID and (M,) OOD scores, which must be finite."""
        joined = np.concatenate(scores)
        order = np.argsort(joined, kind="stable")
        values = joined[order]
        ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
        return cls(order, ends, order < len(scores[0]))

    def counts(self, weights: Ints) -> WeightedCounts:
        """Confusion counts on R resamples, given their (R, N + M) weights."""
        drawn = weights[:, self.order]
        both, of_id = np.cumsum(drawn, axis=1), np.cumsum(drawn * self.is_id, axis=1)
        if len(self.ends) < len(self.order):
            both, of_id = both[:, self.ends], of_id[:, self.ends]
        start = np.zeros((len(weights), 1), np.int64)
        return WeightedCounts(np.hstack((start, of_id)), np.hstack((start, both - of_id)))


@dataclass(frozen=True, eq=False)
class WeightedCounts:
    """`metrics.exact.Counts` of R resamples: int64 (R, G + 1), entry 0 is the threshold minus infinity."""

    id_at_most: Ints
    ood_at_most: Ints

    @property
    def n_id(self) -> Ints:
        """(R, 1): number of ID images. It differs between resamples where groups differ in size."""
        return self.id_at_most[:, -1:]

    @property
    def n_ood(self) -> Ints:
        """(R, 1): number of OOD images."""
        return self.ood_at_most[:, -1:]


def _fpr_at_tpr95(c: WeightedCounts) -> Floats:
    entry = (20 * c.id_at_most < 19 * c.n_id).sum(axis=1)
    share: Floats = c.ood_at_most[np.arange(len(entry)), entry] / c.n_ood[:, 0]
    return share


def _openood_fpr95(c: WeightedCounts) -> Floats:
    entry = (20 * c.ood_at_most <= c.n_ood).sum(axis=1) - 1
    share: Floats = 1 - c.id_at_most[np.arange(len(entry)), entry] / c.n_id[:, 0]
    return share


def _auroc(c: WeightedCounts) -> Floats:
    above = c.n_ood - c.ood_at_most
    doubled = (np.diff(c.id_at_most) * (above[:, 1:] + above[:, :-1])).sum(axis=1)
    share: Floats = doubled / (2 * c.n_id * c.n_ood)[:, 0]
    return share


def _detection_accuracy(c: WeightedCounts) -> Floats:
    gain = (c.id_at_most / c.n_id - c.ood_at_most / c.n_ood).max(axis=1)
    share: Floats = (1 + gain) / 2
    return share


def _average_precision(new: Ints, hits: Ints, misses: NDArray[Any]) -> Floats:
    retrieved = hits + misses
    terms = np.divide(new * hits, retrieved, out=np.zeros_like(retrieved), where=retrieved > 0)
    total: Floats = terms.sum(axis=1) / new.sum(axis=1)
    return total


def _aupr_in(c: WeightedCounts, ood_weight: float | Floats) -> Floats:
    return _average_precision(np.diff(c.id_at_most), c.id_at_most[:, 1:], c.ood_at_most[:, 1:] * ood_weight)


def _aupr_out(c: WeightedCounts, id_weight: float | Floats) -> Floats:
    hits, misses = c.n_ood - c.ood_at_most[:, :-1], c.n_id - c.id_at_most[:, :-1]
    return _average_precision(np.diff(c.ood_at_most), hits, misses * id_weight)


METRICS: Mapping[str, Callable[[WeightedCounts], Floats]] = {
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
"""The metrics of `metrics.names.METRICS`, computed from weighted counts."""


def resampled(
    metrics: Sequence[str],
    scores: Sequence[Sequence[Scores]],
    count: int,
    rng: np.random.Generator,
    units: tuple[ResamplingUnits, ResamplingUnits] | None = None,
) -> dict[str, Floats]:
    """Metric -> (count, D): its mean over S seeds for D detectors on `count` resamples of the images.

    `scores[s][d]` are the scores of seed s and detector d. ID and OOD images are each drawn with replacement, as many
    as the set has; with `units` of the ID and the OOD set, groups are drawn as a whole. All detectors, seeds and
    metrics use the same resamples.
    """
    sides = units or tuple(ResamplingUnits.of(len(array)) for array in scores[0][0])
    by_seed = [[SortedScores.of(pair) for pair in detectors] for detectors in scores]
    blocks = [
        np.mean([[_values(metrics, one.counts(weights)) for one in detectors] for detectors in by_seed], axis=0)
        for weights in _weights(sides, count, rng)
    ]
    by_metric = np.concatenate(blocks, axis=2)
    return {metric: by_metric[:, k].T for k, metric in enumerate(metrics)}


def _values(metrics: Sequence[str], counts: WeightedCounts) -> Floats:
    """(metrics, R) values; a function of its own so that the large counts are freed on return."""
    return np.array([METRICS[metric](counts) for metric in metrics])


def _weights(units: Sequence[ResamplingUnits], count: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield the (R, N + M) weights of `count` resamples in blocks; where images are the units they sum to N and M."""
    rows = max(1, BLOCK // sum(side.images for side in units))
    for start in range(0, count, rows):
        size = min(rows, count - start)
        yield np.hstack([side.resample_counts(size, rng) for side in units])
