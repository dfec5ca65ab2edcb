"""Arranges a run's records for tables and plots: rows, columns, and means and standard deviations over seeds.

It is plain Python, so that the table in the terminal need not wait for pandas. Numbers are fractions in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from oodbench.benchmark.errors import visible
from oodbench.benchmark.metrics.names import LOWER_IS_BETTER, METRICS, RULE_METRICS
from oodbench.benchmark.records.best import METRIC, Judged, Marks, read_best
from oodbench.benchmark.records.record import FAILED, OK, SKIPPED, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.warnings import warnings_of

NORMAL_975 = 1.959964
"""Standard deviations from the centre of a 95% interval to its end."""

PARTIAL, ABSENT = "partial", "absent"
"""Statuses of a cell over several seeds, in addition to those of a record: some seeds have a result; none was run."""

GROUPS = ("near", "far")

EVERY = "all"
"""The group of all sets, which have a mean where a set is neither near nor far."""


@dataclass(frozen=True)
class Stat:
    """A mean over `n` seeds, and the sample standard deviation (ddof = 1), None with one seed."""

    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None = None
    """95% over draws of test images, ends averaged over seeds; None for means over OOD sets and in older records."""
    may_be_best: bool | None = None
    """Whether it is in the set that contains the column's best with 95% confidence; None if that is not judged."""

    @property
    def image_error(self) -> float | None:
        """The interval expressed as a standard deviation, to compare with that over seeds."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / (2 * NORMAL_975)


@dataclass(frozen=True)
class TableCell:
    """One row's result on one OOD set."""

    status: str
    reason: str = ""
    seen: bool = False
    stats: Mapping[str, Stat] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Kind of warning (see `marks`) -> its details for this cell."""


@dataclass(frozen=True)
class OodSet:
    """One column of an ID set's block."""

    name: str
    group: str
    source: bool
    """Whether it has the distribution of the suite's outliers: left out of means and worst in every row."""
    trivial: Mapping[str, Any]
    """The best single statistic on the pair: its name and its metrics; empty where not measured."""
    one_class: Mapping[str, Any] = field(default_factory=dict)
    """The metrics of a model of all statistics, fitted on ID training images; empty where not measured."""
    id_groups: int | None = None
    ood_groups: int | None = None
    """Numbers of independent groups of test images; None where every image is its own, and in older runs."""

    @property
    def heading(self) -> str:
        """The name, with the group and whether it is the outlier source in parentheses."""
        marks = [mark for mark in (self.group, "outlier source" if self.source else "") if mark]
        return visible(f"{self.name} ({', '.join(marks)})" if marks else self.name)


@dataclass(frozen=True)
class TableRow:
    """One detector with its settings and recipe, on one ID set."""

    label: str
    first: Record
    """Any of the row's records: name, settings, recipe and backbone are the same in all of them."""
    id_accuracy: Stat | None
    cells: Mapping[str, TableCell]
    means: Mapping[tuple[str, str], Stat]
    """(group, metric) -> the mean over the group's OOD sets, for the block's groups."""
    worst: Mapping[str, tuple[str, Stat]]
    """metric -> the OOD set with the worst mean, and that mean."""
    stability: Mapping[str, float] = field(default_factory=dict)
    """Change of ID test images -> AUROC of changed against unchanged images, averaged over seeds."""
    records: Mapping[str, Mapping[int, Record]] = field(default_factory=dict, repr=False)
    """OOD set -> seed -> the cell's record, for every OOD set of the block."""


@dataclass(frozen=True)
class Block:
    """All results on one ID set."""

    id_set: str
    backbones: tuple[str, ...]
    sets: tuple[OodSet, ...]
    rows: tuple[TableRow, ...]
    averaged: tuple[OodSet, ...]
    """The OOD sets included in means and worst, the same for every row."""
    over: int = 0
    """The number of ID sets that this is the mean of (`over_id_sets`); 0 for the results on one."""

    @property
    def groups(self) -> tuple[str, ...]:
        """What has a mean: see `_members`."""
        return tuple(_members(self.averaged))


@dataclass(frozen=True)
class Summary:
    """A run, arranged for display."""

    seeds: tuple[int, ...]
    blocks: tuple[Block, ...]
    judged: Marks = field(default_factory=dict)
    """The columns for which it was judged which detectors may be the best."""


