"""Finds the counterparts of published numbers in a run, and every difference of protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from oodbench.benchmark.papers.published import (
    ID_ACCURACY,
    SHIFTED_TOO,
    Published,
    Reference,
    alternatives,
    first_of,
)
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.summary import ABSENT, Block, Stat, Summary, TableRow, audit_of, stat_of, summary_of

OTHER_RULES = "ours by the exact metrics, published by the rules '{0}': bench run --metrics {0} computes both"


@dataclass(frozen=True)
class Line:
    """One published number, and its counterpart in the run, if any."""

    published: Published
    id_set: str
    ood_set: str
    """The run's set; the published one if the run has no such set."""
    label: str
    status: str = ""
    """Status of the run's cell; empty if there is none."""
    ours: Stat | None = None
    ruled: Stat | None = None
    """Ours by the metric rules behind the published number, if these are not the exact ones and were computed."""
    reasons: tuple[str, ...] = ()
    """How our protocol differs from the published one."""

    @property
    def difference(self) -> float | None:
        """Ours minus published, in percentage points; by the published number's rules if available."""
        ours = self.ruled or self.ours
        return None if ours is None else 100 * ours.mean - self.published.percent

    @property
    def place(self) -> str:
        """A name for the cell: OOD set or mean, and detector."""
        where = f"{self.published.group} mean" if self.published.group else self.ood_set or "ID test set"
        return f"{where}, {self.label}"


def compare(run: StoredRun, reference: Reference) -> list[Line]:
    """Every published number in the file's order: one line per counterpart, or one line if it has none.

    Of a reference with several networks, the numbers for those of the run; all of them, without counterparts, if it has
    none of the run's.
    """
    matcher = _Matcher(run, summary_of(run), reference)
    lines = []
    for published in of_the_runs_networks(run, reference):
        matched = list(matcher.lines(published))
        label = f"{first_of(published.detector)}@{first_of(published.recipe)}".rstrip("@")
        lines += matched or [
            Line(published, first_of(published.id_set), " ".join(map(first_of, published.sets)), label)
        ]
    return lines


def of_the_runs_networks(run: StoredRun, reference: Reference) -> Sequence[Published]:
    """The numbers for the run's networks, if a reference has several networks and some of the run's; else all."""
    used = {record.backbone for record in run.records}
    found = [value for value in reference.values if alternatives(value.backbone) & used]
    return found if found and len(reference.networks) > 1 else reference.values


