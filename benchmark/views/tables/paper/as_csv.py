"""Tables of a paper as CSV, for a spreadsheet: numbers as printed, deviations in columns of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.tables.paper.grid import Cell, PaperTable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in spreadsheets."""


def paper_csv(tables: Sequence[PaperTable]) -> str:
    """Each table with one line of headings; an empty line between tables. Empty where there is no number."""
    return "\n".join(map(_one, tables))


def _one(table: PaperTable) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = [any(row[i].std for row in table.cells) for i in range(len(table.columns))]
    grouped, labelled = any(head.group for head in table.rows), any(head.label for head in table.rows)
    lead = ["group"] * grouped + [table.corner or "row"] + ["label"] * labelled
    titles = [
        t for head, std in zip(table.columns, spread, strict=True) for t in [head.path, f"{head.path} std"][: 1 + std]
    ]
    writer.writerow(map(safe, [*lead, *titles]))
    for head, cells in zip(table.rows, table.cells, strict=True):
        names = [head.group_text] * grouped + [head.text] + [head.label] * labelled
        numbers = [text for cell, std in zip(cells, spread, strict=True) for text in _texts(cell)[: 1 + std]]
        writer.writerow([*map(safe, names), *numbers])
    return out.getvalue()


def _texts(cell: Cell) -> list[str]:
    if cell.is_text:
        return ["none" if cell.mean == DASH else safe(cell.mean), ""]
    return ["" if cell.value is None else cell.mean, cell.std]


def safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    text = visible(text)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
