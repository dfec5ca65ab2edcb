"""Tells the rows and columns of a run's tables apart by what made them. No other place decides which cells are joined.

Views join records by their labels and the names of their sets. Here, records of one label that were not made alike get
labels of their own, such as `msp (epochs=2)`, and so do sets of one name with unlike images. After that, cells that are
equal in label, ID set and OOD set differ in the seed and in nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.row_labels import RUN, label_rows
from oodbench.benchmark.store.schema import ScoredSet
from oodbench.benchmark.store.store import digest

SHORT = 6
"""Characters of a checksum in the name of a set."""

SIDES = ("id", "ood")

NOWHERE = -1
"""Stands for the row of a record that is not shown, because another run has the same cell."""

TWICE = "its row has two cells of one seed"
"""Why a record does not belong into a row that has its cell already."""

LEARNT_FROM = ("train", "train on outliers", "fit")
"""Purposes of sets in the provenance of cells, which are the same in all cells of a row."""


def tell_apart(
    records: Sequence[Record], pairs: Sequence[Mapping[str, Any]], runs: Sequence[str] = ()
) -> tuple[list[Record], list[dict[str, Any]]]:
    """The records and pairs of a run, with labels and names of sets by which views may join them.

    What was not made alike gets other names, and only where its name would be the same. Labels name the backbone if the
    run has several. Sets of which arrays are given are called what the user calls them (`records.given_sets`).

    `runs` names the run of each record, if they are of several. Rows of unlike runs become one if they were made alike
    and have the same numbers in the cells that both have, which are then given once.
    """
    places = [_Place.of_record(record) for record in records]
    of_pairs = [_Place.of_pair(pair) for pair in pairs]
    for place in (*places, *of_pairs):
        place.names = {name: plain_name(text) for name, text in place.names.items()}
    for side in SIDES:
        _name_sets([*places, *of_pairs], side)
    in_sets = [with_names(record, place.names) for record, place in zip(records, places, strict=True)]
    rows, row_of = _rows_of_runs(in_sets, runs) if runs else _rows(in_sets)
    labels = label_rows([(row.first, row.facts) for row in rows], bool(runs))
    order = sorted(range(len(records)), key=lambda number: row_of[number]) if runs else range(len(records))
    labelled = [
        with_names(in_sets[number], {"label": labels[row_of[number]]}) for number in order if row_of[number] != NOWHERE
    ]
    return labelled, [{**pair, **place.names} for pair, place in zip(pairs, of_pairs, strict=True)]


def cell_of(record: Record) -> tuple[object, ...]:
    """What names a cell, whatever made it: sets, label, backbone and seed, as the command gave them."""
    return (*(own_name(record, name) for name in ("id_set", "ood_set", "label")), record.backbone, record.seed)


def own_name(record: Record, name: str) -> str:
    """The `label`, `id_set` or `ood_set` of a record, without what tells it apart from others in the run's tables."""
    return str(record.origin.get("names", {}).get(name, getattr(record, name)))


def own_set(record: Record, name: str) -> str:
    """The data set behind the ID or OOD set that the run's tables call `name`."""
    fields = [f"{side}_set" for side in SIDES]
    return next((own_name(record, of_side) for of_side in fields if getattr(record, of_side) == name), name)


def unlike(records: Iterable[Record]) -> Iterator[str]:
    """What tables of these records join by label and sets, though it was not made alike; one sentence per cell."""
    rows: dict[tuple[str, str], _Row] = {}
    for record in records:
        row = rows.setdefault((record.id_set, record.label), _Row(record))
        for problem in row.refuses(record):
            yield f"{record.id_set}/{record.ood_set}/{record.label}/{record.seed}: {problem}"
        row.take(record)


R = TypeVar("R", bound=Record)


def with_names(record: R, names: Mapping[str, str]) -> R:
    """The record with other names; its own ones are kept in its origin."""
    changed: dict[str, Any] = {name: text for name, text in names.items() if text != getattr(record, name)}
    if not changed:
        return record
    own = {**{name: getattr(record, name) for name in changed}, **record.origin.get("names", {})}
    return replace(record, **changed, origin={**record.origin, "names": own})


# Sets