class _Matcher:
    """Finds the counterparts of published numbers in one run."""

    def __init__(self, run: StoredRun, summary: Summary, reference: Reference) -> None:
        self.run = run
        self.networks = reference.networks
        self.audits: dict[str, dict[tuple[str, str, str], dict[str, Stat]]] = {}
        self.suite = str((run.info.get("suite") or {}).get("name", ""))
        self.blocks = {block.id_set: block for block in summary.blocks}
        self.records: dict[tuple[str, str, str], Record] = {}
        for record in run.records:
            self.records.setdefault((record.id_set, record.label, record.ood_set), record)
        pairs = run.info.get("pairs", ())
        self.families = {
            pair[f"{role}_set"]: pair.get(f"{role}_family", "") for pair in pairs for role in ("id", "ood")
        }

    def lines(self, published: Published) -> Iterator[Line]:
        for id_set in self.named(published.id_set, published.id_set, self.blocks):
            block = self.blocks[id_set]
            for row in block.rows:
                first = row.first
                if len(self.networks) > 1 and first.backbone not in alternatives(published.backbone):
                    continue
                if first.detector not in alternatives(published.detector):
                    continue
                if first.recipe in alternatives(published.recipe):
                    yield from self.row_lines(published, block, row)

    def row_lines(self, published: Published, block: Block, row: TableRow) -> Iterator[Line]:
        always = [*self.differences(published, block.id_set, row)]
        if published.metric == ID_ACCURACY:
            status = OK if row.id_accuracy else row.first.status
            yield Line(published, block.id_set, "", row.label, status, row.id_accuracy, reasons=tuple(always))
        elif published.group:
            with_shifted = published.metric in SHIFTED_TOO
            stat = row.means.get((published.group, published.metric))
            stat = self.with_shifted(block, row, published) if with_shifted else stat
            if with_shifted and stat is None:
                return  # most runs do without the extended metrics
            members = [s.name for s in block.averaged if s.group == published.group]
            reasons = (*always, *self.other_members(published, members))
            if members:
                yield Line(published, block.id_set, "", row.label, OK if stat else "incomplete", stat, None, reasons)
        else:
            present = [name for name, cell in row.cells.items() if cell.status != ABSENT]
            for name in self.named(published.ood_set, published.ood_family, present):
                cell, record = row.cells[name], self.records.get((block.id_set, row.label, name))
                stat = cell.stats.get(published.metric)
                ruled = self.audit(published.rules).get((block.id_set, row.label, name), {}).get(published.metric)
                other = [] if ruled or not published.rules else [OTHER_RULES.format(published.rules)]
                reasons = (*always, *self.other_cell(published, name, record), *other)
                yield Line(published, block.id_set, name, row.label, cell.status, stat, ruled, reasons)

    def with_shifted(self, block: Block, row: TableRow, published: Published) -> Stat | None:
        """The mean over a group of a metric that counts shifted ID sets as ID; None if a cell of it has none."""
        members = [s.name for s in block.averaged if s.group == published.group]
        by_seed: dict[int, list[float]] = {}
        for record in self.run.records:
            of_row = (record.id_set, record.label) == (block.id_set, row.label) and record.ood_set in members
            if of_row and published.metric in record.extended:
                by_seed.setdefault(record.seed, []).append(record.extended[published.metric])
        return stat_of([fsum(found) / len(found) for found in by_seed.values() if len(found) == len(members)])

    def audit(self, rules: str) -> dict[tuple[str, str, str], dict[str, Stat]]:
        if rules not in self.audits:
            self.audits[rules] = audit_of(self.run, rules)
        return self.audits[rules]

    def named(self, wanted: str, family: str, present: Iterable[str]) -> list[str]:
        """The sets with the published name or, if there is none, those that sample the same distribution."""
        names, families = alternatives(wanted), alternatives(family) - {""}
        sets = list(present)
        return [n for n in sets if n in names] or [n for n in sets if self.families.get(n) in families]

    def trained(self, id_set: str, row: TableRow) -> Record:
        """A record of the row that has a result, for the facts of its training."""
        of_row = (r for (id_, label, _), r in self.records.items() if (id_, label) == (id_set, row.label))
        return next((record for record in of_row if record.status == OK), row.first)

    def differences(self, published: Published, id_set: str, row: TableRow) -> Iterator[str]:
        """Differences that apply to the whole row: network, training, settings, ID set."""
        record = self.trained(id_set, row)
        suite = record.origin.get("shown", {}).get("suite", self.suite)
        if suite and published.suite and suite != published.suite:
            yield f"suite {suite}; the published protocol is suite {published.suite}"
        if published.backbone and record.backbone not in alternatives(published.backbone):
            yield f"backbone {record.backbone or 'unknown'}, published {first_of(published.backbone)}"
        yield from _other_training(published, record.training)
        if id_set not in alternatives(published.id_set):
            yield f"ID set {id_set}, published {first_of(published.id_set)}"
        yield from _other_count("ID test images", record.n_id, published.n_id)
        if record.settings:
            yield "settings " + ", ".join(f"{key}={value}" for key, value in record.settings.items())
        recipe = record.label.partition("@")[2].partition(" (")[0]
        if "[" in recipe:
            yield f"recipe settings {recipe}"

    def other_cell(self, published: Published, name: str, record: Record | None) -> Iterator[str]:
        if name not in alternatives(published.ood_set):
            yield f"OOD set {name}, published {first_of(published.ood_set)}"
        if record is None:
            return
        yield from _other_count(f"{name} images", record.n_ood, published.n_ood)
        if published.seen is not None and record.seen != published.seen:
            words = {True: "seen", False: "not seen"}
            yield f"{name} {words[record.seen]} in training, published {words[published.seen]}"

    def other_members(self, published: Published, members: Sequence[str]) -> Iterator[str]:
        wanted = [alternatives(names) for names in published.sets]
        if len(members) != len(wanted) or not all(any(m in names for m in members) for names in wanted):
            names = ", ".join(map(first_of, published.sets))
            yield f"{published.group} mean over {', '.join(members)}, published over {names}"


def _other_count(what: str, ours: int | None, published: int | None) -> Iterator[str]:
    if published is not None and ours is not None and ours != published:
        yield f"{ours:,} {what}, published {published:,}"


def _other_training(published: Published, training: Mapping[str, object]) -> Iterator[str]:
    wanted = {"images": published.n_train, "epochs": published.epochs}
    if not training.keys() & wanted.keys() and any(wanted.values()):
        yield "the run's records do not say how long the network was trained"
    for name, value in wanted.items():
        if isinstance(ours := training.get(name), int):
            yield from _other_count({"images": "training images"}.get(name, name), ours, value)
