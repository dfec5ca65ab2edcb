"""A run's tables as a LaTeX document that compiles as it is; its tables can be copied into a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.layout import (
    INTERVAL,
    Group,
    Sheet,
    TableEntry,
    legend,
    pair_titles,
    sheets,
    without_cells,
)

PREAMBLE = r"""\documentclass[a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[margin=15mm]{geometry}
\usepackage{array,booktabs,longtable}
\newcolumntype{L}{>{\raggedright\arraybackslash\hangindent=1em}p{45mm}}
\setlength{\tabcolsep}{4pt}
\setlength{\LTcapwidth}{\textwidth}
\begin{document}
\small
"""

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)

SPECIAL = {
    **{c: "\\" + c for c in "{}$&#%_"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "[": "{[}", "*": "{*}"},
    **{
        "±": r"$\pm$",
        "°": r"$^\circ$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "§": r"\textsuperscript{\S}",
        "¶": r"\textsuperscript{\P}",
        "\N{EN DASH}": "--",
        "·": r"$\cdot$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
    },
    **{
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "→": r"$\to$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "“": "``",
        "”": "''",
        "—": "---",
        "…": r"\dots{}",
    },
    **{chr(0x3B1 + i): rf"$\{name}$" for i, name in enumerate(GREEK.split()) if name != "omicron"},
}
"""Characters that are markup in LaTeX, and symbols that its fonts lack. A bracket or star might follow a `\\`."""


def table_latex(run: StoredRun) -> str:
    """Two tables per ID set (accuracy with the overall AUROC, then every OOD set), and the legend."""
    summary = summary_of(run)
    lines = [line for sheet in sheets(summary) for line in (*_overall(sheet), "", *_pairs(sheet), "")]
    items = [rf"\item {escaped(item)}" for item in legend(run, summary, "Bold", INTERVAL)]
    notes = [r"\begin{itemize}\footnotesize\raggedright", *items, r"\end{itemize}"]
    body = "\n".join([*lines, *notes] if summary.blocks else map(escaped, without_cells(run)))
    return PREAMBLE + body + "\n" + r"\end{document}" + "\n"


def _overall(sheet: Sheet) -> Iterator[str]:
    columns = [*sheet.accuracy.columns, *sheet.overall.columns]
    titles = [*(c.title for c in sheet.accuracy.columns), *(f"{c.title} AUROC" for c in sheet.overall.columns)]
    named = "l" if any(entry.note for column in columns for entry in column.entries) else ""
    yield from _opening(f"{sheet.title}: accuracy, and AUROC over the OOD sets.", titles, named)
    for i, row in enumerate(sheet.block.rows):
        notes = [escaped(column.entries[i].note) for column in columns[-1:]] if named else []
        yield _line([_label(row.label), *(_entry(column.entries[i]) for column in columns), *notes])
    yield from (r"\bottomrule", r"\end{longtable}")


def _pairs(sheet: Sheet) -> Iterator[str]:
    yield from _opening(f"{sheet.title}: every OOD set.", pair_titles(sheet))
    for index, group in enumerate(sheet.sets):
        yield from [r"\midrule"] if index else []
        yield rf"\multicolumn{{{1 + len(pair_titles(sheet))}}}{{@{{}}l}}{{\textit{{{escaped(group.title)}}}}} \\*"
        yield from _group(sheet, group)
    yield from (r"\bottomrule", r"\end{longtable}")


def _group(sheet: Sheet, group: Group) -> Iterator[str]:
    for i, entries, span in sheet.lines(group):
        label = (_label if i < len(sheet.block.rows) else escaped)(sheet.label(group, i))
        cells = [rf"\multicolumn{{{len(entries)}}}{{c@{{}}}}{{{escaped(span)}}}"] if span else map(_entry, entries)
        yield _line([label, *cells])


def _opening(caption: str, titles: Iterable[str], more: str = "") -> Iterator[str]:
    """The start of a table, whose head is repeated on every page. `more` are untitled columns on the right."""
    titles = [escaped(title) for title in titles]
    yield rf"\begin{{longtable}}{{@{{}}L{'r' * len(titles)}{more}@{{}}}}"
    yield rf"\caption{{{escaped(caption)}}} \\"
    yield r"\toprule"
    yield _line(["Detector", *titles, *[""] * len(more)])
    yield from (r"\midrule", r"\endhead")


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _entry(entry: TableEntry) -> str:
    """A number; marks take no width, so that digits stay aligned."""
    number = rf"{escaped(entry.mean)} $\pm$ {entry.std}" if entry.std else escaped(entry.mean)
    bold = rf"\textbf{{{number}}}" if entry.bold else number
    return bold + (rf"\rlap{{{escaped(entry.marks)}}}" if entry.marks else "")


def _label(label: str) -> str:
    """A detector's label that may be broken between its parts."""
    return r"\allowbreak ".join(escaped(part) for part in re.split(r"(?=[\[@])|(?<=,)", label))


def escaped(text: str) -> str:
    """Text that LaTeX prints literally anywhere: no markup, no ligature of two equal characters."""
    parts = re.split(r"(?<=[-<>,'`])(?=[-<>,'`])", text)
    return "{}".join("".join(map(_character, part)) for part in parts)


def _character(c: str) -> str:
    if c in SPECIAL:
        return SPECIAL[c]
    return c if " " <= c <= "~" or ("À" <= c <= "ž" and c.isalpha()) else f"(U+{ord(c):04X})"
