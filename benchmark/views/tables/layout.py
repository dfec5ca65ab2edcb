"""The content of a table in every format: headings, numbers as percent, marks, footnotes and the legend.

The text, Markdown, LaTeX and HTML tables differ in how they write these, never in content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oodbench.benchmark.errors import counted, visible
from oodbench.benchmark.records.environment import computed_on
from oodbench.benchmark.records.record import FAILED, SKIPPED, WARNING
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.guards.baselines import baseline_lines, named, rows_of, value_of
from oodbench.benchmark.views.guards.spread import spread_lines
from oodbench.benchmark.views.guards.stability import stability_lines
from oodbench.benchmark.views.labels import shared_weights, without_weights
from oodbench.benchmark.views.marks import (
    DASH,
    FEWER,
    MAYBE,
    SEEDS,
    SEEN,
    bold_rows,
    image_lines,
    percent,
    seeds_scatter_more,
    warning_lines,
)
from oodbench.benchmark.views.metric_titles import metric_of
from oodbench.benchmark.views.over_id_sets import mean_line, over_id_sets
from oodbench.benchmark.views.summary import ABSENT, PARTIAL, Block, OodSet, Stat, Summary, TableCell
from oodbench.benchmark.views.warnings import SENTENCES, UNFIT, WARNED, doubtful

COLUMNS = {
    name: metric_of(name).title for name in ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
}
"""The five columns of every pair, as in the field's papers."""

INTERVAL = "AUROC 95%"


@dataclass(frozen=True)
class TableEntry:
    """One number of a table, in percent; `mean` is empty if the place stays blank."""

    mean: str = ""
    std: str = ""
    bold: bool = False
    """Whether it is the best of its column, by `marks.bold_rows`; a star where a format has no bold."""
    marks: str = ""
    note: str = ""
    """A word after the number: the name of the worst set."""


@dataclass(frozen=True)
class TableColumn:
    """A column's title, and one entry per row."""

    title: str
    entries: tuple[TableEntry, ...]


@dataclass(frozen=True)
class Group:
    """Columns under one heading. A row with a non-empty span shows that text in place of its numbers."""

    title: str
    columns: tuple[TableColumn, ...]
    spans: tuple[str, ...]
    more: tuple[TableColumn, ...] = ()
    """Additional columns for formats that stack groups and so have room for them."""
    below: tuple[str, ...] = ()
    """Text under the row of each baseline without a network: the statistic."""


@dataclass(frozen=True)
class Sheet:
    """One ID set's table. `labels` are the names of the rows; the baselines without a network come last."""

    block: Block
    labels: tuple[str, ...]
    accuracy: Group
    sets: tuple[Group, ...]
    overall: Group
    baselines: tuple[str, ...]
    """Labels of the rows of baselines."""
    weights: str = ""
    """The given weights of all rows, which their labels then do not repeat."""

    @property
    def title(self) -> str:
        """The ID set, the backbone if the records contain it, and given weights that all rows share."""
        weights = [self.weights] if self.weights else []
        first = self.block.id_set if self.block.over else f"ID set {self.block.id_set}"
        return visible(", ".join([first, *self.block.backbones, *weights]))

    def label(self, group: Group, row: int) -> str:
        """A row's label; with the statistic, for a baseline in a format that stacks groups."""
        baseline = row - len(self.block.rows)
        return self.labels[row] if baseline < 0 else f"{self.labels[row]} {group.below[baseline]}".rstrip()

    def lines(self, group: Group) -> Iterator[tuple[int, list[TableEntry], str]]:
        """The group's rows, for formats that stack groups: (row number, entries, span); without a blank baseline."""
        for i, span in enumerate(group.spans):
            entries = [column.entries[i] for column in (*group.columns, *group.more)]
            if i < len(self.block.rows) or any(entry.mean for entry in entries):
                yield i, entries, span


def footnotes(summary: Summary) -> dict[str, int]:
    """Reason of failed or skipped cells -> its number, in reading order; equal reasons share a number."""
    notes: dict[str, int] = {}
    for block in summary.blocks:
        for row in block.rows:
            for cell in row.cells.values():
                if cell.status in (FAILED, SKIPPED):
                    notes.setdefault(f"{cell.status}: {cell.reason}", len(notes) + 1)
    return notes


def sheets(summary: Summary) -> list[Sheet]:
    """Lay out every ID set's table, and behind them their mean, where they have one."""
    notes = footnotes(summary)
    mean = over_id_sets(summary)
    blocks = [*summary.blocks, *([mean] if mean else [])]
    return [_sheet(block, notes, len(summary.seeds)) for block in blocks]


def pair_titles(sheet: Sheet) -> list[str]:
    """The titles of the columns of every pair, for formats that stack groups."""
    return [*COLUMNS.values(), *dict.fromkeys(column.title for group in sheet.sets for column in group.more)]


