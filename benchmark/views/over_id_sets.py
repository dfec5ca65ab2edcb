"""The mean over ID sets of one class, as papers on one-class classification print it: each class is normal in turn."""

from __future__ import annotations

import re
from functools import partial

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.views.summary import (
    ABSENT,
    GROUPS,
    PARTIAL,
    Block,
    OodSet,
    Summary,
    TableCell,
    TableRow,
    mean_over,
    worst_of,
)

OTHERS = "other classes"
"""The column of the mean: each ID set's only OOD set."""

ONE_CLASS = re.compile(r"(?P<data>[^\[\]]+)\[\d+\](?P<forms>(?:\+.+)?)")
"""An ID set of one class, such as `mnist[3]`."""


def over_id_sets(summary: Summary) -> Block | None:
    """The mean of a run's ID sets as a block of its own, with the rows of all of them.

    Returns:
        None unless the run has several ID sets, each of one class of the same data set and against a single OOD set.
        Means are taken seed by seed; a row without a result on all ID sets has none.
    """
    found = [ONE_CLASS.fullmatch(block.id_set) for block in summary.blocks]
    kinds = {(one["data"], one["forms"]) if one else None for one in found}
    if len(found) < 2 or len(kinds) > 1 or None in kinds or any(len(block.sets) != 1 for block in summary.blocks):
        return None
    columns = [block.sets[0] for block in summary.blocks]
    groups = {ood.group for ood in columns}
    ood = OodSet(OTHERS, groups.pop() if len(groups) == 1 else "", any(one.source for one in columns), {})
    averaged = () if ood.source else (ood,)
    labels = dict.fromkeys(row.label for block in summary.blocks for row in block.rows)
    rows = tuple(_row(summary, label, ood, averaged) for label in labels)
    backbones = tuple(dict.fromkeys(name for block in summary.blocks for name in block.backbones))
    return Block(f"Mean of {len(found)} ID sets", backbones, (ood,), rows, averaged, over=len(found))


def mean_line(summary: Summary) -> str:
    """The sentence of the legend that says what the mean is; empty where there is none."""
    if over_id_sets(summary) is None:
        return ""
    names = [block.id_set for block in summary.blocks]
    return (
        f"Mean of {len(names)} ID sets: {', '.join(names)}, each against its OOD set, averaged seed by seed; a row "
        "without a result on all of them has none."
    )


def _row(summary: Summary, label: str, ood: OodSet, averaged: tuple[OodSet, ...]) -> TableRow:
    rows = [next((row for row in block.rows if row.label == label), None) for block in summary.blocks]
    there = [row for row in rows if row is not None]
    by_set = [row.records[block.sets[0].name] for row, block in zip(rows, summary.blocks, strict=True) if row]
    stats = {}
    if len(there) == len(rows):
        means = {metric: mean_over(by_set, partial(_metric, metric)) for metric in METRICS}
        stats = {metric: stat for metric, stat in means.items() if stat}
    seeds = max((stat.n for stat in stats.values()), default=0)
    status = ABSENT if not stats else OK if seeds == len(summary.seeds) else PARTIAL
    cell = TableCell(status, "", any(c.seen for row in there for c in row.cells.values()), stats)
    in_group = {(ood.group, metric): stat for metric, stat in stats.items()} if ood.group in GROUPS and averaged else {}
    cells = {ood.name: cell}
    return TableRow(label, there[0].first, None, cells, in_group, worst_of(averaged, cells), records={ood.name: {}})


def _metric(name: str, record: Record) -> float | None:
    return record.metrics.get(name)