def summary_of(run: StoredRun) -> Summary:
    """Arrange a run's records by ID set and row, in plan order."""
    seeds = tuple(sorted({*run.info.get("seeds", ()), *(record.seed for record in run.records)}))
    pairs = run.info.get("pairs", ())
    shown = {record.id_set for record in run.records}
    id_sets = dict.fromkeys([*(pair["id_set"] for pair in pairs), *(record.id_set for record in run.records)])
    marks = read_best(run)
    blocks = tuple(_block(run, id_set, seeds, marks) for id_set in id_sets if id_set in shown)
    columns = {(block.id_set, s.name) for block in blocks for s in block.sets}
    return Summary(seeds, blocks, {place: judged for place, judged in marks.items() if place in columns})


def stat_of(values: Sequence[float]) -> Stat | None:
    """Mean and sample standard deviation; None if there are no values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Stat(mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else None, len(values))


def has_rules(record: Record, rules: str) -> bool:
    """Whether a record has all values by other metric rules, and the exact metrics to compare them with."""
    return record.audit.get(rules, {}).keys() >= {*RULE_METRICS} and record.metrics.keys() >= {*METRICS}


def audit_of(run: StoredRun, rules: str) -> dict[tuple[str, str, str], dict[str, Stat]]:
    """(ID set, label, OOD set) -> values by other metric rules over seeds, in plan order, for cells that have them."""
    cells: dict[tuple[str, str, str], list[Mapping[str, float]]] = {}
    for record in run.records:
        if has_rules(record, rules):
            cells.setdefault((record.id_set, record.label, record.ood_set), []).append(record.audit[rules])
    return {
        key: {name: stat for name in RULE_METRICS if (stat := stat_of([values[name] for values in by_seed]))}
        for key, by_seed in cells.items()
    }


def _block(run: StoredRun, id_set: str, seeds: Sequence[int], marks: Marks) -> Block:
    records = [record for record in run.records if record.id_set == id_set]
    sets = _ood_sets([pair for pair in run.info.get("pairs", ()) if pair["id_set"] == id_set], records)
    measured = {record.ood_set for record in records if record.status == OK}
    averaged = tuple(s for s in sets if not s.source and s.name in measured)
    by_label: dict[str, list[Record]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    known = {s.name: marks[id_set, s.name] for s in sets if (id_set, s.name) in marks}
    rows = tuple(_row(label, labelled, sets, averaged, seeds, known) for label, labelled in by_label.items())
    return Block(id_set, tuple(dict.fromkeys(r.backbone for r in records if r.backbone)), sets, rows, averaged)


def _ood_sets(pairs: Iterable[Mapping[str, Any]], records: Iterable[Record]) -> tuple[OodSet, ...]:
    """The columns: the plan's pairs in order, then sets that only occur in records."""
    columns: dict[str, OodSet] = {}
    for pair in pairs:
        group, source = pair.get("group", ""), bool(pair.get("outlier_source"))
        baselines = (pair.get("trivial") or {}, pair.get("one_class") or {})
        units = (pair.get("id_groups"), pair.get("ood_groups"))
        columns[pair["ood_set"]] = OodSet(pair["ood_set"], group, source, *baselines, *units)
    for record in records:
        columns.setdefault(record.ood_set, OodSet(record.ood_set, record.group, record.outlier_source, {}))
    return tuple(columns.values())


def _members(averaged: Sequence[OodSet]) -> dict[str, list[OodSet]]:
    """Group -> its sets: 'near' and 'far', whichever there are, and all of several sets if one of them is neither."""
    members = {group: [s for s in averaged if s.group == group] for group in GROUPS}
    ungrouped = any(s.group not in GROUPS for s in averaged)
    members[EVERY] = list(averaged) if ungrouped and len(averaged) > 1 else []
    return {group: sets for group, sets in members.items() if sets}


def _row(
    label: str,
    records: Sequence[Record],
    sets: Iterable[OodSet],
    averaged: Sequence[OodSet],
    seeds: Sequence[int],
    known: Mapping[str, Judged],
) -> TableRow:
    accuracy = {r.seed: r.id_accuracy for r in records if r.id_accuracy is not None}
    by_set = {s.name: {r.seed: r for r in records if r.ood_set == s.name} for s in sets}
    cells = {name: _cell(by_seed, seeds) for name, by_seed in by_set.items()}
    means, worst = means_of(by_set, averaged), worst_of(averaged, cells)
    marked = {name: _marked(cell, label, known.get(name)) for name, cell in cells.items()}
    accurate = stat_of(list(accuracy.values()))
    return TableRow(label, records[0], accurate, marked, means, worst, _stability(records), by_set)