def _sheet(block: Block, notes: Mapping[str, int], seeds: int) -> Sheet:
    baselines = rows_of(block)
    blank = (TableEntry(),) * len(baselines)
    spans = ("",) * (len(block.rows) + len(baselines))
    accuracy = TableColumn("ID acc", _entries([row.id_accuracy for row in block.rows], "id_accuracy", seeds) + blank)
    columns = tuple(replace(column, entries=column.entries + blank) for column in _overall(block, seeds))
    weights = shared_weights(row.label for row in block.rows)
    labels = (without_weights(row.label) if weights else row.label for row in block.rows)
    return Sheet(
        block,
        tuple(map(visible, labels)) + baselines,
        Group("", (accuracy,), spans),
        tuple(_set_group(block, s, notes, seeds) for s in block.sets),
        Group("AUROC over the sets" if columns else "", columns, spans),
        baselines,
        weights,
    )


def _set_group(block: Block, ood: OodSet, notes: Mapping[str, int], seeds: int) -> Group:
    cells = [row.cells[ood.name] for row in block.rows]
    baselines = rows_of(block)
    columns = tuple(
        TableColumn(title, _set_entries(cells, metric, seeds) + tuple(_baseline(ood, b, metric) for b in baselines))
        for metric, title in COLUMNS.items()
    )
    numbers = [notes.get(f"{cell.status}: {cell.reason}") for cell in cells]
    spans = tuple(f"{cell.status} [{n}]" if n else "" for cell, n in zip(cells, numbers, strict=True))
    below = tuple(named(ood, label) for label in baselines)
    return Group(ood.heading, columns, spans + ("",) * len(baselines), _interval(block, cells, len(baselines)), below)


def _interval(block: Block, cells: Sequence[TableCell], baselines: int) -> tuple[TableColumn, ...]:
    """The column of AUROC intervals over draws of test images; none if no record of the ID set has an interval."""
    stats = [cell.stats.get("auroc") for row in block.rows for cell in row.cells.values()]
    if not any(stat and stat.interval for stat in stats):
        return ()
    entries = tuple(_ends(cell.stats.get("auroc")) for cell in cells)
    return (TableColumn(INTERVAL, entries + (TableEntry(),) * baselines),)


def _ends(stat: Stat | None) -> TableEntry:
    if stat is None or stat.interval is None:
        return TableEntry(DASH)
    return TableEntry(DASH.join(map(percent, stat.interval)), marks=SEEDS if seeds_scatter_more(stat) else "")


def _set_entries(cells: Sequence[TableCell], metric: str, seeds: int) -> tuple[TableEntry, ...]:
    warned = [doubtful(cell.warnings, metric) for cell in cells]
    return _entries([cell.stats.get(metric) for cell in cells], metric, seeds, [cell.seen for cell in cells], warned)


def _overall(block: Block, seeds: int) -> Iterator[TableColumn]:
    """The columns of mean and worst AUROC over the OOD sets, the same sets for every row."""
    metric = "auroc"
    for group in block.groups:
        stats = [row.means.get((group, metric)) for row in block.rows]
        yield TableColumn(f"{group} mean", _entries(stats, metric, seeds))
    if block.averaged:
        worst = [row.worst.get(metric) for row in block.rows]
        entries = _entries([found and found[1] for found in worst], metric, seeds)
        named = (replace(e, note=visible(found[0]) if found else "") for e, found in zip(entries, worst, strict=True))
        yield TableColumn("worst", tuple(named))


def _baseline(ood: OodSet, label: str, metric: str) -> TableEntry:
    value = value_of(ood, label, metric)
    return TableEntry() if value is None else TableEntry(percent(value))


def _entries(
    stats: Sequence[Stat | None],
    metric: str,
    seeds: int,
    seen: Sequence[bool] | None = None,
    warned: Sequence[bool] | None = None,
) -> tuple[TableEntry, ...]:
    is_seen, is_warned = (list(flags or [False] * len(stats)) for flags in (seen, warned))
    bold = bold_rows([None if hide else stat for stat, hide in zip(stats, is_seen, strict=True)], metric)
    return tuple(_entry(stat, i in bold, is_seen[i], is_warned[i], seeds) for i, stat in enumerate(stats))


def _entry(stat: Stat | None, bold: bool, seen: bool, warned: bool, seeds: int) -> TableEntry:
    if stat is None:
        return TableEntry(DASH)
    marks = (MAYBE if stat.may_be_best else "") + (SEEN if seen else "")
    marks += (FEWER if stat.n < seeds else "") + (WARNED if warned else "")
    return TableEntry(percent(stat.mean), "" if stat.std is None else percent(stat.std), bold, marks)


def seeds_line(summary: Summary) -> str:
    """The seeds that the numbers are computed over."""
    names = ", ".join(map(str, summary.seeds))
    if len(summary.seeds) > 1:
        return f"Mean ± std over {len(summary.seeds)} seeds ({names}; ddof = 1)."
    return f"One seed ({names})."


