"""The blocks, rows and cells of a report, from the same `Summary` that the printed tables are made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodbench.benchmark.errors import visible
from oodbench.benchmark.metrics.names import METRICS, SPREAD
from oodbench.benchmark.records.beside import RecordOfRun
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.cell import origin_lines, settings_lines
from oodbench.benchmark.views.costs import POSTHOC, TRAINED, Costs, costs_of
from oodbench.benchmark.views.guards.baselines import found_of, named, rows_of
from oodbench.benchmark.views.names import NO_NAMES, Names, OwnNames, display_names
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.classes import Classes
from oodbench.benchmark.views.report.curves import NO_SCORES, Curves
from oodbench.benchmark.views.summary import Block, OodSet, Stat, TableCell, TableRow, stat_of
from oodbench.benchmark.views.tables.latex import escaped
from oodbench.benchmark.views.warnings import SENTENCES, doubtful

KINDS = {POSTHOC: "post-hoc", TRAINED: "trained"}
"""Kinds of rows, as words."""

_FIELD = {name: re.compile(rf"^\s*{name}\s*=\s*{{(.*?)}},?\s*$", re.M | re.S) for name in ("title", "year")}
"""Fields of a BibTeX entry, each on lines of its own."""

DECIMALS = 6
"""Decimals of fractions, as in table.csv."""


class Texts:
    """Lines that cells share, each once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._places: dict[str, int] = {}

    def places(self, lines: Iterable[str]) -> list[int]:
        """The positions of lines, which are added if they are new."""
        return [self._place(line) for line in lines]

    def _place(self, line: str) -> int:
        if line not in self._places:
            self._places[line] = len(self.lines)
            self.lines.append(line)
        return self._places[line]


@dataclass(frozen=True, eq=False)
class Shown:
    """One block of a report with what it was made from."""

    run: StoredRun
    block: Block
    place: int
    """Its position in `ReportData.id_sets`."""
    first_row: int
    """The position of its first row in `ReportData.rows`."""
    records: Mapping[tuple[str, str], Sequence[Record]]
    """(label, OOD set) -> the records of all seeds, in the order of seeds."""

    def record(self, label: str, ood_set: str) -> Record | None:
        """The record of the first seed that has a result; None if none has."""
        return next((record for record in self.records.get((label, ood_set), ()) if record.status == OK), None)

    def rows(self) -> Iterator[tuple[int, TableRow]]:
        """The rows with their positions in `ReportData.rows`."""
        return enumerate(self.block.rows, self.first_row)


@dataclass
class Tables:
    """Blocks, rows and cells as they are added."""

    own_names: OwnNames = NO_NAMES
    references: dict[str, str] = field(default_factory=dict)
    """Key -> BibTeX entry, of what rows, sets and backbones cite."""
    texts: Texts = field(default_factory=Texts)
    shown: list[Shown] = field(default_factory=list)
    blocks: list[data.Block] = field(default_factory=list)
    rows: list[data.Row] = field(default_factory=list)
    cells: list[data.Cell] = field(default_factory=list)
    curves: Curves = field(default_factory=Curves)
    classes: Classes = field(default_factory=Classes)

    def add(self, run: StoredRun, name: str, cache: Path, blocks: Iterable[Block]) -> list[Shown]:
        """Add blocks of a run called `name`, or of several side by side, for which it is empty."""
        before = len(self.shown)
        names, costs = display_names(run, self.own_names), costs_of(run)
        for block in blocks:
            records: dict[tuple[str, str], list[Record]] = {}
            for record in run.records:
                if record.id_set == block.id_set:
                    records.setdefault((record.label, record.ood_set), []).append(record)
            for of_cell in records.values():
                of_cell.sort(key=lambda record: record.seed)
            shown = Shown(run, block, len(self.blocks), len(self.rows), records)
            self.shown.append(shown)
            self.blocks.append(_block(shown, name, names))
            cited = [block.id_set, *block.backbones, *(ood.name for ood in block.sets), *(r.label for r in block.rows)]
            self.references |= {k: names.entries[k] for one in cited for k in names.cite(one) if k in names.entries}
            for place, row in shown.rows():
                self.rows.append(_row(shown, row, name or run.name, names, costs[row.label]))
                self.cells += (self._cell(shown, cache, place, row, i) for i in range(len(block.sets)))
        return self.shown[before:]

    def _cell(self, shown: Shown, cache: Path, place: int, row: TableRow, number: int) -> data.Cell:
        ood = shown.block.sets[number]
        cell, records = row.cells[ood.name], shown.records.get((row.label, ood.name), ())
        first = shown.record(row.label, ood.name)
        curve = self.curves.curve(first, cache) if first else None
        return data.Cell(
            row=place,
            set=number,
            status=cell.status,
            reason=visible(cell.reason),
            seen=cell.seen,
            stats={**_stats(cell), **_further(records)},
            by_seed=[_of_seed(record) for record in records],
            warnings=self.texts.places(visible(f"{SENTENCES[k]} ({why}).") for k, why in cell.warnings.items()),
            doubtful=[metric for metric in METRICS if doubtful(cell.warnings, metric)],
            notes=self.texts.places(dict.fromkeys(visible(note) for record in records for note in record.notes)),
            settings=self.texts.places(settings_lines(first)) if first else [],
            provenance=self.texts.places(origin_lines(first)) if first else [],
            curve=curve,
            no_curve=NO_SCORES if first and curve is None else "",
            by_class=self.classes.numbers(records),
        )