def _stability(records: Sequence[Record]) -> dict[str, float]:
    """Averaged over seeds, and over OOD sets, which matter only where settings are chosen for each of them."""
    values: dict[str, list[float]] = {}
    for record in records:
        for change, area in record.stability.items():
            values.setdefault(change, []).append(area)
    return {change: math.fsum(areas) / len(areas) for change, areas in values.items()}


def _cell(by_seed: Mapping[int, Record], seeds: Sequence[int]) -> TableCell:
    done = [record for record in by_seed.values() if record.status == OK]
    stats = {
        metric: stat for metric in METRICS if (stat := _stat_of_cell([r for r in done if metric in r.metrics], metric))
    }
    status, seen = _status(by_seed, len(done), seeds), any(r.seen for r in by_seed.values())
    return TableCell(status, _reason(by_seed), seen, stats, warnings_of(done))


def _marked(cell: TableCell, label: str, judged: Judged | None) -> TableCell:
    if judged is None or label not in judged.compete or METRIC not in cell.stats:
        return cell
    stat = replace(cell.stats[METRIC], may_be_best=label in judged.may_be_best)
    return replace(cell, stats={**cell.stats, METRIC: stat})


def _stat_of_cell(records: Sequence[Record], metric: str) -> Stat | None:
    stat = stat_of([record.metrics[metric] for record in records])
    ends = [record.intervals[metric] for record in records if metric in record.intervals]
    if stat is None or len(ends) < len(records):
        return stat
    # The seeds share their test images, so the error from these does not average out: average the ends instead.
    low, high = (math.fsum(end) / len(ends) for end in zip(*ends, strict=True))
    return replace(stat, interval=(low, high))


def _status(by_seed: Mapping[int, Record], done: int, seeds: Sequence[int]) -> str:
    if not by_seed:
        return ABSENT
    if done:
        return OK if done == len(seeds) else PARTIAL
    return FAILED if any(record.status == FAILED for record in by_seed.values()) else SKIPPED


def _reason(by_seed: Mapping[int, Record]) -> str:
    """Why seeds are missing; listed by seed only if the reasons differ."""
    missing = {r.seed: " ".join(r.reason.split()) or "no reason recorded" for r in by_seed.values() if r.status != OK}
    if len(missing) == len(by_seed) and len(set(missing.values())) == 1:
        return next(iter(missing.values()))
    return "; ".join(f"seed {seed}: {reason}" for seed, reason in missing.items())


def means_of(by_set: Mapping[str, Mapping[int, Record]], averaged: Sequence[OodSet]) -> dict[tuple[str, str], Stat]:
    """(group, metric) -> a row's mean over the group's sets, for the groups that have a mean; `by_set` as in a row."""
    return {
        (group, metric): stat
        for group, members in _members(averaged).items()
        for metric in METRICS
        if (stat := mean_over([by_set[s.name] for s in members], partial(_metric, metric)))
    }


def _metric(name: str, record: Record) -> float | None:
    return record.metrics.get(name)


def mean_over(members: Sequence[Mapping[int, Record]], value: Callable[[Record], float | None]) -> Stat | None:
    """The mean of a value over sets, seed by seed, then over seeds; seeds that lack one of the sets are left out."""
    seeds = sorted({seed for by_seed in members for seed in by_seed})
    done = [[r[seed] for r in members if seed in r and r[seed].status == OK] for seed in seeds]
    values = [[number for r in records if (number := value(r)) is not None] for records in done]
    return stat_of([math.fsum(v) / len(v) for v in values if v and len(v) == len(members)])


def worst_of(averaged: Sequence[OodSet], cells: Mapping[str, TableCell]) -> dict[str, tuple[str, Stat]]:
    """Metric -> a row's worst of the sets, and its mean there."""
    return {metric: found for metric in METRICS if (found := _worst(averaged, cells, metric))}


def _worst(averaged: Iterable[OodSet], cells: Mapping[str, TableCell], metric: str) -> tuple[str, Stat] | None:
    """The worst of all sets; None if one of them is missing, because it might be the worst."""
    found = [(s.name, cells[s.name].stats.get(metric)) for s in averaged]
    known = [(name, stat) for name, stat in found if stat]
    if not known or len(known) < len(found):
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return min(known, key=lambda item: sign * item[1].mean)
