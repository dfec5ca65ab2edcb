"""Reads published numbers from CSV files, such as those in `papers/reference`: in percent, as printed, with sources.

There is one row per number. `id_set`, `detector`, `recipe` and each name in `ood_set` may list alternatives
(`msp|confidence`: both score as the paper did). `ood_set` is one set, or with a `group` all sets of that mean. `seen`
says whether the OOD set's distribution was trained on. `rules` names the metric rules if they are not the exact ones.
What a source does not say is left empty. `mark` is 'verified' (read in the source) or 'recalled' (not checked).
"""

from __future__ import annotations

import csv
import dataclasses
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.metrics.names import FULL_SPECTRUM, METRICS
from oodbench.benchmark.store.safe_read import read_bounded
from oodbench.benchmark.store.user_path import user_path

ID_ACCURACY = "id_accuracy"

SHIFTED_TOO = tuple(f"fs_{name}" for name in FULL_SPECTRUM)
"""Metrics with shifted ID sets as ID: the full-spectrum values of the extended metrics."""

VERIFIED, RECALLED = "verified", "recalled"

MAX_REFERENCE = 1 << 24
"""Maximum size of a reference file in bytes."""

NUMBER = re.compile(r"\d{1,3}(\.\d{1,4})?")


@dataclasses.dataclass(frozen=True)
class Published:
    """One published number and the protocol behind it."""

    paper: str
    id_set: str
    ood_set: str
    """The set; all sets of the group's mean, separated by spaces; empty for `id_accuracy`."""
    ood_family: str
    """The distribution that the set samples, as in the cards of data sets; a set of that family may be matched."""
    group: str
    """'near' or 'far' for a mean over sets, otherwise empty."""
    seen: bool | None
    detector: str
    recipe: str
    backbone: str
    suite: str
    """The suite of this package with the same protocol."""
    epochs: int | None
    n_train: int | None
    n_id: int | None
    n_ood: int | None
    rules: str
    metric: str
    value: str
    """Percent, as printed."""
    std: str
    source: str
    mark: str
    note: str

    @property
    def percent(self) -> float:
        """The value as a number."""
        return float(self.value)

    @property
    def decimals(self) -> int:
        """Number of decimals, as printed."""
        return len(self.value.partition(".")[2])

    @property
    def sets(self) -> tuple[str, ...]:
        """The OOD sets, one or all of a group; alternatives are still joined by '|'."""
        return tuple(self.ood_set.split())


class Reference(NamedTuple):
    """A file of published numbers."""

    name: str
    title: str
    values: tuple[Published, ...]

    @property
    def suite(self) -> str:
        """The suite of this package with the same protocol; empty if there is none."""
        return self.values[0].suite

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that numbers are given for, alternatives still joined by '|'."""
        return tuple(dict.fromkeys(value.backbone for value in self.values if value.backbone))


COLUMNS = tuple(field.name for field in dataclasses.fields(Published))


def alternatives(text: str) -> frozenset[str]:
    """'msp|confidence' -> both names."""
    return frozenset(text.split("|"))


def first_of(text: str) -> str:
    """The first of alternatives, for a message."""
    return text.partition("|")[0]


def references() -> dict[str, str]:
    """Name -> title of the references that ship with the package."""
    return {name: read_reference(name).title for name in sorted(_files())}


def read_reference(name: str) -> Reference:
    """Read a reference by name, by the suite that follows its protocol, or from a path that ends in .csv.

    Raises `UserError`, which names the line and the problem.
    """
    if name.endswith(".csv"):
        try:
            return _parsed(Path(name).stem, read_bounded(user_path(name), MAX_REFERENCE), name)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"The reference file '{name}' cannot be read: {reason}.") from error
    files = _files()
    if name not in files:
        same = [known for known, file in files.items() if _parsed(known, file.read_bytes(), known).suite == name]
        if not same:
            raise unknown("reference", name, files, "bench list references")
        name = min(same, key=len)  # of a board and its variants, such as that of the full spectrum, the board
    return _parsed(name, files[name].read_bytes(), f"{name}.csv")


def _files() -> dict[str, Any]:
    folder = resources.files(__package__) / "reference"
    return {file.name.removesuffix(".csv"): file for file in folder.iterdir() if file.name.endswith(".csv")}


def _parsed(name: str, data: bytes, file: str) -> Reference:
    try:
        lines = csv.DictReader(data.decode("utf-8-sig").splitlines(), strict=True)
        if lines.fieldnames is None or tuple(lines.fieldnames) != COLUMNS:
            raise UserError(f"Reference '{file}': the first line must list the columns {','.join(COLUMNS)}.")
        values = tuple(_Row(file, lines.line_num, row).published() for row in lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Reference '{file}' is not a CSV file in UTF-8: {error}.") from error
    if not values:
        raise UserError(f"Reference '{file}' has no numbers; expected one per line below the columns.")
    return Reference(name, values[0].paper, values)


class _Row:
    """One line, checked field by field."""

    def __init__(self, file: str, line: int, row: dict[str, Any]) -> None:
        self.file, self.line, self.row = file, line, row

    def published(self) -> Published:
        if None in self.row or None in self.row.values():
            raise self.error(f"it must have {len(COLUMNS)} fields, one per column")
        for name in ("paper", "id_set", "detector", "source"):
            if not self.row[name]:
                raise self.error(f"{name} must not be empty")
        self.choice("metric", (ID_ACCURACY, *METRICS, *SHIFTED_TOO))
        self.choice("mark", (VERIFIED, RECALLED))
        self.choice("group", ("near", "far", ""))
        self.choice("seen", ("true", "false", ""))
        if bool(self.row["ood_set"]) == (self.row["metric"] == ID_ACCURACY):
            raise self.error("ood_set must be empty for id_accuracy and name a set for every other metric")
        numbers = {name: self.whole(name) for name in ("epochs", "n_train", "n_id", "n_ood")}
        self.percentage("value")
        if self.row["std"]:
            self.percentage("std")
        seen = {"true": True, "false": False}.get(self.row["seen"])
        return Published(**{**self.row, **numbers, "seen": seen})

    def choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if self.row[name] not in allowed:
            known = ", ".join(value or "nothing" for value in allowed)
            raise self.error(f"{name} is '{self.row[name]}'; it must be one of {known}")

    def whole(self, name: str) -> int | None:
        text = self.row[name]
        if text and not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise self.error(f"{name} is '{text}'; it must be a whole number or empty")
        return int(text) if text else None

    def percentage(self, name: str) -> None:
        text = self.row[name]
        if not NUMBER.fullmatch(text) or float(text) > 100:
            raise self.error(f"{name} is '{text}'; it must be a number from 0 to 100, in percent as printed")

    def error(self, problem: str) -> UserError:
        return UserError(f"Reference '{self.file}', line {self.line}: {problem}.")
