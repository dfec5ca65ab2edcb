"""Groups the rows of bundles into boards: tables of what is comparable, and nothing else.

A board is an ID set under one protocol: suite, text of its protocol, shortened trainings and test sets. On a board,
images of one name must be the same in all bundles, and so must their groups and whether a set is near or far; a bundle
that differs from most is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from oodbench.benchmark.comparisons.column import ColumnComparison, ComparisonConfig, compare_column
from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.beside import RecordOfRun
from oodbench.benchmark.records.given_sets import PREFIX
from oodbench.benchmark.records.record import OK, QUICK_LOOK, Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.store.toml_file import parse_toml_text
from oodbench.benchmark.verify.board.entries import Entry, Refused
from oodbench.benchmark.verify.bundles.images import ImagesOfBundles
from oodbench.benchmark.views.costs import Costs, costs_of
from oodbench.benchmark.views.names import Names, display_names
from oodbench.benchmark.views.summary import Block, OodSet, Stat, TableRow

GIVEN = "scores or outputs that authors give"
"""In place of a suite, for images that have names only."""

PROSE = ("title", "notes", "default", "description")
"""Fields of a suite that change no number."""

Images = tuple[Any, ...]
"""What identifies a set of images, its group, and whether it samples the suite's outliers."""


@dataclass(frozen=True)
class Protocol:
    """What the rows of a board have in common, besides images."""

    suite: str
    text: str
    """A short hash of what the suite's text says on protocol and training; empty without a suite."""
    id_set: str
    parts: tuple[str, str]
    """Which parts of the ID set and of OOD sets are scored: protocols that choose settings hold some images out."""
    fitted_on: str
    """What detectors learn from, where that is not all of the training split."""
    quick: tuple[str, ...]
    """How the run was shortened; empty for the suite's protocol."""


@dataclass(frozen=True)
class Row:
    """A row of a board."""

    entry: Entry
    label: str
    name: str
    """As it is displayed."""
    first: Record
    costs: Costs
    seeds: tuple[int, ...]
    accuracy: Stat | None
    cells: Mapping[str, Mapping[str, Stat]]
    """OOD set -> metric -> its mean over seeds, for cells with numbers in all seeds."""
    seen: frozenset[str]
    """OOD sets whose distribution it was trained on."""
    records: Mapping[str, Mapping[int, Record]]
    reasons: Mapping[str, str]
    """OOD set -> why there is no number."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for rows with the same scores under the same name."""
        scores = [
            (ood, seed, *(_sha256(record, f"{side}_scores") for side in ("id", "ood")))
            for ood, of_seed in sorted(self.records.items())
            for seed, record in sorted(of_seed.items())
        ]
        return (self.label, self.first.backbone, *scores)


@dataclass
class Board:
    """The comparable rows of all bundles on one ID set."""

    protocol: Protocol
    columns: tuple[OodSet, ...]
    rows: list[Row]
    images: Mapping[str, Images] = field(default_factory=dict)
    """'' for the ID set, and OOD sets -> what identifies their images."""
    others: Mapping[int, list[Entry]] = field(default_factory=dict)
    """Position of a row -> further bundles that have the same row."""
    best: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """OOD set -> positions of the rows that may be the best by AUROC; without columns that could not be judged."""

    def averaged(self, group: str) -> list[str]:
        """The OOD sets of a mean, the same for every row: those of a group that most bundles have; 'all': of any."""
        entries = {id(row.entry) for row in self.rows}
        having = Counter(ood for ood, _ in {(ood, id(row.entry)) for row in self.rows for ood in row.records})
        return [
            one.name
            for one in self.columns
            if not one.source and group in ("all", one.group) and 2 * having[one.name] > len(entries)
        ]

    def mean(self, row: Row, group: str, metric: str) -> float | None:
        """A row's mean over the sets of a group; None if it lacks one of them, or there are none."""
        sets = self.averaged(group)
        values = [row.cells[ood][metric].mean for ood in sets if metric in row.cells.get(ood, {})]
        return sum(values) / len(values) if sets and len(values) == len(sets) else None


def boards_of(entries: Sequence[Entry], judge: bool = True) -> tuple[list[Board], list[Refused]]:
    """The boards that bundles make, with the most rows first; and the bundles whose images are those of no board.

    `judge`: whether to find out which rows may be the best of each column.
    """
    refused = {id(entry): Refused(visible(entry.file.name), why) for entry, why in _with_other_images(entries)}
    accepted = [entry for entry in entries if id(entry) not in refused]
    found: dict[Protocol, list[tuple[Entry, Block]]] = {}
    for entry in accepted:
        for block in entry.summary.blocks:
            found.setdefault(_protocol(entry, block), []).append((entry, block))
    boards = [_board(protocol, members, judge) for protocol, members in found.items()]
    boards.sort(key=lambda one: (-len(one.rows), one.protocol.suite, one.protocol.id_set, str(one.protocol)))
    return boards, list(refused.values())


