"""The order of a heat map's rows: best first, and rows with similar numbers in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.views.choice import parse_order, stat_by
from oodbench.benchmark.views.plots.options import FEW, Options
from oodbench.benchmark.views.summary import Summary

Numbers = Mapping[tuple[str, str, str], float]
"""(label, ID set, OOD set) -> the number in a cell."""

MOST_GROUPS = 6


def row_groups(numbers: Numbers, summary: Summary, options: Options) -> tuple[list[list[str]], bool]:
    """The labels in the order of the rows, by groups, and whether they are in another order than the plan's.

    Few rows keep the plan's order. Many, without sanity baselines, which come last, are
    clustered by their numbers (average linkage of Euclidean distances; the
    number of groups, 6 at most, is where the distance of the joined groups grows most), groups and the rows in them
    are sorted by their mean, relative to the mean of each column, so that a missing cell is no advantage.
    """
    labels = list(dict.fromkeys(row.label for block in summary.blocks for row in block.rows))
    if len(labels) <= FEW and not options.sort and options.best is None:
        return [labels], False
    table = _table(labels, numbers, summary)
    means = _means(labels, table, summary, options)
    sanity = {row.label for block in summary.blocks for row in block.rows if row.first.sanity}
    order = sorted(labels, key=lambda label: -means[label])
    if options.best is not None:
        able = [label for label in order if label not in sanity and means[label] > -np.inf]
        kept = {*able[: options.best], *options.highlight}
        order = [label for label in order if label in kept]
    if len(order) <= FEW or options.sort or not options.clusters:
        return [order], True
    able = [label for label in order if label not in sanity]
    groups = _clustered(able, means, table[[labels.index(label) for label in able]]) if len(able) > FEW else [able]
    return [group for group in (*groups, [label for label in order if label in sanity]) if group], True


def _table(labels: Sequence[str], numbers: Numbers, summary: Summary) -> NDArray[np.float64]:
    """(rows, columns) numbers minus the mean of their column, so that higher is always better; 0 where missing."""
    columns = [(block.id_set, ood.name) for block in summary.blocks for ood in block.sets]
    table = np.array([[numbers.get((label, *column), np.nan) for column in columns] for label in labels])
    known = np.isfinite(table)
    sums, counts = np.where(known, table, 0).sum(axis=0), known.sum(axis=0)
    centred: NDArray[np.float64] = np.where(known, table - sums / np.maximum(counts, 1), 0.0)
    return centred


def _means(labels: Sequence[str], table: NDArray[np.float64], summary: Summary, options: Options) -> dict[str, float]:
    """What rows are sorted by, higher first; minus infinity for a row without numbers."""
    metric = options.metrics_or("auroc")[0]
    if not options.sort:
        sign = -1.0 if metric.lower_is_better else 1.0
        return {
            label: float(sign * values.mean()) if values.any() else -np.inf
            for label, values in zip(labels, table, strict=True)
        }
    order = parse_order(options.sort)
    sign = -1.0 if order.metric.lower_is_better else 1.0
    found: dict[str, list[float]] = {label: [] for label in labels}
    for block in summary.blocks:
        for row in block.rows:
            if stat := stat_by(block, row, order):
                found[row.label].append(sign * stat.mean)
    return {label: sum(values) / len(values) if values else -np.inf for label, values in found.items()}


def _clustered(order: Sequence[str], means: Mapping[str, float], table: NDArray[np.float64]) -> list[list[str]]:
    from scipy.cluster.hierarchy import fcluster, linkage  # a tenth of a second that other pictures need not wait for

    joined = linkage(table, "average")
    distances = joined[:, 2]
    most = min(MOST_GROUPS, len(order) // 3)
    # With k groups, the last join that was made is the k-th from the end; the next one would join the most unlike.
    growth = [distances[-k + 1] - distances[-k] for k in range(2, most + 1)]
    count = 2 + int(np.argmax(growth))
    groups: dict[int, list[str]] = {}
    for label, group in zip(order, fcluster(joined, count, "maxclust"), strict=True):
        groups.setdefault(int(group), []).append(label)
    return sorted(groups.values(), key=lambda group: -sum(means[label] for label in group) / len(group))
