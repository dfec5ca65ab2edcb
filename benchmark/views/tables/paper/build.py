"""Builds the tables of a paper from a run's summary: which numbers stand where, which are bold, what has to be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.choice import check_order, chosen, metric_mean, scope_sets, sorted_rows, value_of_row
from oodbench.benchmark.views.costs import POSTHOC, TRAINED, Costs, costs_of
from oodbench.benchmark.views.marks import DASH, FEWER, MAYBE, SEEN
from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.names import Names
from oodbench.benchmark.views.recorded import check_recorded
from oodbench.benchmark.views.summary import (
    EVERY,
    GROUPS,
    Block,
    OodSet,
    Stat,
    Summary,
    TableRow,
    mean_over,
    summary_of,
)
from oodbench.benchmark.views.tables.paper.caption import Shown, caption_of, notes_of
from oodbench.benchmark.views.tables.paper.grid import Cell, Head, PaperTable
from oodbench.benchmark.views.tables.paper.spec import DATA, NONE, PASSES, STACKED, TableSpec
from oodbench.benchmark.views.warnings import WARNED, doubtful

UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"

KINDS = {POSTHOC: "Post-hoc", TRAINED: "With a training of their own"}
"""Kind of row -> the heading above its rows."""

MEANS = {"near": "Near-OOD mean", "far": "Far-OOD mean", EVERY: "Mean"}
"""Group -> the heading of its means."""

OF_CLASSIFIER = ("id_accuracy", "ece", "nll", "shifted_accuracy")

COST_TITLES = {DATA: "Data", PASSES: "Passes", "networks": "Networks"}


@dataclass(frozen=True)
class Column:
    """A column of numbers before it is laid out: one value per row of the block."""

    section: str
    """What it is about: the name of an OOD set, or a mean; empty for numbers that depend on none."""
    title: str
    """The column's own heading, a metric's or a cost's."""
    metric: Metric | None
    cells: tuple[Cell, ...]


def paper_tables(run: StoredRun, spec: TableSpec, names: Names, cite: bool = False) -> list[PaperTable]:
    """A run's tables as a spec describes them: one per ID set, or one for all if they have the same columns.

    Args:
        run: The run, or several side by side.
        spec: What to show.
        names: What rows and sets are called, and what is cited for them.
        cite: Whether rows carry their citations.

    Raises:
        UserError: A row, set, group, metric or order that the run does not have.
    """
    summary = chosen(summary_of(run), spec.detectors, spec.ood, spec.id_sets, names.rows)
    if not summary.blocks:
        raise UserError(f"Run '{run.name}' has no records, so there is nothing to show. Finish the run first.")
    check_recorded(summary.blocks, spec.metrics)
    summary = _ordered(summary, spec)
    costs = costs_of(run)
    _check_means(summary, spec)
    shown = Shown(run, summary, spec, names, costs)
    tables = [_table(block, shown, cite) for block in summary.blocks]
    if len(tables) > 1 and all(table.columns == tables[0].columns for table in tables):
        tables = [_merged(tables, shown)]
    return [table.transposed() if spec.transpose else table for table in tables]


def cited_names(run: StoredRun, spec: TableSpec, names: Names) -> list[str]:
    """The rows, sets and networks of a table, for its references."""
    blocks = chosen(summary_of(run), spec.detectors, spec.ood, spec.id_sets, names.rows).blocks
    rows = [row.label for block in blocks for row in block.rows]
    sets = [name for block in blocks for name in (block.id_set, *(ood.name for ood in block.sets))]
    return list(dict.fromkeys([*rows, *sets, *(one for block in blocks for one in block.backbones)]))


def _ordered(summary: Summary, spec: TableSpec) -> Summary:
    if not spec.sort:
        return summary
    order = check_order(summary.blocks, spec.sort)
    blocks = tuple(replace(block, rows=tuple(sorted_rows(block, order))) for block in summary.blocks)
    return replace(summary, blocks=blocks)


def _check_means(summary: Summary, spec: TableSpec) -> None:
    for group in spec.group_means:
        if group in GROUPS and not any(scope_sets(block.averaged, group) for block in summary.blocks):
            raise UserError(
                f"No ID set has a mean over {group} OOD sets to show: the suite calls none of them {group}. Choose "
                "--group-means all."
            )
    if not spec.sets and not any(_mean_groups(block, spec) for block in summary.blocks):
        raise UserError("The table would have neither OOD sets nor means. Choose --sets or --group-means all.")


def _mean_groups(block: Block, spec: TableSpec) -> list[str]:
    """The groups whose means one ID set's table has."""
    if spec.group_means == (NONE,):
        return []
    if spec.group_means:
        return [group for group in spec.group_means if scope_sets(block.averaged, group)]
    found = list(block.groups)
    return found or ([EVERY] if block.averaged and not spec.sets else [])


