"""Tables of a paper for the terminal: columns that do not fit stand in panels below each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.labels import wrapped_label
from oodbench.benchmark.views.tables.paper.grid import Cell, Head, PaperTable, panels, runs_of, same_group

GAP = 2
"""Spaces between columns."""


def paper_text(tables: Sequence[PaperTable], width: int = 100, colour: bool = False) -> str:
    """Each table with its caption above and its notes below, in lines of `width` characters where names allow it.

    Without colour, a star follows the best of a column, and an underscore the second best.
    """
    return "\n\n".join("\n".join(_lines(table, max(width, 40), colour)) for table in tables) + "\n"


def _lines(table: PaperTable, width: int, colour: bool) -> Iterator[str]:
    caption = table.caption if colour else table.caption.replace("Bold: best", "*: best")
    caption = caption if colour else caption.replace("underlined: second", "_: second").replace("Underlined", "_")
    yield from _filled(caption, width)
    names = [_name(head, max(20, width // 3)) for head in table.rows]
    first = max(len(line) for line in (table.corner, *(line for lines in names for line in lines)))
    for piece in panels(table, width - first, lambda i: GAP + _column_width(table, i, colour)):
        yield ""
        yield from _panel(piece, names, first, colour)
    if table.notes:
        yield ""
    for note in table.notes:
        yield from _filled(note, width)


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(visible(text), width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _name(head: Head, width: int) -> list[str]:
    text = visible(head.text)
    lines = [text] if len(text) <= width else wrapped_label(text, width - 2)
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _column_width(table: PaperTable, place: int, colour: bool) -> int:
    cells = [len(_number(row[place])) + len(_signs(row[place], colour)) for row in table.cells]
    return max([len(visible(table.columns[place].text)), *cells])


def _panel(table: PaperTable, names: Sequence[Sequence[str]], first: int, colour: bool) -> Iterator[str]:
    widths = [_column_width(table, i, colour) for i in range(len(table.columns))]
    place, above = 0, " " * first
    for head, size in runs_of(table.columns):  # a heading that is wider than its columns widens the last of them
        own = widths[place : place + size]
        heading = visible(head.group_text)
        widths[place + size - 1] += max(0, len(heading) - (sum(own) + GAP * (size - 1)))
        room = sum(widths[place : place + size]) + GAP * (size - 1)
        above += " " * GAP + (f" {heading} ".center(room, "─") if len(heading) + 2 <= room else heading.ljust(room))
        above = above if heading else above[:-room] + " " * room
        place += size
    if above.strip():
        yield above.rstrip()
    titles = [visible(head.text).rjust(w) for head, w in zip(table.columns, widths, strict=True)]
    yield (" " * GAP).join([table.corner.ljust(first), *titles]).rstrip()
    signs = [max((len(_signs(row[i], colour)) for row in table.cells), default=0) for i in range(len(widths))]
    for i, (head, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if head.group and (i == 0 or not same_group(table.rows[i - 1], head)):
            yield visible(head.group_text)
        texts = [_cell(cell, w, s, colour) for cell, w, s in zip(cells, widths, signs, strict=True)]
        yield (" " * GAP).join([names[i][0].ljust(first), *texts]).rstrip()
        yield from names[i][1:]


def _number(cell: Cell) -> str:
    return visible(f"{cell.mean} ± {cell.std}" if cell.std else cell.mean)


def _signs(cell: Cell, colour: bool) -> str:
    return cell.marks + ("" if colour else "*" * cell.bold + "_" * cell.underline)


def _cell(cell: Cell, width: int, signs: int, colour: bool) -> str:
    """A number, right-aligned, with its signs behind it in a place of their own."""
    number = _number(cell)
    shown = number
    if colour and (cell.bold or cell.underline):
        shown = click.style(number, bold=cell.bold or None, underline=cell.underline or None)
    after = _signs(cell, colour).ljust(signs)
    return " " * (width - len(number) - len(after)) + shown + after
