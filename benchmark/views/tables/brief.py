"""The short table at the end of `bench run`: the best rows of each ID set, and where the rest is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.choice import best, sorted_rows
from oodbench.benchmark.views.marks import warning_lines
from oodbench.benchmark.views.summary import EVERY, Block, Summary, summary_of
from oodbench.benchmark.views.tables.layout import Group, Sheet, TableColumn, legend, seeds_line, sheets
from oodbench.benchmark.views.tables.text import Ink, filled, run_title, sheet_text, text_table
from oodbench.benchmark.views.warnings import UNFIT

WHOLE_ROWS = 8
"""A run with more rows than this on an ID set ends with the short table."""

WHOLE_LINES = 100
"""So does one whose whole table has more lines than this in the terminal's width, or is wider than that."""

BEST, BEST_ALONE = 5, 10
"""Rows of each ID set that the short table shows, and of a single ID set."""

UNBOUNDED = 10_000
"""A width in which every table fits."""

COUNTED = {"Warning": "warning", "Note": "note", "Skipped": "", "Unavailable": ""}
"""How paragraphs of the legend begin that the short table only counts -> the noun for them, if there is one."""


def closing_text(run: StoredRun, width: int, colour: bool = False) -> str:
    """What `bench run` ends with in a terminal of `width` characters: the whole table if it is small, else a short one.

    The short one has the best rows of each ID set by mean AUROC over near OOD sets, and counts what it leaves out.
    """
    summary = summary_of(run)
    many = max((len(block.rows) for block in summary.blocks), default=0) > WHOLE_ROWS
    whole = "" if many else text_table(run, width, colour)
    if not summary.blocks or (whole and _fits(whole, width)):
        return whole
    count = BEST_ALONE if len(summary.blocks) == 1 else BEST
    parts = ["\n".join(filled(title, width))] if (title := run_title(run)) else []
    parts += [_sheet_text(sheet, best_rows(sheet.block, count), width, Ink(colour)) for sheet in sheets(summary)]
    parts.append(
        "\n".join(line for item in _below(run, summary, colour) for line in filled(item, width, break_words=False))
    )
    return "\n\n".join(parts) + "\n"


def _fits(table: str, width: int) -> bool:
    lines = click.unstyle(table).splitlines()
    return len(lines) <= WHOLE_LINES and max(map(len, lines)) <= width


def best_rows(block: Block, count: int) -> list[int]:
    """Numbers of the best rows by mean AUROC over the first group of OOD sets that the ID set has, best first.

    If no set but the outlier source is there, by the AUROC on it. Where no row has that number, the first of the plan.
    """
    scope = block.sets[0].name if _is_all_seen(block) else (*block.groups, EVERY)[0]
    by = f"{scope}:auroc"
    rows = best(block, count, by) or sorted_rows(block, by)[:count]
    return [block.rows.index(row) for row in rows]


def _is_all_seen(block: Block) -> bool:
    """Whether the outlier source, which is in no mean, is the only OOD set."""
    return bool(block.sets) and all(ood.source for ood in block.sets)


def _sheet_text(sheet: Sheet, rows: Sequence[int], width: int, ink: Ink) -> str:
    """Some rows of an ID set, with as many of the columns as fit: accuracy, means, the worst set with its name.

    Where the outlier source is the only OOD set, and there are no means, it is shown itself.
    """
    labels, hidden = tuple(sheet.labels[row] for row in rows), len(sheet.block.rows) - len(rows)
    whole, accuracy = _only(sheet.overall, rows), _only(sheet.accuracy, rows)
    unnamed = _with(whole, lambda c: replace(c, entries=tuple(replace(e, note="") for e in c.entries)))
    means = [replace(c, title=c.title.removesuffix(" mean")) for c in unnamed.columns if c.title.endswith(" mean")]
    narrow = replace(unnamed, title="mean AUROC", columns=tuple(means or unnamed.columns))
    none = replace(accuracy, columns=())
    sets = tuple(_only(group, rows) for group in sheet.sets) if _is_all_seen(sheet.block) else ()
    longest = max(map(len, ("detector", *labels)))
    text = ""
    for left, right in ((accuracy, whole), (accuracy, unnamed), (none, unnamed), (none, narrow)):
        part = replace(sheet, labels=labels, accuracy=left, sets=sets, overall=right, baselines=())
        text, one_panel = (sheet_text(part, w, ink, min(longest, max(16, width // 2))) for w in (width, UNBOUNDED))
        lines = click.unstyle(text).splitlines()
        if len(lines) == len(one_panel.splitlines()) and max(map(len, lines[1:])) <= width:
            break
    return text + (f"\nand {hidden} more row{'s' * (hidden != 1)}" if hidden else "")


def _with(group: Group, change: Callable[[TableColumn], TableColumn]) -> Group:
    return replace(group, columns=tuple(map(change, group.columns)))


def _only(group: Group, rows: Sequence[int]) -> Group:
    """Some rows of a group of columns."""
    chosen = _with(group, lambda column: replace(column, entries=tuple(column.entries[row] for row in rows)))
    return replace(chosen, spans=("",) * len(rows), more=(), below=())


def _below(run: StoredRun, summary: Summary, colour: bool) -> Iterator[str]:
    """What the numbers are, what is left out, and where that is."""
    best_mark, wrong = "Bold" if colour else "*", list(warning_lines(summary, [UNFIT]))
    yield from run.unfinished
    yield from wrong  # every number is
    yield (
        f"Percent, best rows first. {seeds_line(summary)} {best_mark}: best of its column among all rows. The files "
        "have all rows, every OOD set and five metrics."
    )
    kinds = Counter(line.partition(":")[0] for line in legend(run, summary, best_mark))
    kinds["Warning"] -= len(wrong)
    counts = [_counted(kinds[kind], noun or kind.lower(), bool(noun)) for kind, noun in COUNTED.items() if kinds[kind]]
    if counts:
        yield f"Not shown: {', '.join(counts)}. They are under the table in {run.path / 'table.md'}."
    name = _argument(run)
    yield f"The whole table: bench table {name}"
    yield f"To sort, filter and click: bench report {name}"


def _counted(count: int, noun: str, has_plural: bool) -> str:
    return f"{count} {noun}{'s' * (has_plural and count != 1)}"


def _argument(run: StoredRun) -> str:
    """The run as an argument of a command in this folder: its name if it is in `results`, else its path."""
    return shlex.quote(run.path.name if run.path.parent == Path("results", "runs") else str(run.path))
