"""The terminal's table: groups of columns side by side, stacked in panels where the terminal is narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.record import FAILED
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.labels import wrapped_label
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.layout import (
    Group,
    Sheet,
    TableColumn,
    TableEntry,
    legend,
    sheets,
    without_cells,
)

GAP = 3
"""Spaces between groups of columns, in addition to the one reserved for a mark in every column."""


@dataclass(frozen=True)
class Ink:
    """How marks are shown: with ANSI styles, or with characters only."""

    colour: bool

    def number(self, text: str, entry: TableEntry) -> str:
        """A number, bold where it is the best."""
        return click.style(text, bold=True) if self.colour and entry.bold else text

    def marks(self, entry: TableEntry) -> str:
        """The characters after a number."""
        return entry.marks + (" " if self.colour else "*") * entry.bold

    def span(self, text: str) -> str:
        """The text in place of a row's numbers."""
        if not self.colour or not text.strip():
            return text
        return click.style(text, fg="red") if text.strip().startswith(FAILED) else click.style(text, dim=True)

    def heading(self, text: str) -> str:
        """An ID set's heading."""
        return click.style(text, underline=True) if self.colour else text


@dataclass(frozen=True)
class Printed:
    """A group of columns as lines, all of the same visible width."""

    width: int
    head: tuple[str, str, str]
    """Heading, rule, and the columns' titles."""
    rows: tuple[str, ...]
    below: tuple[str, ...]


def text_table(run: StoredRun, width: int = 100, colour: bool = False) -> str:
    """The run's tables for a terminal of `width` characters, one block per ID set, and the legend."""
    summary, ink = summary_of(run), Ink(colour)
    if not summary.blocks:
        return "\n".join(line for item in without_cells(run) for line in filled(item, width)) + "\n"
    parts = [title] if (title := run_title(run)) else []
    parts += [sheet_text(sheet, width, ink) for sheet in sheets(summary)]
    best = "Bold" if colour else "*"
    parts.append("\n".join(line for item in legend(run, summary, best) for line in filled(item, width)))
    return "\n\n".join(parts) + "\n"


def run_title(run: StoredRun) -> str:
    """The run's name and its suite's title."""
    suite = run.info.get("suite") or {}
    texts = (run.info.get("name"), suite.get("title") or suite.get("name"))
    return " · ".join(visible(text) for text in texts if text)


def filled(text: str, width: int, break_words: bool = True) -> list[str]:
    """A paragraph in lines of at most `width` characters; without `break_words`, a path that is longer stays whole."""
    return textwrap.wrap(
        text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False, break_long_words=break_words
    ) or [""]


def sheet_text(sheet: Sheet, width: int, ink: Ink, label_width: int = 0) -> str:
    """One ID set's table, with the widest spacing that fits and in as few panels as possible.

    Labels are broken into lines of `label_width` characters, by default a third of the width.
    """
    labels = [_label(label, label_width or max(16, width // 3)) for label in sheet.labels]
    first = max(len("detector"), *(len(line) for lines in labels for line in lines))
    groups = [group for group in (sheet.accuracy, *sheet.sets, sheet.overall) if group.columns]
    for plus_minus in (" ± ", "±"):
        printed = [_printed(group, ink, plus_minus) for group in groups]
        if first + GAP + max(group.width for group in printed) <= width:
            break
    room = width - first
    panels = [_panel(labels, first, panel, len(sheet.baselines)) for panel in _merged(_panels(printed, room), room)]
    return "\n\n".join([ink.heading(sheet.title), *panels])


def _label(label: str, width: int) -> list[str]:
    lines = [label] if len(label) <= width else wrapped_label(label, width - 2)
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _panels(groups: Iterable[Printed], room: int) -> list[list[Printed]]:
    """Distribute the groups, left to right and undivided, over as few panels as possible."""
    panels: list[list[Printed]] = [[]]
    for group in groups:
        if panels[-1] and sum(GAP + other.width for other in panels[-1]) + GAP + group.width > room:
            panels.append([])
        panels[-1].append(group)
    return panels


def _merged(panels: list[list[Printed]], room: int) -> list[list[Printed]]:
    """Avoid a panel with only the accuracies: move them before the means if there is room."""
    first, last = panels[0], panels[-1]
    if len(panels) > 1 and len(first) == 1 and sum(GAP + group.width for group in (*first, *last)) <= room:
        return [*panels[1:-1], [*first, *last]]
    return panels


def _panel(labels: Sequence[Sequence[str]], first: int, groups: Sequence[Printed], baselines: int) -> str:
    lines = [_line(lead, [g.head[i] for g in groups], first) for i, lead in enumerate(("", "", "detector"))]
    detectors = len(labels) - baselines
    for i, label in enumerate(labels[:detectors]):
        lines += [_line(label[0], [group.rows[i] for group in groups], first), *label[1:]]
    shown = [i for i in range(baselines) if any(group.rows[detectors + i].strip() for group in groups)]
    if shown:
        lines.append("─" * (first + sum(GAP + group.width for group in groups)))
    for i in shown:
        label = labels[detectors + i]
        lines += [_line(label[0], [group.rows[detectors + i] for group in groups], first), *label[1:]]
        lines.append(_line("", [group.below[i] if group.below else " " * group.width for group in groups], first))
    return "\n".join(line for line in lines if line.strip())


def _line(label: str, parts: Iterable[str], first: int) -> str:
    return (" " * GAP).join([label.ljust(first), *parts]).rstrip()


def _printed(group: Group, ink: Ink, plus_minus: str) -> Printed:
    titles, *rows = zip(*(_column(column, ink, plus_minus) for column in group.columns), strict=True)
    title = " ".join(titles)
    width = max(len(title), len(group.title), *map(len, group.below), *map(len, group.spans))
    pad = " " * (width - len(title))
    texts = [
        ink.span(span.center(width)) if span else pad + " ".join(cells)
        for span, cells in zip(group.spans, rows, strict=True)
    ]
    head = (group.title.center(width), ("─" if group.title else " ") * width, pad + title)
    return Printed(width, head, tuple(texts), tuple(text.center(width) for text in group.below))


def _column(column: TableColumn, ink: Ink, plus_minus: str) -> list[str]:
    """Title and entries, padded to the same width, with means, deviations and marks aligned."""
    marks = [ink.marks(entry) for entry in column.entries]
    mean, std, mark, note = (
        max(map(len, texts))
        for texts in (
            [entry.mean for entry in column.entries],
            [plus_minus + entry.std for entry in column.entries if entry.std] or [""],
            [*marks, " "],
            [entry.note and f" {entry.note}" for entry in column.entries],
        )
    )
    number = max(mean + std, len(column.title))
    lines = [column.title.rjust(number) + " " * (mark + note)]
    for entry, signs in zip(column.entries, marks, strict=True):
        deviation = plus_minus + entry.std.rjust(std - len(plus_minus)) if entry.std else " " * std
        text = entry.mean.rjust(mean) + deviation
        shown = " " * (number - len(text.lstrip())) + ink.number(text.lstrip(), entry)
        lines.append(shown + signs.ljust(mark) + (entry.note and f" {entry.note}").ljust(note))
    return lines