def legend(run: StoredRun, summary: Summary, best: str, column: str = "") -> list[str]:
    """The legend under the tables, one paragraph per item.

    `best` is how the best is marked, `column` the title of the column of intervals if the table has one.
    """
    lines = [
        *run.unfinished,
        *warning_lines(summary, [UNFIT]),  # before the other warnings: it makes every number wrong
        f"Percent. {seeds_line(summary)} ID is the positive class, and the threshold accepts 95% of ID images. "
        "TNR95: OOD images rejected there; DetAcc: best mean of TPR and TNR over all thresholds; AUPR-in and AUPR-out: "
        "ID and OOD positive, both classes weighted equally.",
        *([mean] if (mean := mean_line(summary)) else []),
        *image_lines(summary, column),
        *_marks(summary, best),
        *(f"[{number}] {note}" for note, number in footnotes(summary).items()),
        *_partial(summary),
        *warning_lines(summary, [kind for kind in SENTENCES if kind != UNFIT]),
        *_run_notes(run),
        *_cell_notes(run),
        *_because("Skipped", run.info.get("skipped", ()), "what"),
        *_because("Unavailable", run.info.get("unavailable", ()), "name"),
        *([str(run.info["passes"])] if run.info.get("passes") else []),
        *([computed] if (computed := computed_on(run.records)) else []),
    ]
    return [visible(" ".join(line.split())) for line in lines]


def without_cells(run: StoredRun) -> list[str]:
    """What stands in place of the tables, and of their legend, where a run has no record yet."""
    return ["No cells to show: the run has no records.", *map(visible, run.unfinished)]


def _because(what: str, items: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """What was left out, in one line for each reason."""
    of_reason: dict[str, list[str]] = {}
    for item in items:
        of_reason.setdefault(str(item.get("reason") or "no reason recorded"), []).append(str(item[name]))
    yield from (f"{what}: {', '.join(names)} ({reason})" for reason, names in of_reason.items())


def _marks(summary: Summary, best: str) -> Iterator[str]:
    cells = [cell for block in summary.blocks for row in block.rows for cell in row.cells.values()]
    marks = [f"{best}: best of its column{', in which seen cells do not compete' * any(c.seen for c in cells)}"]
    if any(cell.seen for cell in cells):
        marks.append(f"{SEEN} seen: trained on outliers of this OOD set's own distribution")
    if any(stat.n < len(summary.seeds) for cell in cells for stat in cell.stats.values()):
        marks.append(f"{FEWER} fewer than {len(summary.seeds)} seeds")
    if any(doubtful(cell.warnings, metric) for cell in cells for metric in COLUMNS):
        marks.append(f"{WARNED} see the warnings")
    if any(cell.status == ABSENT for cell in cells) or _lacking(summary):
        marks.append(f"{DASH} not run, or a mean or worst without one of its OOD sets")
    yield "; ".join(marks) + "."
    if summary.judged:
        yield _may_be_best(summary)
    if any(s.source for block in summary.blocks for s in block.sets):
        yield "Means and worst leave out the outlier source in every row, so that all rows stand on the same OOD sets."
    yield from baseline_lines(summary)
    yield from stability_lines(summary)
    yield from spread_lines(summary)


def _may_be_best(summary: Summary) -> str:
    fewer = any(set(judged.seeds) < set(summary.seeds) for judged in summary.judged.values())
    missing = {(block.id_set, s.name) for block in summary.blocks for s in block.sets} - set(summary.judged)
    return (
        f"{MAYBE} may be the best AUROC of its column: with 95% confidence the truly best of those that compete there "
        "is among the marked (multiple comparisons with the best, over draws of test images and, between recipes, of "
        "seeds). Cells without a number and seen ones do not compete."
        + " A column with cells of fewer seeds is judged on the seeds that all have." * fewer
        + f" Not judged: {', '.join(map(' against '.join, sorted(missing)))}." * bool(missing)
    )


def _lacking(summary: Summary) -> bool:
    rows = [(block, row) for block in summary.blocks for row in block.rows]
    means = all((group, "auroc") in row.means for block, row in rows for group in block.groups)
    return not means or any(block.averaged and "auroc" not in row.worst for block, row in rows)


def _partial(summary: Summary) -> Iterator[str]:
    for block in summary.blocks:
        for row in block.rows:
            for name, cell in row.cells.items():
                if cell.status == PARTIAL and cell.reason:
                    yield f"{FEWER} {block.id_set}, {row.label}, {name}: {cell.reason}"


def _run_notes(run: StoredRun) -> Iterator[str]:
    """The notes of the run, warnings first."""
    notes = list(run.info.get("notes", ()))
    yield from (note for note in notes if note.startswith(WARNING))
    yield from (f"Note: {note}" for note in notes if not note.startswith(WARNING))


def _cell_notes(run: StoredRun) -> Iterator[str]:
    """The notes of records on single cells; equal notes are combined."""
    cells: dict[str, dict[str, None]] = {}
    for record in run.records:
        for note in record.notes:
            cells.setdefault(note, {})[f"{record.id_set}, {record.label}, {record.ood_set}"] = None
    for note, places in cells.items():
        more = f"; and {counted(len(places) - 3, 'more cell')}" if len(places) > 3 else ""
        yield f"Note: {note} ({'; '.join(list(places)[:3])}{more})"
