r"""Tables of a paper in LaTeX: floats for `\input`, or a document that compiles as it is.

A fragment needs the packages booktabs and graphicx. Font and number of floats follow from an estimate of the width; a
table that is wider than the text after all is scaled down to it, so that no line is overfull.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from oodbench.benchmark.views.tables.latex import escaped
from oodbench.benchmark.views.tables.paper.grid import Cell, Head, PaperTable, panels, runs_of, same_group, sheets

PACKAGES = ("booktabs", "graphicx")

PREAMBLE = r"""\documentclass[a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[margin=15mm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""

PAGE_WIDTH, TEXT_WIDTH, COLUMN_WIDTH = 505.0, 397.0, 234.0
"""Points that the text of our own document, of a one-column paper (NeurIPS, ICLR: 5.5 in), and a column of a two-column
one have at least."""

SIZES = (("small", 4.7), ("footnotesize", 4.35), ("scriptsize", 4.1))
"""Sizes of the font, and the width of a digit in points, with something for bold ones."""

NARROW, BROAD = frozenset("fijlrtI.,:;!|'`()[]{}-/ "), frozenset("mwABCDEFGHKLMNOPQRSTUVWXYZ%&@+=<>")
"""Characters that are narrower, and wider, than a digit."""

GAP = 6.0
"""Points between columns."""

NAME, TITLE = 44, 13
"""Characters of a line of a row's name, and of a column's title."""

LINES, SPACED, SHORT = 44, 38, 28
"""Most lines of a float, which leave room for caption and notes on a letter-size page; of one with underlined numbers,
whose lines are further apart; and of one in the largest font."""


@dataclass(frozen=True)
class LatexOptions:
    """How a table is embedded."""

    standalone: bool = False
    label: str = ""
    """The label of the first float; others have it with a number. Made from the table's name if empty."""
    bibliography: str = ""
    """The name of the file of references, without .bib, that a document names at its end."""
    comment: str = ""
    """The first line, such as the command that made the table."""


def paper_latex(tables: Sequence[PaperTable], options: LatexOptions) -> str:
    """The tables as floats, or with a preamble and an end as a document."""
    lines = [f"% {_comment(options.comment)}"] if options.comment else []
    if not options.standalone:
        lines.append(rf"% Needs \usepackage{{{','.join(PACKAGES)}}} in the preamble.")
    for table in tables:
        label = options.label if len(tables) == 1 else f"{options.label}-{table.name}" * bool(options.label)
        room = PAGE_WIDTH if options.standalone else TEXT_WIDTH
        lines += list(_floats(table, re.sub(r"[^A-Za-z0-9:._-]+", "-", label or f"tab:{table.name}"), room))
    text = "\n".join(lines) + "\n"
    if not options.standalone:
        return text
    end = []
    if options.bibliography:
        end = [r"\bibliographystyle{plain}", rf"\bibliography{{{options.bibliography}}}"]
    return "\n".join([PREAMBLE.rstrip(), text.rstrip(), r"\clearpage", *end, r"\end{document}", ""])


def _comment(text: str) -> str:
    return "".join(c if " " <= c <= "~" else " " for c in text)


def _floats(table: PaperTable, label: str, room: float) -> Iterator[str]:
    """The floats of one table: one if it fits into `room`, else several with the same heading."""
    size, pieces = _divided(table, room)
    most = SPACED if _is_underlined(table) else LINES
    pieces = [part for piece in pieces for part in sheets(piece, most, lambda i: len(_name_lines(table.rows[i])))]
    for number, piece in enumerate(pieces, 1):
        first, last = number == 1, number == len(pieces)
        caption = table.caption
        if len(pieces) > 1:
            part = f" (Part {number} of {len(pieces)}.)"
            caption = (caption if first else caption.partition(". ")[0].rstrip(".") + ", continued.") + part
        yield ""
        yield from _float(replace(piece, caption=caption, notes=table.notes if last else ()), size, label, number)


def _is_underlined(table: PaperTable) -> bool:
    return any(cell.underline for row in table.cells for cell in row)


def _divided(table: PaperTable, room: float) -> tuple[str, list[PaperTable]]:
    """The largest size in which all columns fit, or the columns in pieces that do in a medium one."""
    for size, points in SIZES if len(table.rows) <= SHORT else SIZES[1:]:
        if _width(table, points) <= room:
            return size, [table]
    size, points = SIZES[1]
    left = room - _name_width(table, points)
    return size, panels(table, left, lambda i: _column_width(table, i, points))


def _width(table: PaperTable, points: float) -> float:
    return _name_width(table, points) + sum(_column_width(table, i, points) for i in range(len(table.columns)))


def _name_width(table: PaperTable, points: float) -> float:
    lines = [line for row in table.rows for line in _name_lines(row)]
    cited = max((6.0 * bool(row.cite) + 3.0 * len(row.cite) for row in table.rows), default=0.0)
    return points * (max(map(_digits, [table.corner, *lines])) + cited)


def _column_width(table: PaperTable, place: int, points: float) -> float:
    """The estimated width of a column, with the share it has of a group's heading."""
    numbers = max((_characters(row[place]) for row in table.cells), default=0.0)
    title = _title_characters(table.columns[place], TITLE)
    group, size = next((head, size) for start, (head, size) in _placed(table.columns) if start <= place < start + size)
    heading = max(map(_digits, _lines(group.group_text, TITLE * size))) / size if group.group else 0.0
    return points * max(numbers, title, heading) + GAP


def _title_characters(head: Head, width: int) -> float:
    """The width of a heading in characters; its index is in small type."""
    lines = list(map(_digits, _lines(head.title, width)))
    arrow = 1.7 * bool(head.arrow)
    return max([*lines, _digits(f"({head.convention})") + arrow if head.convention else lines[-1] + arrow])


def _placed(heads: Sequence[Head]) -> Iterator[tuple[int, tuple[Head, int]]]:
    place = 0
    for head, size in runs_of(heads):
        yield place, (head, size)
        place += size


def _characters(cell: Cell) -> float:
    return _digits(cell.mean) + (_digits(cell.std) + 2.2 if cell.std else 0.0) + 0.5 * len(cell.marks)


def _digits(text: str) -> float:
    """The width of a text, in widths of a digit."""
    return sum(0.65 if c in NARROW else 1.5 if c in BROAD else 1.0 for c in text)


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [""]


def _name_lines(head: Head) -> list[str]:
    return _lines(head.text, NAME)


def _float(table: PaperTable, size: str, label: str, number: int) -> Iterator[str]:
    sizes = SIZES[:2] if len(table.rows) <= SHORT else SIZES[1:2]
    narrow = next((name for name, points in sizes if _width(table, points) <= COLUMN_WIDTH), "")
    kind, size = ("table", narrow) if narrow else ("table*", size)
    yield rf"\begin{{{kind}}}[tp]"
    yield r"\centering"
    yield rf"\caption{{{escaped(table.caption)}}}"
    yield rf"\label{{{label}{'' if number == 1 else f'-{number}'}}}"
    yield r"\par\vspace{4pt}"
    yield rf"\{size}\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}%"
    if _is_underlined(table):
        yield r"\renewcommand{\arraystretch}{1.15}%"
    yield rf"\sbox0{{\begin{{tabular}}{{@{{}}l{''.join(_alignments(table))}@{{}}}}"
    yield from _head(table)
    yield from _body(table)
    yield r"\bottomrule"
    yield r"\end{tabular}}%"
    yield r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
    if table.notes:
        notes = " ".join(map(escaped, table.notes))
        yield rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\scriptsize\raggedright {notes}\end{{minipage}}"
    yield rf"\end{{{kind}}}"


def _alignments(table: PaperTable) -> Iterator[str]:
    for place in range(len(table.columns)):
        yield "l" if table.cells and all(row[place].is_text for row in table.cells) else "r"


def _head(table: PaperTable) -> Iterator[str]:
    yield r"\toprule"
    if any(head.group for head in table.columns):
        cells, rules = [""], []
        for place, (head, size) in _placed(table.columns):
            text = _title(head.group, head.group_convention, head.group_arrow, TITLE * size) if head.group else ""
            cells.append(rf"\multicolumn{{{size}}}{{c}}{{{text}}}" if text else "&" * (size - 1))
            rules += [rf"\cmidrule(lr){{{place + 2}-{place + size + 1}}}"] * bool(head.group)
        yield _line(cells)
        yield "".join(rules)
    titles = [
        _title(h.title, h.convention, h.arrow, TITLE, h.cite, a)
        for h, a in zip(table.columns, _alignments(table), strict=True)
    ]
    yield _line([escaped(table.corner), *titles])
    yield r"\midrule"


def _title(title: str, convention: str, arrow: str, width: int, cite: tuple[str, ...] = (), align: str = "c") -> str:
    """A heading in lines of `width` characters, the positive class on a line of its own."""
    lines = [escaped(line) for line in _lines(title, width)]
    if convention and width < len(f"{title} ({convention})") + 4:
        lines.append(escaped(f"({convention})"))
    elif convention:
        lines[-1] += escaped(f" ({convention})")
    lines[-1] += rf"\,{escaped(arrow)}" if arrow else ""
    lines[-1] += _cited(cite)
    return _block(lines, "b", align)


def _block(lines: Sequence[str], place: str, align: str) -> str:
    if len(lines) == 1:
        return lines[0]
    inside = r"\\".join(lines)
    return rf"\begin{{tabular}}[{place}]{{@{{}}{align}@{{}}}}{inside}\end{{tabular}}"


def _cited(keys: Sequence[str]) -> str:
    return rf"~\cite{{{','.join(keys)}}}" if keys else ""


def _body(table: PaperTable) -> Iterator[str]:
    for place, (head, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if head.group and (place == 0 or not same_group(table.rows[place - 1], head)):
            yield from [r"\midrule"] if place else []
            text = _title(head.group, head.group_convention, head.group_arrow, 2 * NAME, align="l")
            yield rf"\multicolumn{{{1 + len(cells)}}}{{@{{}}l}}{{\textit{{{text}}}}} \\"
        elif place and table.rows[place - 1].group and not head.group:
            yield r"\midrule"
        yield _line([_name(head), *map(_cell, cells)])


def _name(head: Head) -> str:
    return _title(head.title, head.convention, head.arrow, NAME, head.cite, "l").replace("[b]", "[t]", 1)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    """A number; marks take no width, so that digits stay aligned."""
    number = escaped(cell.mean) + (rf"\,$\pm$\,{escaped(cell.std)}" if cell.std else "")
    number = rf"\textbf{{{number}}}" if cell.bold else number
    number = rf"\underline{{{number}}}" if cell.underline else number
    return number + (rf"\rlap{{{escaped(cell.marks)}}}" if cell.marks else "")
