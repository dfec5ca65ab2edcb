"""What the rows of a table cost besides one network and one pass: readers compare unlike rows otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.specs import parse_detector
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.record import OK, SCORES, Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun

POSTHOC, TRAINED = "posthoc", "trained"
"""Kinds of rows: a detector on the network that the suite trains, and one whose recipe trains its own."""

FITTED, TUNED_ID, TUNED_OOD, TUNED_OWN, OUTLIERS = "ID", "tuned on ID", "tuned on OOD", "tuned on this OOD", "outliers"
"""What a row was given besides the trained network."""

DATA = {
    FITTED: "ID training or validation images that the detector learned from",
    TUNED_ID: "settings chosen on ID images",
    TUNED_OOD: "settings chosen on images of other OOD sets",
    TUNED_OWN: "settings chosen on images of the source of the OOD set that is scored",
    OUTLIERS: "OOD images in training or fitting",
}
"""What a row may be given -> what that means, as a phrase."""

UNKNOWN = "?"


@dataclass(frozen=True)
class Costs:
    """What one row was given and needs."""

    kind: str
    """`POSTHOC` or `TRAINED`."""
    data: tuple[str, ...] | None
    """Keys of `DATA`, in their order; None if the records do not say."""
    passes: tuple[int, int] | None
    """Fewest and most network passes per image beyond the one that all rows share; None if not recorded."""
    networks: int | None
    """Networks trained for it, generators and the like included; None if not recorded, or none was trained."""

    @property
    def data_text(self) -> str:
        """For a column: what it was given, a dash for nothing."""
        return UNKNOWN if self.data is None else ", ".join(self.data) or "\N{EN DASH}"

    @property
    def passes_text(self) -> str:
        """For a column: `1`, `1+2` or `1+2..3`."""
        if self.passes is None:
            return UNKNOWN
        low, high = self.passes
        return "1" if high == 0 else f"1+{low}" if low == high else f"1+{low}..{high}"

    @property
    def networks_text(self) -> str:
        """For a column: the number."""
        return UNKNOWN if self.networks is None else str(self.networks)


def costs_of(run: StoredRun) -> dict[str, Costs]:
    """Label -> what its row costs; everything that any cell of the row was given counts."""
    known: dict[str, Mapping[str, Any]] = {}
    for info in (run.info, *(part.info for part in run.parts)):
        for label, costs in (info.get("costs") or {}).items():
            known.setdefault(label, costs)
    by_label: dict[str, list[Record]] = {}
    for record in run.records:
        by_label.setdefault(record.label, []).append(record)
    return {label: _costs(records, known.get(own_name(records[0], "label"), {})) for label, records in by_label.items()}


def _costs(records: Sequence[Record], known: Mapping[str, Any]) -> Costs:
    passes, done = known.get("passes"), [record for record in records if record.status == OK]
    ends = (int(passes[0]), int(passes[1])) if isinstance(passes, list | tuple) and len(passes) == 2 else None
    kind = known.get("kind")
    return Costs(
        kind if kind in (POSTHOC, TRAINED) else _kind(records[0]),
        _data(done) if done and all(map(_is_known, done)) else None,
        ends,
        known.get("networks"),
    )


def _is_known(record: Record) -> bool:
    """Whether a record says what its row was given; of scores that the user gives, nobody knows here."""
    return record.recipe != SCORES and bool(record.provenance.get("data"))


def _kind(record: Record) -> str:
    """What a record of an older version was: its recipe is the detector's own, or stands in its label."""
    try:
        named = parse_detector(own_name(record, "label")).recipe is not None
    except OodbenchError:
        named = False
    return TRAINED if named or record.recipe == record.detector else POSTHOC


def _data(records: Iterable[Record]) -> tuple[str, ...] | None:
    found = {one for record in records for one in _given(record)}
    return tuple(one for one in DATA if one in found)


def _given(record: Record) -> Iterator[str]:
    """What the record of one cell says that its detector and network were given."""
    used = record.provenance.get("data", ())
    uses = {one["use"] for one in used}
    id_name = plain_name(own_name(record, "id_set"))
    if "fit" in uses:
        yield FITTED
        if any(one["use"] == "fit" and plain_name(one["set"]) != id_name for one in used):
            yield OUTLIERS
    if "train on outliers" in uses:
        yield OUTLIERS
    if "tune on OOD" in uses:
        yield TUNED_OWN if record.tuned.get("own_source") else TUNED_OOD
    elif "tune" in uses:
        yield TUNED_ID


def cost_lines(costs: Iterable[Costs]) -> list[str]:
    """What the columns mean, for those values that occur."""
    costs = list(costs)
    given = [one for one in DATA if any(one in (cost.data or ()) for cost in costs)]
    lines = ["Data: what a row was given besides the trained network" + "".join(f"; {o}: {DATA[o]}" for o in given)]
    if any(cost.data is None for cost in costs):
        lines[0] += f"; {UNKNOWN}: not recorded, as for scores that were computed elsewhere"
    lines.append("Passes: network passes per test image, the one that all rows share and those that a row adds")
    lines.append("Networks: networks trained for a row, generators and the like included")
    return lines