def _with_other_images(entries: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
    """The bundles that have other images under a name than most, of two the first; each with a sentence."""
    known: dict[tuple[Protocol, str], list[tuple[Entry, Images]]] = {}
    for entry in entries:
        for block in entry.summary.blocks:
            protocol = _protocol(entry, block)
            for name, images in _images(entry, block).items():
                known.setdefault((protocol, name), []).append((entry, images))
    wrong: set[int] = set()
    for (protocol, name), having in known.items():
        counts = Counter(images for _, images in having)  # in order of appearance, so that the first wins a draw
        (most, _), *_ = counts.most_common(1)
        for entry, images in having:
            if images != most and id(entry) not in wrong:
                wrong.add(id(entry))
                what = next(text for place, text in enumerate(WHAT) if images[place] != most[place])
                other = next(one for one, found in having if found == most)
                shown = f"'{visible(name or protocol.id_set)}'" + (f" for {visible(protocol.id_set)}" if name else "")
                yield (
                    entry,
                    f"Unlike '{visible(other.file.name)}', it {what.format(shown)}: {_short(images)}, where the other "
                    f"has {_short(most)}. If it is another set, give it another name.",
                )


WHAT = (
    *("has other images of {}", "has another number of images of {}", "groups the images of {} in another way"),
    *("scores another part of {}", "assigns {} to another group", "takes {} for the source of outliers, or does not"),
)
"""What may differ between two `Images`, in their order."""


def _short(images: Images) -> str:
    checksum, count, groups, part, group, source = images
    near = f", {group}" if group else ""
    return (
        f"{count} images {checksum[:12]}, part {part}, groups {groups[:6] or 'none'}{near}"
        f"{', outlier source' * bool(source)}"
    )


def _images(entry: Entry, block: Block) -> dict[str, Images]:
    """What identifies the images of a block: '' for the ID set, and OOD sets by name.

    Of pictures that networks get at different sizes, it is a hash of what is stored of them, where the run states one.
    """
    found: dict[str, Images] = {}
    pairs = entry.run.info.get("pairs", ())
    stored = {(pair["id_set"], pair["ood_set"]): pair.get("content") or {} for pair in pairs}
    for ood in block.sets:
        content = stored.get((block.id_set, ood.name), {})
        record = next((r for row in block.rows for r in row.records.get(ood.name, {}).values()), None)
        images = record.origin.get("images", {}) if record else {}
        for name, side, more in (("", "id", ("", False)), (ood.name, "ood", (ood.group, ood.source))):
            if known := images.get(side):
                identity = (
                    str(content.get(side) or known["checksum"]),
                    known["images"],
                    known.get("groups", ""),
                    known.get("part", ""),
                )
                found.setdefault(name, (*identity, *more))
    return found


FITTED_ON = ("split", "share", "per_class", "pollution")
"""What of a record's `fitted_on` is a part of the protocol."""


def _protocol(entry: Entry, block: Block) -> Protocol:
    """The protocol of one ID set of a bundle."""
    records = [r for row in block.rows for of_set in row.records.values() for r in of_set.values()]
    first = records[0]
    quick = {note for record in records for note in record.notes if note.startswith(QUICK_LOOK)}
    limits = {f"{name} {record.origin.get('shown', {}).get(name)}" for record in records for name in SHORTENED}
    quick |= {f"{QUICK_LOOK}: {limit}" for limit in limits if not limit.endswith(" None")}
    parts = _parts(records, "id"), _parts(records, "ood")
    kept = {name: value for name, value in first.fitted_on.items() if name in FITTED_ON}
    fitted_on = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(kept.items()))
    if own_name(first, "id_set").startswith(PREFIX):
        return Protocol(GIVEN, "", block.id_set, parts, fitted_on, tuple(sorted(quick)))
    suites = sorted({str(record.origin.get("shown", {}).get("suite", "")) for record in records})
    return Protocol(
        "; ".join(suites), _suite_text(entry, block.id_set), block.id_set, parts, fitted_on, tuple(sorted(quick))
    )


def _parts(records: Iterable[Record], side: str) -> str:
    """The parts of sets that records are scored on."""
    known = (record.origin.get("images", {}).get(side, {}) for record in records)
    return ", ".join(sorted({str(images["part"]) for images in known if images.get("part")}))


SHORTENED = ("limit_train", "limit_test")
"""Facts in the origin of cells of a shortened run."""


