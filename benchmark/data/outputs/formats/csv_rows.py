"""Reads a CSV file with a header in blocks of rows, fast and in bounded memory, and names the line of what is wrong."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError, first_line

BLOCK = 1 << 11
"""Rows that are read at a time. Python's collector of garbage looks at all lists of a block again and again."""

MAX_LINE = 1 << 20
"""Bytes within which a line must end."""

MAX_COLUMNS = 10_000

DELIMITERS = (",", ";", "\t")

COMMENT = "#"

COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")
"""A number with a decimal comma."""


class Start(NamedTuple):
    """What a file begins with."""

    comments: tuple[str, ...]
    """The lines before the header that begin with '#', without it."""
    columns: tuple[str, ...]
    delimiter: str


class CsvFile:
    """A CSV file in UTF-8, with or without byte-order mark; commas, semicolons or tabs separate its columns.

    Lines before the header that begin with '#' are comments. Errors are `UserError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._check_lines()
        with self._opened() as file:
            self.start = self._read_start(file)

    def blocks(self) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
        """The number of rows before, and the next rows as columns of cells."""
        before, width = 0, len(self.start.columns)
        with self._opened() as file:
            for _ in self.start.comments:
                file.readline()
            rows = csv.reader(file, delimiter=self.start.delimiter)
            next(rows)
            while block := self._next(rows, before):
                filled = [row for row in block if row]  # others are blank lines
                for place, row in enumerate(filled if set(map(len, filled)) - {width} else ()):
                    if len(row) != width:
                        raise self._of_other_width(before + place, row)
                if filled:
                    yield before, list(zip(*filled, strict=True))
                before += len(filled)

    def numbers(self, cells: Sequence[str], before: int, column: str) -> NDArray[np.float64]:
        """The cells as finite numbers, float64; an error names the line. Empty cells are refused too."""
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            values = np.array([_number(cell) for cell in cells])
        if np.isfinite(values).all():
            return values
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        cell = cells[place]
        if COMMA.fullmatch(cell):
            raise self.error(before + place, f"{column} is '{cell}', with a decimal comma; write a decimal point")
        raise self.error(before + place, f"{column} is '{cell[:80]}'; expected a finite number")

    def error(self, row: int, problem: str) -> UserError:
        """An error about a row, counted from 0 without the header and blank lines, that names its line."""
        return UserError(f"'{self.path}', line {self._line(row)}: {problem.rstrip('.')}.")

    def _line(self, row: int) -> int:
        """The line on which a row ends."""
        with self._opened() as file:
            rows = csv.reader(file, delimiter=self.start.delimiter)
            for _ in self.start.comments:
                file.readline()
            filled = (rows.line_num for cells in rows if cells)
            return len(self.start.comments) + next(islice(filled, row + 1, None))

    def _read_start(self, file: TextIOWrapper) -> Start:
        comments: list[str] = []
        try:
            while (line := file.readline()).startswith(COMMENT):
                comments.append(line.removeprefix(COMMENT).strip())
            if "\0" in line:
                raise UserError(f"'{self.path}' is not a CSV file: its header is not text.")
            delimiter = max(DELIMITERS, key=line.count)
            columns = next(csv.reader([line], delimiter=delimiter), [])
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(error) from error
        names = tuple(column.strip() for column in columns)
        if not any(names):
            raise UserError(
                f"'{self.path}' is empty or begins with a blank line; expected a header with names of columns."
            )
        for place, name in enumerate(names):
            if not name:
                raise UserError(
                    f"'{self.path}': column {place + 1} of {len(names)} has no name in the header. Name it."
                )
            if name in names[:place]:
                raise UserError(f"'{self.path}' has two columns '{name}'. Rename or remove one of them.")
        if len(names) > MAX_COLUMNS:
            raise UserError(f"'{self.path}' has {len(names):,} columns; at most {MAX_COLUMNS:,} are read.")
        return Start(tuple(comments), names, delimiter)

    def _check_lines(self) -> None:
        """Raise `UserError` for a line that is so long that it would fill the memory, as in a file that is not CSV."""
        with self._opened() as text:
            binary: Any = text.buffer
            while block := binary.read(MAX_LINE):
                if len(block) == MAX_LINE and b"\n" not in block and b"\r" not in block:
                    raise UserError(f"'{self.path}' is not a CSV file: it has a line of over {MAX_LINE:,} bytes.")

    def _opened(self) -> TextIOWrapper:
        try:
            if not self.path.is_file():
                raise FileNotFoundError(2, "it is a folder" if self.path.is_dir() else "it does not exist")
            return TextIOWrapper(self.path.open("rb"), encoding="utf-8-sig", newline="")
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _next(self, rows: Iterator[list[str]], before: int) -> list[list[str]]:
        try:
            return list(islice(rows, BLOCK))
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(error, f" after row {before:,}" if before else "") from error

    def _unreadable(self, error: Exception, where: str = "") -> UserError:
        if isinstance(error, UnicodeError):
            return UserError(f"'{self.path}' is not text in UTF-8{where}. Save it as CSV in UTF-8.")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        return UserError(f"'{self.path}' cannot be read as CSV{where}: {reason.rstrip('.')}.")

    def _of_other_width(self, row: int, cells: Sequence[str]) -> UserError:
        width = len(self.start.columns)
        hint = f"the header has {width}: {', '.join(self.start.columns[:10])}"
        if len(cells) > width and self.start.delimiter == ",":
            hint += ". If numbers have decimal commas, write decimal points; put texts with commas in quotes"
        return self.error(row, f"{len(cells)} cells, but {hint}")


class Numbered(dict[Any, int]):
    """Gives each new key the next number, from 0 on."""

    def __missing__(self, key: Any) -> int:
        self[key] = number = len(self)
        return number

    def numbers(self, keys: Iterable[Any], count: int) -> NDArray[np.int64]:
        """The numbers of `count` keys."""
        return np.fromiter(map(self.__getitem__, keys), np.int64, count)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