@dataclass
class _Place:
    """The sets of a record or of a pair: their names in tables, and their images."""

    names: dict[str, str]
    """`id_set` and `ood_set`."""
    images: Mapping[str, ScoredSet]
    """'id' and 'ood' -> `part`, `images` (their number), `checksum`, `groups`; without those that are not recorded."""

    @classmethod
    def of_record(cls, record: Record) -> _Place:
        known = record.origin.get("images") or dict(older_images(record))
        return cls({"id_set": record.id_set, "ood_set": record.ood_set}, known)

    @classmethod
    def of_pair(cls, pair: Mapping[str, Any]) -> _Place:
        return cls({name: str(pair[name]) for name in ("id_set", "ood_set")}, pair.get("scored") or {})


def older_images(record: Record) -> Iterator[tuple[str, ScoredSet]]:
    """The scored images of a record of an older version, which has no origin, from its provenance."""
    for side in SIDES:
        for used in _used(record):
            if used.get("use") == "score" and used.get("set") == getattr(record, f"{side}_set"):
                part, checksum, groups = (str(used.get(name, "")) for name in ("part", "sha256", "groups"))
                yield side, {"part": part, "images": used.get("images", 0), "checksum": checksum, "groups": groups}
                break


def _used(record: Record) -> list[Mapping[str, Any]]:
    """The sets in a record's provenance, each with its purpose."""
    data = record.provenance.get("data")
    return [used for used in data if isinstance(used, dict)] if isinstance(data, list) else []


def _name_sets(places: Iterable[_Place], side: str) -> None:
    """Give unlike images of one name other names: as ID sets over the whole run, as OOD sets within an ID set.

    Images that are not recorded count as the first that are.
    """
    alike: dict[tuple[str, ...], list[_Place]] = {}
    for place in places:
        where = tuple(place.names[f"{one}_set"] for one in SIDES[: SIDES.index(side) + 1])
        alike.setdefault(where, []).append(place)
    for members in alike.values():
        kinds = {digest(dict(known)): known for place in members if (known := place.images.get(side))}
        if len(kinds) < 2:
            continue
        shown = dict(zip(kinds, shown_images(list(kinds.values())), strict=True))
        for place in members:
            known = place.images.get(side)
            text = shown[digest(dict(known))] if known else next(iter(shown.values()))
            place.names[f"{side}_set"] += f" ({text})"


def shown_images(kinds: Sequence[ScoredSet]) -> list[str]:
    """What tells unlike images of one name apart: their number, their part of the set, or their checksum."""
    ways: tuple[Callable[[ScoredSet], str], ...] = (
        lambda kind: f"{kind.get('images')} images",
        lambda kind: f"part {kind.get('part')}",
        lambda kind: f"images {str(kind.get('checksum'))[:SHORT]}",
        lambda kind: f"groups {str(kind.get('groups') or 'none')[:SHORT]}",
    )
    texts = [[way(kind) for kind in kinds] for way in ways]
    return next((shown for shown in texts if len(set(shown)) == len(kinds)), [digest(dict(kind)) for kind in kinds])


# Rows


@dataclass
class _Row:
    """Records of one label on one ID set that were made alike."""

    first: Record
    alike: dict[str, str] = field(default_factory=dict)
    """What must be equal in all of them, by name, because not every record has all."""
    cells: dict[str, str] = field(default_factory=dict)
    """OOD set -> what must be equal in all its seeds."""
    taken: set[tuple[str, int]] = field(default_factory=set)
    """OOD set and seed of each of its records."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What its label may name, from all records together."""

    def refuses(self, record: Record) -> Iterator[str]:
        """Why a record does not belong into the row; nothing if it does."""
        if any(self.alike.get(name, value) != value for name, value in _alike(record).items()):
            yield "its row joins cells that were not made alike"
        elif self.cells.get(record.ood_set, "") not in ("", _cell(record)) and _cell(record):
            yield "its mean joins cells that differ in more than the seed"
        if (record.ood_set, record.seed) in self.taken:
            yield TWICE

    def take(self, record: Record) -> None:
        """Add a record."""
        self.alike = {**_alike(record), **self.alike}
        if cell := _cell(record):
            self.cells.setdefault(record.ood_set, cell)
        self.taken.add((record.ood_set, record.seed))
        self.facts = {**_facts(record), **self.facts}


def _rows(records: Sequence[Record]) -> tuple[list[_Row], list[int]]:
    """The rows of the tables, and for every record the number of its row: the first that it may be part of."""
    rows: list[_Row] = []
    of_label: dict[tuple[str, str], list[int]] = {}
    numbers = []
    for record in records:
        candidates = of_label.setdefault((record.id_set, record.label), [])
        number = next((n for n in candidates if not any(rows[n].refuses(record))), len(rows))
        if number == len(rows):
            rows.append(_Row(record))
            candidates.append(number)
        rows[number].take(record)
        numbers.append(number)
    return rows, numbers


