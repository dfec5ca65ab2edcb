"""Tables of a paper as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oodbench.benchmark.views.tables.markdown import escaped, table_lines
from oodbench.benchmark.views.tables.paper.grid import Cell, PaperTable, same_group


def paper_markdown(tables: Sequence[PaperTable]) -> str:
    """Each table with its caption above and its notes below."""
    return "\n\n".join("\n".join(_lines(table)) for table in tables) + "\n"


def _lines(table: PaperTable) -> Iterator[str]:
    yield f"**{name(table.caption)}**"
    yield ""
    yield from table_lines([name(table.corner), *(name(head.path) for head in table.columns)], 1, _rows(table))
    if table.notes:
        yield ""
    yield from (f"- {name(note)}" for note in table.notes)


def _rows(table: PaperTable) -> Iterator[list[str]]:
    for place, (head, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if head.group and (place == 0 or not same_group(table.rows[place - 1], head)):
            yield [f"*{name(head.group_text)}*", *[""] * len(cells)]
        yield [name(head.text), *map(_cell, cells)]


def _cell(cell: Cell) -> str:
    number = name(f"{cell.mean} ± {cell.std}" if cell.std else cell.mean)
    number = f"**{number}**" if cell.bold else number
    number = f"<ins>{number}</ins>" if cell.underline else number
    return number + name(cell.marks)


def name(text: str) -> str:
    """Any text, literally; `@` mentions nobody."""
    return escaped(text).replace("@", "&#64;")
