"""A run's tables as GitHub-flavoured Markdown; pairs are stacked vertically, so that tables stay narrow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.layout import (
    INTERVAL,
    Sheet,
    TableEntry,
    legend,
    pair_titles,
    sheets,
    without_cells,
)


def table_markdown(run: StoredRun) -> str:
    """Two tables per ID set (accuracy with the overall AUROC, then every OOD set), and the legend."""
    summary = summary_of(run)
    lines = [f"# {escaped(run.name)}", ""]
    for sheet in sheets(summary):
        lines += [f"## {escaped(sheet.title)}", "", *_overall(sheet), "", *_pairs(sheet), ""]
    lines += (
        [f"- {escaped(item)}" for item in legend(run, summary, "Bold", INTERVAL)]
        if summary.blocks
        else [escaped(line) for line in without_cells(run)]
    )
    return "\n".join(lines) + "\n"


def _overall(sheet: Sheet) -> list[str]:
    columns = [*sheet.accuracy.columns, *sheet.overall.columns]
    titles = [*(c.title for c in sheet.accuracy.columns), *(f"{c.title} AUROC" for c in sheet.overall.columns)]
    rows = ([code(row.label), *(entry_text(c.entries[i]) for c in columns)] for i, row in enumerate(sheet.block.rows))
    return list(table_lines(["Detector", *titles], 1, rows))


def _pairs(sheet: Sheet) -> list[str]:
    rows = ([place, *row] for group in range(len(sheet.sets)) for place, row in _group(sheet, group))
    return list(table_lines(["OOD set", "Detector", *pair_titles(sheet)], 2, rows))


def _group(sheet: Sheet, index: int) -> Iterator[tuple[str, list[str]]]:
    group = sheet.sets[index]
    for i, entries, span in sheet.lines(group):
        label = (code if i < len(sheet.block.rows) else escaped)(sheet.label(group, i))
        cells = [escaped(span), *[""] * (len(entries) - 1)] if span else [entry_text(entry) for entry in entries]
        yield ("" if i else escaped(group.title)), [label, *cells]


def table_lines(titles: Sequence[str], left: int, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table; the first `left` columns are left-aligned, the rest right-aligned."""
    rules = [":--" if i < left else "--:" for i in range(len(titles))]
    for cells in (titles, rules, *rows):
        yield f"| {' | '.join(cells)} |"


def entry_text(entry: TableEntry) -> str:
    """A number with its marks."""
    number = f"{entry.mean} ± {entry.std}" if entry.std else entry.mean
    bold = f"**{number}**" if entry.bold else number
    return bold + entry.marks + (f" {code(entry.note)}" if entry.note else "")


def escaped(text: str) -> str:
    """Escape what Markdown, or HTML within it, would read as markup."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", visible(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(name: str) -> str:
    """A name as code, so that `@` mentions nobody. Pipes are escaped because they would end the table cell anyway."""
    name = visible(name)
    if not name or "`" in name or "\\" in name:  # a backslash before a pipe would undo its escape
        return escaped(name)
    return "`" + name.replace("|", "\\|") + "`"
