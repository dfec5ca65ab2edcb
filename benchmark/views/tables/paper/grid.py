"""A table for a paper as every format writes it: rows, columns, cells, a caption and notes.

Texts are plain, without any markup: each format escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Head:
    """What stands at the beginning of a row, or at the top of a column."""

    title: str
    group: str = ""
    """The heading that it shares with its neighbours of the same group; empty without one."""
    convention: str = ""
    """For an FPR95: which class is positive."""
    arrow: str = ""
    """An arrow up or down, in the direction that is better; empty for what is no metric."""
    group_convention: str = ""
    group_arrow: str = ""
    """The same for the group's heading, where that names the metric."""
    cite: tuple[str, ...] = ()
    """Keys of the publications."""
    label: str = ""
    """A row's label on the command line; empty for columns."""

    @property
    def text(self) -> str:
        """Title, convention and arrow in one text."""
        return joined(self.title, self.convention, self.arrow)

    @property
    def group_text(self) -> str:
        """The same for the group."""
        return joined(self.group, self.group_convention, self.group_arrow)

    @property
    def path(self) -> str:
        """Group and title in one text, for formats that have one line of headings."""
        return " ".join(filter(None, (self.group_text, self.text)))


def joined(title: str, convention: str, arrow: str) -> str:
    """A heading as text: `FPR95 (ID+) ↓`."""
    return title + f" ({convention})" * bool(convention) + f" {arrow}" * bool(arrow)


@dataclass(frozen=True)
class Cell:
    """One number as printed, or a text in its place."""

    mean: str = ""
    std: str = ""
    bold: bool = False
    underline: bool = False
    marks: str = ""
    value: float | None = None
    """The number as printed, unrounded: percent, or nats; None where there is none."""
    spread: float | None = None
    """The deviation over seeds, likewise."""
    ends: tuple[float, float] | None = None
    """The 95% interval over draws of test images, likewise."""
    is_text: bool = False
    """Whether it is a word, such as what a row was given."""


@dataclass(frozen=True)
class PaperTable:
    """One table."""

    name: str
    """Of the table among those of its style, and of what it is about: for labels."""
    caption: str
    """What it is about, the definitions of its metrics, and what bold and underlined mean."""
    corner: str
    """The heading of the first column."""
    rows: tuple[Head, ...]
    columns: tuple[Head, ...]
    cells: tuple[tuple[Cell, ...], ...]
    """One tuple per row."""
    notes: tuple[str, ...] = ()

    def transposed(self) -> PaperTable:
        """Rows as columns and columns as rows."""
        cells = tuple(zip(*self.cells, strict=True)) if self.cells else ()
        return replace(self, corner="", rows=self.columns, columns=self.rows, cells=cells)

    def with_columns(self, places: Sequence[int]) -> PaperTable:
        """Some of the columns."""
        cells = tuple(tuple(row[i] for i in places) for row in self.cells)
        return replace(self, columns=tuple(self.columns[i] for i in places), cells=cells)

    def with_rows(self, places: Sequence[int]) -> PaperTable:
        """Some of the rows."""
        cells = tuple(self.cells[i] for i in places)
        return replace(self, rows=tuple(self.rows[i] for i in places), cells=cells)


def runs_of(heads: Sequence[Head]) -> Iterator[tuple[Head, int]]:
    """Consecutive heads of one group: the first of them, and their number."""
    place = 0
    while place < len(heads):
        size = 1
        while place + size < len(heads) and same_group(heads[place], heads[place + size]):
            size += 1
        yield heads[place], size
        place += size


def same_group(one: Head, other: Head) -> bool:
    """Whether two neighbours stand under one heading; those without a group stand alone."""
    return bool(one.group) and one.group_text == other.group_text


def panels(table: PaperTable, room: float, width: Callable[[int], float]) -> list[PaperTable]:
    """The table in pieces whose columns fit into `room` beside the row's names, groups undivided where they fit.

    `width` gives the width of a column by its place. A column that is wider than the room is a piece of its own. The
    pieces are about equally wide.
    """
    widths = [width(i) for i in range(len(table.columns))]
    pieces = _divided(table.columns, room, widths)
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        even = _divided(table.columns, share * room, widths)
        if len(even) == len(pieces):
            return [table.with_columns(piece) for piece in even]
    return [table.with_columns(piece) for piece in pieces]


def _divided(columns: Sequence[Head], room: float, widths: Sequence[float]) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    used, place = 0.0, 0
    for _, size in runs_of(columns):
        group = range(place, place + size)
        place += size
        if pieces[-1] and used + sum(widths[i] for i in group) > room:
            pieces.append([])
            used = 0.0
        for i in group:  # a group that is wider than the room is divided
            if pieces[-1] and used + widths[i] > room:
                pieces.append([])
                used = 0.0
            pieces[-1].append(i)
            used += widths[i]
    return pieces


HEADING = 2
"""Lines of a group's heading, with the rule above it."""


def sheets(table: PaperTable, most: int, height: Callable[[int], int]) -> list[PaperTable]:
    """The table in pieces of at most `most` lines; `height`: lines of a row by its place.

    A group that fits into a piece is not divided; the heading of one that does not is repeated.
    """
    pieces: list[list[int]] = [[]]
    used, place = 0, 0
    for head, size in runs_of(table.rows):
        group = range(place, place + size)
        place += size
        heading = HEADING if head.group else 0
        whole = heading + sum(map(height, group))
        if pieces[-1] and used + whole > most and whole <= most:
            pieces.append([])
            used = 0
        used += heading
        for i in group:
            if pieces[-1] and used + height(i) > most:
                pieces.append([])
                used = heading
            pieces[-1].append(i)
            used += height(i)
    return [table.with_rows(piece) for piece in pieces]