def _by_kind(block: Block, shown: Shown) -> tuple[TableRow, ...]:
    """The rows, those of one kind together if kinds are asked for; kinds that are not named come last."""
    order = shown.spec.group_rows
    if not order:
        return block.rows
    places = {kind: place for place, kind in enumerate(order)}
    return tuple(sorted(block.rows, key=lambda row: places.get(shown.costs[row.label].kind, len(places))))


def _table(block: Block, shown: Shown, cite: bool) -> PaperTable:
    spec = shown.spec
    block = replace(block, rows=_by_kind(block, shown))
    heads = [_row_head(row, shown, cite) for row in block.rows]
    before, after, metrics = _lone(block, shown)
    sections = list(_sections(block, shown, metrics))
    if spec.layout == STACKED:
        rows, columns, cells = _stacked(heads, before, sections, after, metrics)
    else:
        rows = heads
        placed = [*_plain(before), *_wide(sections, spec, metrics), *_plain(after)]
        columns = [head for head, _ in placed]
        cells = [tuple(column[i] for _, column in placed) for i in range(len(rows))]
    about = f"{spec.name} {block.id_set}"
    caption, notes = caption_of(shown, [block]), notes_of(shown, [block])
    return PaperTable(about, caption, "Method", tuple(rows), tuple(columns), tuple(cells), notes)


def _row_head(row: TableRow, shown: Shown, cite: bool) -> Head:
    kind = KINDS[shown.costs[row.label].kind] if shown.spec.group_rows else ""
    keys = shown.names.cite(row.label) if cite else ()
    return Head(shown.names.row(row.label), kind, cite=keys, label=row.label)


# Columns


def _lone(block: Block, shown: Shown) -> tuple[list[Column], list[Column], list[Metric]]:
    """The columns that depend on no OOD set, before and after the others, and the metrics of the others."""
    spec = shown.spec
    before: list[Column] = []
    after: list[Column] = []
    metrics: list[Metric] = []
    by_name = dict(zip((name for name in spec.columns if name not in COST_TITLES), spec.metrics, strict=True))
    for name in spec.columns:
        metric = by_name.get(name)
        if metric is None:
            cells = tuple(_cost_cell(name, shown.costs[row.label]) for row in block.rows)
            (after if metrics else before).append(Column("", COST_TITLES[name], None, cells))
        elif metric.is_of_row:
            stats = [value_of_row(row, metric) for row in block.rows]
            (after if metrics else before).append(Column("", metric.title, metric, _cells(stats, metric, shown)))
        else:
            metrics.append(metric)
    return before, after, metrics


def _cost_cell(name: str, costs: Costs) -> Cell:
    text = {DATA: costs.data_text, PASSES: costs.passes_text}.get(name, costs.networks_text)
    return Cell(text, is_text=True)


def _sections(block: Block, shown: Shown, metrics: Sequence[Metric]) -> Iterator[tuple[str, list[Column]]]:
    """The OOD sets that are shown, then the means, each with its columns."""
    for ood in block.sets if shown.spec.sets else ():
        title = shown.names.set(ood.name)
        yield title, [Column(title, m.title, m, _set_cells(block, ood, m, shown)) for m in metrics]
    for group in _mean_groups(block, shown.spec):
        members = scope_sets(block.averaged, group)
        columns = []
        for metric in metrics:
            stats = [metric_mean(row, members, metric) for row in block.rows]
            columns.append(Column(MEANS[group], metric.title, metric, _cells(stats, metric, shown)))
        yield MEANS[group], columns


def _set_cells(block: Block, ood: OodSet, metric: Metric, shown: Shown) -> tuple[Cell, ...]:
    cells = [row.cells[ood.name] for row in block.rows]
    if metric.name in METRICS and not metric.rules:
        stats = [cell.stats.get(metric.name) for cell in cells]
    else:
        stats = [mean_over([row.records[ood.name]], metric.of) for row in block.rows]
    seen = [cell.seen for cell in cells]
    warned = [not metric.rules and doubtful(cell.warnings, metric.name) for cell in cells]
    return _cells(stats, metric, shown, seen, warned)


