"""Declares the JSON files that are read back, and validates parsed JSON against such declarations.

Only the fields that are used are declared; files may have others.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
from typing_extensions import NotRequired

from oodbench.benchmark.errors import UserError

Number = Annotated[float, msgspec.Meta(gt=-1e100, lt=1e100)]
"""A float whose square is finite, and so are sums of such squares."""

Count = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
"""An integer that fits into 64 bits."""

Ends = Annotated[Sequence[Number], msgspec.Meta(min_length=2, max_length=2)]
"""The two ends of an interval."""

T = TypeVar("T")


class SuiteInfo(TypedDict, total=False):
    """The suite of a run."""

    name: str
    title: str


@dataclass(frozen=True)
class ClassAuroc:
    """The AUROC of one class's images against all images of the other set, with its 95% interval."""

    name: str
    images: Count
    auroc: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class ByClass:
    """The AUROCs of a cell by class; empty where labels are not known, or a set has images of one class only."""

    id: tuple[ClassAuroc, ...] = ()
    """Each ID class against the whole OOD set, by label; classes without images are left out."""
    ood: tuple[ClassAuroc, ...] = ()
    """Each OOD class against the whole ID set."""
    pairs: tuple[tuple[Number, ...], ...] = ()
    """(ID classes, OOD classes): the AUROC of one class against one, in the order of `id` and `ood`; empty unless both
    are known, and for more than `stats.by_class.MOST_PAIRS`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a matrix of other classes."""
        if self.pairs and [len(row) for row in self.pairs] != [len(self.ood)] * len(self.id):
            raise ValueError(f"expected {len(self.id)} rows of {len(self.ood)} pairs of classes")

    def __bool__(self) -> bool:
        return bool(self.id or self.ood)


class ScoredSet(TypedDict, total=False):
    """Images that cells score, of one set."""

    part: str
    images: Count
    """Their number."""
    checksum: str
    groups: str
    """Checksum of the groups of dependent images; empty without groups."""


class Origin(TypedDict, total=False):
    """What made a cell apart from its seed; `runner/origin.py` says what each digest covers."""

    file: str
    row: str
    cell: str
    asked: Mapping[str, str]
    facts: Mapping[str, str | int | float | bool | None]
    tuned_on: str
    files: list[str]
    """SHA-256 of the files of weights of all seeds, if each has its own."""
    images: Mapping[str, ScoredSet]
    """'id' and 'ood' -> the scored images."""
    shown: Mapping[str, str]
    """Names that are not part of what made the cell: the suite, the file of weights."""
    names: Mapping[str, str]
    """The record's own `label`, `id_set` and `ood_set`, where a table has others; never stored."""


class PairNames(TypedDict):
    """Fields that every pair has."""

    id_set: str
    ood_set: str


class PairInfo(PairNames, total=False):
    """An ID set with an OOD set."""

    group: str
    outlier_source: bool
    trivial: Mapping[str, Any] | None
    one_class: Mapping[str, Any] | None
    id_groups: Count | None
    ood_groups: Count | None
    id_family: str
    ood_family: str
    scored: Mapping[str, ScoredSet]
    content: Mapping[str, str]


class Skipped(TypedDict):
    """Something that the plan left out."""

    what: str


class Unavailable(TypedDict):
    """A plug-in that could not be loaded."""

    name: str


class PartInfo(TypedDict, total=False):
    """One of the commands that made a run."""

    line: str
    options: Mapping[str, Any]
    cells: list[str]


class RowCosts(TypedDict, total=False):
    """What a row of the tables costs."""

    kind: str
    """'posthoc' or 'trained'."""
    passes: list[Count] | None
    """Fewest and most network passes per image beyond the shared one; None if unknown."""
    networks: Count | None
    """Networks trained; None if unknown, or none is trained."""


class RunInfo(TypedDict, total=False):
    """`run.json`."""

    name: str
    suite: SuiteInfo | None
    cells: list[str]
    pairs: list[PairInfo]
    seeds: list[int]
    detectors: list[str]
    notes: list[str]
    skipped: list[Skipped]
    unavailable: list[Unavailable]
    packages: Mapping[str, Any]
    commit: Mapping[str, Any] | None
    parts: list[PartInfo]
    described: Mapping[str, Mapping[str, Mapping[str, str]]]
    """Kind of plug-in -> name -> `display_name`, `title`, `paper` and, with commas, the keys of `cite`."""
    references: Mapping[str, str]
    """Key -> BibTeX entry."""
    costs: Mapping[str, RowCosts]
    """Label -> what its row costs."""


class About(TypedDict, total=False):
    """How an artifact was made."""

    seconds: Number


class DecodedFrom(TypedDict):
    """The files that a decoded split was made from."""

    names: list[str]


class SideFile(TypedDict, total=False):
    """The side file of an artifact, or of a decoded split."""

    key: Mapping[str, Any] | str
    digest: str
    sha256: str | Mapping[str, str]
    about: About
    made_from: DecodedFrom


class DecodedSide(TypedDict):
    """The side file of a decoded split."""

    key: str
    images: Count
    checksum: str
    sha256: Mapping[str, str]
    bad: list[str]
    modes: Mapping[str, Count]
    left_out: NotRequired[list[tuple[str, str]]]
    remarks: NotRequired[Mapping[str, Count]]


def convert(value: Any, expected: type[T]) -> T:
    """Parsed JSON as a dataclass or TypedDict, without undeclared fields.

    Raises `ValueError` that says which field does not fit, its value and the expected type.
    """
    try:
        return msgspec.convert(value, expected, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(_describe(value, str(error))) from None


def versioned(document: object, newest: int, path: Path, *, unstated: str, instead: str = "") -> dict[str, Any]:
    """The object in a file that states the version of its format under 'schema'.

    Args:
        document: The parsed JSON.
        newest: The newest version that can be read.
        path: The file, for messages.
        unstated: What is wrong with a file that states no version, and what to do, after the path.
        instead: What can be done about a newer version other than an upgrade, as a phrase.

    Raises:
        UserError: It is no object, states no version, or one newer than `newest`.
    """
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise UserError(f"'{path}' {unstated}")
    if document["schema"] > newest:
        advice = f"Upgrade oodbench, or {instead}." if instead else "Upgrade oodbench."
        raise UserError(
            f"'{path}' has schema {document['schema']}, newer than {newest}, the newest this oodbench reads. {advice}"
        )
    return document


def _describe(value: Any, message: str) -> str:
    """Rephrase msgspec's message, such as "Expected `int`, got `str` - at `$.pairs[0].seed`", and add the value."""
    problem, _, path = message.partition(" - at ")
    problem = problem[0].lower() + problem[1:]
    field = path.strip("`").removeprefix("$").partition("[...]")[0]  # msgspec does not name keys of mappings
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", field):
        value = value[name] if name else value[int(index)]
    return f"'{field.lstrip('.')}' is {reprlib.repr(value)}: {problem}" if field else problem
