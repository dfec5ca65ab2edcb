"""LaTeX tables for a paper that uses the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.tables.latex import escaped


def latex_number(value: float, interval: tuple[float, float] | None = None) -> str:
    """A fraction in percent, followed by its interval in small print."""
    ends = f" {{\\scriptsize [{percent(interval[0])}, {percent(interval[1])}]}}" if interval else ""
    return percent(value) + ends


def latex_line(name: str, cells: Sequence[str]) -> str:
    """A row of a table: its name, which is escaped, and cells that are LaTeX already."""
    return " & ".join([escaped(name), *cells]) + r" \\"


def latex_table(heads: Sequence[str], blocks: Sequence[Sequence[str]]) -> str:
    """A tabular with headings and lines, blocks separated by a rule; needs `\\usepackage{booktabs}`."""
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * (len(heads) - 1)}@{{}}}}", r"\toprule"]
    lines.append(latex_line(heads[0], [escaped(head) for head in heads[1:]]))
    for block in blocks:
        lines += [r"\midrule", *block]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
