"""Small tables in HTML, as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.tables.html import STYLE


def html_table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = (), bold: Iterable[str] = ()
) -> str:
    """A table with a title, and notes under it: a fragment, not a whole page. The first column holds the rows' names.

    Args:
        title: Shown above the table; "" for none.
        heads: Column headings.
        rows: As many texts each as there are headings.
        notes: Sentences under the table.
        bold: Texts of cells that are bold.
    """
    strong = set(bold)
    lines = [f"<h4>{_text(title)}</h4>"] if title else []
    lines += ["<table>", "<thead>", _row(f"<th>{_text(head)}</th>" for head in heads), "</thead>", "<tbody>"]
    for first, *others in rows:
        cells = (f"<b>{_text(cell)}</b>" if cell in strong else _text(cell) for cell in others)
        named = f'<th style="text-align: left">{_text(first)}</th>'
        lines.append(_row([named, *(f'<td style="{STYLE}">{cell}</td>' for cell in cells)]))
    lines += ["</tbody>", "</table>"]
    if listed := [f"<li>{_text(note)}</li>" for note in notes]:
        lines += ["<ul>", *listed, "</ul>"]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: str) -> str:
    return escape(visible(text))