def stat(one: Stat | None) -> data.Stat | None:
    """A number of the tables, rounded."""
    if one is None:
        return None
    low, high = one.interval or (None, None)
    return data.Stat(rounded(one.mean), _maybe(one.std), _maybe(low), _maybe(high), one.may_be_best, one.n)


def rounded(value: float) -> float:
    """A fraction with the decimals of table.csv."""
    return round(value, DECIMALS)


def _maybe(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _block(shown: Shown, name: str, names: Names) -> data.Block:
    block = shown.block
    known = [record for records in shown.records.values() for record in records]
    return data.Block(
        id=shown.place,
        name=block.id_set,
        title=visible(names.set(block.id_set)),
        run=name,
        backbones=list(block.backbones),
        groups=list(block.groups),
        sets=[_ood_set(block, ood, known, names) for ood in block.sets],
        images=next((record.n_id for record in known if record.n_id is not None), None),
        id_groups=next((ood.id_groups for ood in block.sets if ood.id_groups is not None), None),
        over=block.over,
    )


def _ood_set(block: Block, ood: OodSet, records: Sequence[Record], names: Names) -> data.OodSet:
    baselines = [
        data.Baseline(
            label,
            named(ood, label).strip("()"),
            {metric: rounded(float(found[metric])) for metric in METRICS if isinstance(found.get(metric), int | float)},
        )
        for label in rows_of(block)
        if (found := found_of(ood, label))
    ]
    images = next((r.n_ood for r in records if r.ood_set == ood.name and r.n_ood is not None), None)
    return data.OodSet(ood.name, visible(names.set(ood.name)), ood.group, ood.source, images, ood.ood_groups, baselines)


def _row(shown: Shown, row: TableRow, run: str, names: Names, costs: Costs) -> data.Row:
    first = row.first
    position = {ood.name: place for place, ood in enumerate(shown.block.sets)}
    means: dict[str, dict[str, data.Stat]] = {}
    for (group, metric), one in row.means.items():
        if (found := stat(one)) is not None:
            means.setdefault(group, {})[metric] = found
    return data.Row(
        block=shown.place,
        run=first.run if isinstance(first, RecordOfRun) else run,
        label=row.label,
        name=visible(names.row(row.label)),
        detector=first.detector,
        kind="sanity" if first.sanity else KINDS[costs.kind],
        recipe=first.recipe,
        backbone=first.backbone,
        settings=", ".join(f"{name}={value}" for name, value in first.settings.items()),
        data=", ".join(costs.data or ()),
        passes="" if costs.passes is None else costs.passes_text,
        networks="" if costs.networks is None else costs.networks_text,
        cite=", ".join(names.cite(row.label)),
        paper="; ".join(in_words(names.entries[key]) for key in names.cite(row.label) if key in names.entries),
        latex=escaped(names.row(row.label)),
        accuracy=stat(row.id_accuracy),
        means=means,
        worst={metric: [position[name]] for metric, (name, _) in row.worst.items()},
    )


def in_words(entry: str) -> str:
    """The title of a BibTeX entry, with the year in parentheses where it has one; without braces."""
    found = {name: _FIELD[name].search(entry) for name in _FIELD}
    texts = {name: " ".join(re.sub(r"[{}\\]", "", one[1]).split()) if one else "" for name, one in found.items()}
    return visible(texts["title"] + (f" ({texts['year']})" if texts["year"] else ""))


def _stats(cell: TableCell) -> dict[str, data.Stat]:
    return {metric: found for metric, one in cell.stats.items() if (found := stat(one)) is not None}


def _further(records: Sequence[Record]) -> dict[str, data.Stat]:
    """The extended metrics and the tuning spread, where they were computed."""
    done = [_beyond(record) for record in records if record.status == OK]
    names = dict.fromkeys(name for values in done for name in values)
    found = {name: stat(stat_of([values[name] for values in done if name in values])) for name in names}
    return {name: one for name, one in found.items() if one is not None}


def _beyond(record: Record) -> dict[str, float]:
    """A record's metrics besides the exact ones."""
    spread = record.tuned.get("spread")
    return {**record.extended, **({} if spread is None else {SPREAD: float(spread)})}


def _of_seed(record: Record) -> data.SeedNumbers:
    values = {**record.metrics, **_beyond(record)}
    return data.SeedNumbers(record.seed, record.status, {name: rounded(value) for name, value in values.items()})