def _suite_text(entry: Entry, id_set: str) -> str:
    """A short hash of what the texts of a bundle's suites say, but for prose and for other ID sets."""
    found = []
    for command in entry.run.info.get("commands", ()):
        text = command.get("suite_toml") if isinstance(command, dict) else None
        if isinstance(text, str):
            found.append(digest(_said(text, id_set)))
    return digest(sorted(set(found)))[:6] if found else ""


def _said(text: str, id_set: str) -> Any:
    try:
        value = parse_toml_text(text)
        kept = {name: item for name, item in value.items() if name not in (*PROSE, "id")}
        of_set = [one for one in value.get("id", []) if isinstance(one, dict) and one.get("set") == id_set]
        return _plain({**kept, "id": of_set})
    except (ValueError, RecursionError, TypeError, AttributeError):
        return text


def _plain(value: Any) -> Any:
    """TOML as JSON; dates as text."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int) or (isinstance(value, float) and value == value) else str(value)


# One board


def _board(protocol: Protocol, members: Sequence[tuple[Entry, Block]], judge: bool) -> Board:
    columns: dict[str, OodSet] = {}
    for _, block in members:
        for ood in block.sets:
            columns.setdefault(ood.name, ood)
    rows: list[Row] = []
    for entry, block in members:
        names, costs = display_names(entry.run), costs_of(entry.run)
        rows += [_row(entry, row, names, costs) for row in block.rows if not row.first.sanity]
    order = {"near": 0, "far": 1}
    shown = tuple(sorted(columns.values(), key=lambda one: (one.source, order.get(one.group, 2))))
    board = Board(
        protocol, shown, [], {name: images for one, block in members for name, images in _images(one, block).items()}
    )
    kept: dict[tuple[Any, ...], Row] = {}
    same: dict[tuple[Any, ...], list[Entry]] = {}
    for row in rows:
        if row.key in kept:
            same.setdefault(row.key, []).append(row.entry)
        else:
            kept[row.key] = row
    board.rows = list(kept.values())
    board.rows = sorted(board.rows, key=lambda row: _order(board, row))  # not in place: means depend on all rows
    board.others = {place: same[row.key] for place, row in enumerate(board.rows) if row.key in same}
    board.best = dict(_judged(board)) if judge else {}
    return board


def _order(board: Board, row: Row) -> tuple[float, float, str, str]:
    """Best first, by the means of AUROC over near sets, or over all where none is near."""
    by = "near" if board.averaged("near") else "all"
    value, overall = board.mean(row, by, "auroc"), board.mean(row, "all", "auroc")
    return (1.0 if value is None else -value, 1.0 if overall is None else -overall, row.name, row.entry.name)


def _row(entry: Entry, row: TableRow, names: Names, costs: Mapping[str, Costs]) -> Row:
    done = {ood: cell for ood, cell in row.cells.items() if cell.status == OK}
    seeds = {seed for of_set in row.records.values() for seed in of_set}
    return Row(
        entry,
        row.label,
        names.row(row.label),
        row.first,
        costs[row.label],
        tuple(sorted(seeds)),
        row.id_accuracy,
        {ood: {name: cell.stats[name] for name in METRICS if name in cell.stats} for ood, cell in done.items()},
        frozenset(ood for ood, cell in row.cells.items() if cell.seen),
        {ood: of_seed for ood, of_seed in row.records.items() if of_seed},
        {ood: cell.reason or cell.status for ood, cell in row.cells.items() if cell.status != OK},
    )


def _judged(board: Board) -> Iterator[tuple[str, frozenset[int]]]:
    """Which rows may be the best of each column: over all bundles, by their scores on the same images."""
    images = ImagesOfBundles({row.entry.page: row.entry.images for row in board.rows})
    for ood in board.columns:
        records = [
            _of_board(record, str(place), row.entry)
            for place, row in enumerate(board.rows)
            for record in row.records.get(ood.name, {}).values()
        ]
        labels = list(dict.fromkeys(record.label for record in records))
        config = ComparisonConfig(board.rows[0].entry.bundle.cache, "auroc", images=images)
        try:
            found = compare_column(records, labels, config)
        except UserError:
            continue
        if isinstance(found, ColumnComparison):
            yield ood.name, frozenset(map(int, found.best_set))


def _of_board(record: Record, label: str, entry: Entry) -> RecordOfRun:
    own = {one.name: getattr(record, one.name) for one in fields(Record)}
    return RecordOfRun(**{**own, "label": label}, run=entry.page, store=str(entry.bundle.cache))


def _sha256(record: Record, which: str) -> str:
    path = record.artifacts.get(which, "")
    artifacts: Iterable[Mapping[str, Any]] = record.provenance.get("artifacts", ())
    return next((str(one["sha256"]) for one in artifacts if one.get("path") == path), "")
