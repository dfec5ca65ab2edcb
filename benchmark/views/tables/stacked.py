"""Tables with one heading per cell and one line per metric or pair, for the terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.tables.markdown import escaped, table_lines


@dataclass(frozen=True)
class Item:
    """One line: the cell it belongs to, marks after the cell's name, the metric, and the numbers as printed."""

    cell: str
    marks: str
    title: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """One ID set's lines, and the headings of their numbers."""

    id_set: str
    heads: tuple[str, ...]
    items: tuple[Item, ...]


def stacked_text(title: str, stacks: Sequence[Stack], nothing: str, legend: Iterable[str], width: int) -> str:
    """Title, one block per ID set (or the sentence `nothing`), and the legend, wrapped to `width` characters."""
    wrap = textwrap.TextWrapper(max(width, 20), subsequent_indent="  ", break_on_hyphens=False)
    parts = ["\n".join(wrap.wrap(visible(title))), *("\n".join(_block(stack)) for stack in stacks)]
    parts += [] if stacks else [nothing]
    parts.append("\n".join(line for item in legend for line in wrap.wrap(visible(item))))
    return "\n\n".join(parts) + "\n"


def _block(stack: Stack) -> Iterator[str]:
    rows = [item.numbers for item in stack.items]
    title = visible(f"ID set {stack.id_set}")
    first = max(len(title), *(2 + len(item.title) for item in stack.items))
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(stack.heads)]

    def line(label: str, numbers: Sequence[str]) -> str:
        cells = (number.rjust(width) for number, width in zip(numbers, widths, strict=True))
        return "   ".join([label.ljust(first), *cells]).rstrip()

    yield line(title, stack.heads)
    last = ""
    for item in stack.items:
        heading = visible(item.cell + (f" {item.marks}" if item.marks else ""))
        if heading != last:
            yield heading
        last = heading
        yield line(f"  {visible(item.title)}", item.numbers)


def stacked_markdown(title: str, stacks: Sequence[Stack], nothing: str, legend: Iterable[str]) -> str:
    """Like `stacked_text`, as Markdown: one table per ID set, the legend as a list."""
    out = [f"# {escaped(title)}", ""]
    for stack in stacks:
        heads = ["Cell", "Metric", *(escaped(head).capitalize() for head in stack.heads), "Notes"]
        rows = ([escaped(i.cell), escaped(i.title), *map(escaped, i.numbers), escaped(i.marks)] for i in stack.items)
        out += [f"## ID set {escaped(stack.id_set)}", "", *table_lines(heads, 2, rows), ""]
    out += [] if stacks else [nothing, ""]
    return "\n".join([*out, *(f"- {escaped(item)}" for item in legend)]) + "\n"
