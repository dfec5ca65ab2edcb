"""The comparison of a run's detectors as text for the terminal, as Markdown, as CSV, and as files with plots."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from oodbench.benchmark.comparisons.column import ColumnComparison
from oodbench.benchmark.comparisons.compare import Comparison
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.views.alone import make_alone
from oodbench.benchmark.views.comparison import layout as compared
from oodbench.benchmark.views.comparison.drawn import NAME as DRAWN
from oodbench.benchmark.views.comparison.drawn import drawn_already, note_drawn
from oodbench.benchmark.views.tables.markdown import code, entry_text, escaped, table_lines
from oodbench.benchmark.views.tables.stacked import stacked_text
from oodbench.benchmark.views.tables.text import Ink, sheet_text

WINS = "Wins/ties/losses of the row against the column"

PAIR_COLUMNS = (
    "scope", "id_set", "ood_set", "metric", "a", "b", "value_a", "value_b", "difference", "standard_error", "p",
    "p_holm", "outcome", "unit", "n_id", "n_ood", "seeds", "p_conover_holm",
)  # fmt: skip


def compare_text(found: Comparison, width: int = 100, colour: bool = False) -> str:
    """The page for a terminal of `width` characters."""
    ink = Ink(colour)
    parts = [compared.title(found), *(sheet_text(sheet, width, ink) for sheet in compared.marked_sheets(found))]
    if stacks := compared.pair_stacks(found):
        parts.append(stacked_text("Differences in points", stacks, "", (), width).rstrip())
    parts.append("\n".join(_wins(found, width)))
    for lines in (compared.matrix_lines(found), compared.notes(found, "Bold" if colour else "*")):
        parts.append("\n".join(row for line in lines for row in _filled(line, width)))
    return "\n\n".join(parts) + "\n"


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)


def _wins(found: Comparison, width: int) -> Iterator[str]:
    """The matrix of wins, in as many panels as the terminal needs; column headings are the rows' numbers."""
    rows = compared.win_rows(found)
    names = [f"{i} {label}" for i, label in enumerate(found.labels, 1)]
    first = min(max(map(len, names)), max(16, width // 3))
    cell = max(len(text) for row in rows for text in row) + 2
    fit = max(1, (width - first) // cell)
    yield f"{WINS}, in columns of the table"
    for start in range(0, len(rows), fit):
        shown = range(start, min(start + fit, len(rows)))
        yield " " * first + "".join(str(j + 1).rjust(cell) for j in shown)
        for name, row in zip(names, rows, strict=True):
            yield name[:first].ljust(first) + "".join(row[j].rjust(cell) for j in shown)


def compare_markdown(found: Comparison, pictures: Sequence[str] = ()) -> str:
    """The page as Markdown; `pictures` are the file names of plots in the same folder."""
    out = [f"# {escaped(compared.title(found))}", ""]
    for sheet in compared.marked_sheets(found):
        heads = ["Detector", *(escaped(group.title) for group in sheet.sets)]
        rows = (
            [code(label), *(entry_text(group.columns[0].entries[i]) for group in sheet.sets)]
            for i, label in enumerate(sheet.labels)
        )
        out += [f"## {escaped(sheet.title)}", "", *table_lines(heads, 1, rows), ""]
    for stack in compared.pair_stacks(found):
        heads = ["OOD set", "Pair", *(head.capitalize() for head in stack.heads)]
        lines = ([escaped(i.cell), code(i.title), *i.numbers] for i in stack.items)
        out += [f"## Differences in points, ID set {escaped(stack.id_set)}", "", *table_lines(heads, 2, lines), ""]
    wins = ([code(label), *row] for label, row in zip(found.labels, compared.win_rows(found), strict=True))
    out += [f"## {WINS}", "", *table_lines(["", *map(code, found.labels)], 1, wins), ""]
    out += ["## Over the matrix", "", *(f"- {escaped(line)}" for line in compared.matrix_lines(found)), ""]
    out += [line for name in pictures for line in (f"![{Path(name).stem.replace('_', ' ')}]({name})", "")]
    return (
        "\n".join([*out, "## How to read this", "", *(f"- {escaped(n)}" for n in compared.notes(found, "Bold"))]) + "\n"
    )


def compare_csv(found: Comparison) -> str:
    """One row per pair, of every column and over the matrix; fractions. `outcome` is win, tie or loss of `a`."""
    rows = [row for column in found.columns for row in _column_rows(found, column)]
    return _csv(PAIR_COLUMNS, [*rows, *_matrix_rows(found)])


def _column_rows(found: Comparison, column: ColumnComparison) -> Iterator[Sequence[object]]:
    estimate, values = column.estimate, found.shown(column.estimate.values)
    for i, j in combinations(range(len(column.labels)), 2):
        a, b = column.labels[i], column.labels[j]
        yield (
            "column", column.id_set, column.ood_set, found.metric, a, b, _six(values[i]), _six(values[j]),
            _six(values[i] - values[j]), _six(estimate.error[i, j]),
            f"{estimate.p[i, j]:.6g}", f"{estimate.holm[i, j]:.6g}",
            _outcome(column.outcome(a, b)), "seeds and images" if estimate.by_seeds[i, j] else "images",
            column.n_id, column.n_ood, " ".join(map(str, column.seeds)), "",
        )  # fmt: skip


def _matrix_rows(found: Comparison) -> Iterator[Sequence[object]]:
    if found.matrix is None:
        return
    tests, labels = found.matrix.tests, found.matrix.labels
    for i, j in combinations(range(len(labels)), 2):
        lead = int(tests.ranks[i] < tests.ranks[j]) - int(tests.ranks[i] > tests.ranks[j])
        yield (
            "matrix", "", "", found.metric, labels[i], labels[j], "", "", "", "", f"{tests.wilcoxon[i, j]:.6g}",
            f"{tests.holm[i, j]:.6g}", _outcome(lead if tests.holm[i, j] < compared.ALPHA else 0), "sets", "", "", "",
            f"{tests.conover_holm[i, j]:.6g}" if len(labels) > 2 else "",
        )  # fmt: skip


def _outcome(sign: int | None) -> str:
    return {1: "win", 0: "tie", -1: "loss"}[sign or 0]


def _six(value: float) -> str:
    return f"{value:.6f}"


def best_csv(found: Comparison) -> str:
    """One row per detector and column: its value, whether it is the best of the column, and whether it may be."""
    rows = []
    for column in found.columns:
        for label, value in zip(column.labels, found.shown(column.estimate.values), strict=True):
            flags = (str(flag).lower() for flag in (label == column.best, label in column.best_set))
            rows.append((column.id_set, column.ood_set, found.metric, label, _six(value), *flags))
    return _csv(("id_set", "ood_set", "metric", "detector", "value", "best", "may_be_best"), rows)


def wins_csv(found: Comparison) -> str:
    """One row per ordered pair: the numbers of columns in which the first wins, ties and loses."""
    pairs = ((a, b) for a in found.labels for b in found.labels if a != b)
    return _csv(("detector", "against", "wins", "ties", "losses"), [(a, b, *found.counts(a, b)) for a, b in pairs])


def _csv(heads: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return out.getvalue()


def _plots(found: Comparison, folder: Path) -> list[Path]:
    if (there := drawn_already(found, folder)) is not None:
        return there
    from oodbench.benchmark.views.comparison import plots

    files = plots.draw(found, folder)
    note_drawn(found, folder, files)
    return files


def write_comparison(found: Comparison, folder: Path, home: Path, again: str) -> list[Path]:
    """Write the page, the numbers and the plots into `folder`; delete plots of an earlier comparison.

    If plots cannot be made, the traceback is in the logs of `home`, and a warning names the command `again`.
    """
    drawn = make_alone("plots of the comparison", lambda: _plots(found, folder), home, again) or []
    if not drawn:
        (folder / DRAWN).unlink(missing_ok=True)
    for name in compared.PLOTS:
        for stale in {folder / f"{name}{kind}" for kind in (".png", ".svg")} - set(drawn):
            stale.unlink(missing_ok=True)
    pictures = [path.name for path in drawn if path.suffix == ".png"]
    contents = {
        "compare.md": compare_markdown(found, pictures),
        "compare.csv": compare_csv(found),
        "best.csv": best_csv(found),
        "wins.csv": wins_csv(found),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [*(folder / name for name in contents), *drawn]
