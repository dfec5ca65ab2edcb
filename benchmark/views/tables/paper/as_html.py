"""Tables of a paper as HTML: fragments for a page, with headings that say what they are headings of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.tables.paper.grid import Cell, PaperTable, runs_of, same_group

CELL = "white-space: nowrap; padding: 2px 8px"
LEFT, RIGHT, CENTRE = (f"text-align: {side}; {CELL}" for side in ("left", "right", "center"))
CAPTION, PLAIN = "text-align: left; padding-bottom: 6px", "; font-weight: normal"
RULE = "; border-bottom: 1px solid"


def paper_html(tables: Sequence[PaperTable]) -> str:
    """Each table with its caption, and its notes as a list below."""
    return "\n".join(line for table in tables for line in _lines(table)) + "\n"


def _lines(table: PaperTable) -> Iterator[str]:
    yield '<table style="border-collapse: collapse">'
    yield f'<caption style="{CAPTION}">{_text(table.caption)}</caption>'
    yield "<thead>"
    if any(head.group for head in table.columns):
        spans = (
            f'<th scope="colgroup" colspan="{size}" style="{CENTRE}">{_text(head.group_text)}</th>'
            for head, size in runs_of(table.columns)
        )
        yield f"<tr><td></td>{''.join(spans)}</tr>"
    titles = (f'<th scope="col" style="{RIGHT}{RULE}">{_text(head.text)}</th>' for head in table.columns)
    yield f'<tr><th scope="col" style="{LEFT}{RULE}">{_text(table.corner)}</th>{"".join(titles)}</tr>'
    yield "</thead>"
    yield "<tbody>"
    for place, (head, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if head.group and (place == 0 or not same_group(table.rows[place - 1], head)):
            heading = f'<th scope="rowgroup" colspan="{1 + len(cells)}" style="{LEFT}{PLAIN}">'
            yield f"<tr>{heading}<i>{_text(head.group_text)}</i></th></tr>"
        yield f'<tr><th scope="row" style="{LEFT}{PLAIN}">{_text(head.text)}</th>{"".join(map(_cell, cells))}</tr>'
    yield "</tbody>"
    yield "</table>"
    if table.notes:
        yield f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in table.notes)}</ul>"


def _cell(cell: Cell) -> str:
    number = _text(f"{cell.mean} ± {cell.std}" if cell.std else cell.mean)
    number = f"<b>{number}</b>" if cell.bold else number
    number = f"<u>{number}</u>" if cell.underline else number
    ends = DASH.join(f"{end:.1f}" for end in cell.ends) if cell.ends else ""
    hint = f' title="{_text(f"95% interval {ends}")}"' if ends else ""
    return f'<td style="{LEFT if cell.is_text else RIGHT}"{hint}>{number}{_text(cell.marks)}</td>'


def _text(text: str) -> str:
    return escape(visible(text))
