"""A run's tables as HTML, as a notebook shows them: one table per ID set, best values in bold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.layout import Group, Sheet, TableEntry, legend, sheets, without_cells

STYLE = "text-align: right; white-space: nowrap"


def table_html(run: StoredRun) -> str:
    """One table per ID set, all OOD sets side by side, and what the marks mean: a fragment, not a whole page."""
    summary = summary_of(run)
    parts = [f"<h3>{_text(run.name)}</h3>"]
    for sheet in sheets(summary):
        parts += [f"<h4>{_text(sheet.title)}</h4>", *_table(sheet)]
    notes = legend(run, summary, "Bold") if summary.blocks else without_cells(run)
    parts += ["<ul>", *(f"<li>{_text(note)}</li>" for note in notes), "</ul>"]
    return "\n".join(parts) + "\n"


def _table(sheet: Sheet) -> Iterator[str]:
    groups = [sheet.accuracy, *sheet.sets, sheet.overall]
    yield "<table>"
    yield "<thead>"
    yield _row(["<th></th>", *(f'<th colspan="{len(group.columns)}">{_text(group.title)}</th>' for group in groups)])
    titles = (column.title for group in groups for column in group.columns)
    yield _row(["<th>Detector</th>", *(f"<th>{_text(title)}</th>" for title in titles)])
    yield "</thead>"
    yield "<tbody>"
    for place, label in enumerate(sheet.labels):
        cells = (cell for group in groups for cell in _cells(group, place))
        yield _row([f'<th style="text-align: left">{_text(label)}</th>', *cells])
    yield "</tbody>"
    yield "</table>"


def _cells(group: Group, place: int) -> Iterable[str]:
    if group.spans[place]:
        return [f'<td colspan="{len(group.columns)}">{_text(group.spans[place])}</td>']
    return [f'<td style="{STYLE}">{_entry(column.entries[place])}</td>' for column in group.columns]


def _entry(entry: TableEntry) -> str:
    number = _text(f"{entry.mean} ± {entry.std}" if entry.std else entry.mean)
    bold = f"<b>{number}</b>" if entry.bold else number
    return bold + _text(entry.marks) + (f" <code>{_text(entry.note)}</code>" if entry.note else "")


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: str) -> str:
    return escape(visible(text))