_Cells = dict[tuple[str, int], int]
"""(OOD set, seed) -> the number of its record, of a row."""


def _rows_of_runs(records: Sequence[Record], runs: Sequence[str]) -> tuple[list[_Row], list[int]]:
    """As `_rows`, of several runs; a record in whose place another run's stands has the row `NOWHERE`.

    A label whose numbers differ in one cell of two runs, which another machine may have rounded otherwise, has rows of
    its own in each of them on all ID sets.
    """
    rows: list[_Row] = []
    members: list[_Cells] = []
    owners: list[list[str]] = []
    for run in dict.fromkeys(runs):
        own = [number for number, name in enumerate(runs) if name == run]
        of_run, row_of = _rows([records[number] for number in own])
        cells_of: list[_Cells] = [{} for _ in of_run]
        for number, place in zip(own, row_of, strict=True):
            cells_of[place][records[number].ood_set, records[number].seed] = number
        alike = [[n for n in range(len(rows)) if _made_alike(rows[n], cells, records)] for cells in cells_of]
        unlike = {
            own_name(row.first, "label")
            for row, cells, candidates in zip(of_run, cells_of, alike, strict=True)
            if candidates and not any(_same_numbers(members[n], cells, records) for n in candidates)
        }
        for row, cells, candidates in zip(of_run, cells_of, alike, strict=True):
            equal = (n for n in candidates if _same_numbers(members[n], cells, records))
            found = len(rows) if own_name(row.first, "label") in unlike else next(equal, len(rows))
            if found == len(rows):
                rows.append(row)
                members.append({})
                owners.append([])
            owners[found].append(run)
            for cell, number in cells.items():
                before = members[found].get(cell)
                if before is None or (records[before].status != OK and records[number].status == OK):
                    members[found][cell] = number
                    rows[found].take(records[number])
    for row, of_row in zip(rows, owners, strict=True):
        if len(set(of_row)) < len(set(runs)):
            row.facts = {**row.facts, RUN: " and ".join(dict.fromkeys(of_row))}
    row_of_record = {number: place for place, cells in enumerate(members) for number in cells.values()}
    return rows, [row_of_record.get(number, NOWHERE) for number in range(len(records))]


def _made_alike(row: _Row, cells: _Cells, records: Sequence[Record]) -> bool:
    """Whether the records of another run's row were made as this row was."""
    of_row = (row.first.id_set, own_name(row.first, "label"))
    return all(
        (records[number].id_set, own_name(records[number], "label")) == of_row
        and not any(why != TWICE for why in row.refuses(records[number]))
        for number in cells.values()
    )


def _same_numbers(known: _Cells, cells: _Cells, records: Sequence[Record]) -> bool:
    """Whether two rows have the same numbers in the cells that both have numbers for."""
    both = [(records[known[cell]], records[number]) for cell, number in cells.items() if cell in known]
    return all(
        (one.metrics, one.id_accuracy) == (other.metrics, other.id_accuracy)
        for one, other in both
        if one.status == other.status == OK
    )


def _alike(record: Record) -> dict[str, str]:
    """What must be equal in all records of a row; a cell without numbers may lack it."""
    row = record.origin.get("row", "") if record.origin else _older_row(record)
    known = {**record.origin.get("asked", {}), "backbone": record.backbone, "row": row}
    return {name: str(value) for name, value in known.items() if value}


def _older_row(record: Record) -> str:
    """The same for a record of an older version, as far as it is known: versions, training and the images of it."""
    if record.status != OK:
        return ""
    resolved = record.provenance.get("resolved")
    known = {name: value for name, value in resolved.items() if name != "rules"} if isinstance(resolved, dict) else {}
    names = ("use", "set", "part", "limit", "sha256")
    images = [[used.get(name) for name in names] for used in _used(record) if used.get("use") in LEARNT_FROM]
    return json.dumps(["older", dict(record.training), known, images], sort_keys=True)


def _cell(record: Record) -> str:
    return str(record.origin.get("cell", ""))


def _facts(record: Record) -> dict[str, Any]:
    if not record.origin:
        schedule = {f"schedule {name}": record.training.get(name) for name in ("epochs", "batch_size")}
        return {"older": "older version", **{name: value for name, value in schedule.items() if value is not None}}
    return {**record.origin.get("facts", {}), **record.origin.get("shown", {})}