def _cells(
    stats: Sequence[Stat | None],
    metric: Metric,
    shown: Shown,
    seen: Sequence[bool] = (),
    warned: Sequence[bool] = (),
) -> tuple[Cell, ...]:
    """One column's cells, with the best and second best of those that compete."""
    seen, warned = seen or [False] * len(stats), warned or [False] * len(stats)
    written = [_written(stat.mean, metric, shown.spec) if stat else "" for stat in stats]
    compete = {i: float(text) for i, text in enumerate(written) if text and not seen[i]}
    # the numbers of a classifier, which many rows share, rank no detector
    best, second = ranked({} if metric.name in OF_CLASSIFIER else compete, metric.lower_is_better)
    found = []
    for i, stat in enumerate(stats):
        if stat is None:
            found.append(Cell(DASH))
            continue
        scale = 100 if metric.is_percent else 1
        spread = stat.std if shown.has_std else None
        found.append(
            Cell(
                written[i],
                "" if spread is None else _written(spread, metric, shown.spec),
                bold=i in best and shown.spec.bold == "best",
                underline=i in second and shown.spec.underline == "second",
                marks=_marks(stat, seen[i], warned[i], shown),
                value=scale * stat.mean,
                spread=None if spread is None else scale * spread,
                ends=None if stat.interval is None else (scale * stat.interval[0], scale * stat.interval[1]),
            )
        )
    return tuple(found)


def ranked(values: Mapping[int, float], lower_is_better: bool | None) -> tuple[frozenset[int], frozenset[int]]:
    """Which of a column's printed values are the best, and which the second best; equal ones share a place.

    None is the best if all are equal or there is only one, none the second best of fewer than three values.
    """
    if lower_is_better is None or len(set(values.values())) < 2:
        return frozenset(), frozenset()
    order = sorted(set(values.values()), reverse=not lower_is_better)
    best = frozenset(i for i, value in values.items() if value == order[0])
    second = frozenset(i for i, value in values.items() if value == order[1])
    return best, second if len(values) > 2 and len(best) == 1 else frozenset()


def _written(value: float, metric: Metric, spec: TableSpec) -> str:
    if metric.is_percent:
        return f"{100 * value:.{spec.decimals}f}"
    return f"{value:.{spec.decimals + 2}f}"


def _marks(stat: Stat, seen: bool, warned: bool, shown: Shown) -> str:
    kind = shown.spec.marks
    if kind == NONE:
        return ""
    marks = SEEN * seen
    if kind == "all":
        marks = MAYBE * bool(stat.may_be_best) + marks + FEWER * (stat.n < len(shown.summary.seeds)) + WARNED * warned
    return marks


# Layouts


def _arrow(metric: Metric | None) -> str:
    if metric is None or metric.lower_is_better is None:
        return ""
    return DOWN if metric.lower_is_better else UP


def _plain(columns: Sequence[Column]) -> list[tuple[Head, tuple[Cell, ...]]]:
    return [(_metric_head(column), column.cells) for column in columns]


def _metric_head(column: Column) -> Head:
    return Head(column.title, "", column.metric.convention if column.metric else "", _arrow(column.metric))


def _wide(
    sections: Sequence[tuple[str, list[Column]]], spec: TableSpec, metrics: Sequence[Metric]
) -> list[tuple[Head, tuple[Cell, ...]]]:
    """Sets side by side: metrics under each set, or sets under each metric."""
    by = spec.by or ("metric" if len(metrics) == 1 else "set")
    if by == "set":
        return [(replace(_metric_head(c), group=title), c.cells) for title, columns in sections for c in columns]
    found = []
    for place, metric in enumerate(metrics):
        for title, columns in sections:
            head = Head(title, metric.title, group_convention=metric.convention, group_arrow=_arrow(metric))
            found.append((head, columns[place].cells))
    return found


def _stacked(
    heads: Sequence[Head],
    before: Sequence[Column],
    sections: Sequence[tuple[str, list[Column]]],
    after: Sequence[Column],
    metrics: Sequence[Metric],
) -> tuple[list[Head], list[Head], list[tuple[Cell, ...]]]:
    """Sets below each other: their rows under a heading, the metrics as columns."""
    columns = [_metric_head(column) for column in (*before, *(sections[0][1] if sections else ()), *after)]
    rows, cells = [], []
    for title, of_section in sections:
        for i, head in enumerate(heads):
            group = f"{title}: {head.group}" if head.group else title
            rows.append(replace(head, group=group))
            cells.append(tuple(column.cells[i] for column in (*before, *of_section, *after)))
    return rows, columns, cells


def _merged(tables: Sequence[PaperTable], shown: Shown) -> PaperTable:
    """Tables of several ID sets with the same columns as one: the ID set is the heading of its rows."""
    blocks = shown.summary.blocks
    rows, cells = [], []
    for table, block in zip(tables, blocks, strict=True):
        title = shown.names.set(block.id_set)
        for group, members in groupby(zip(table.rows, table.cells, strict=True), key=lambda pair: pair[0].group):
            heading = f"{title}: {group}" if group else title
            for head, line in members:
                rows.append(replace(head, group=heading))
                cells.append(line)
    caption, notes = caption_of(shown, blocks), notes_of(shown, blocks)
    return PaperTable(shown.spec.name, caption, "Method", tuple(rows), tables[0].columns, tuple(cells), notes)
