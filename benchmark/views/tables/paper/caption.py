"""The caption and the notes of a table for a paper: what its numbers are, and what a reader must not miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.record import OK, QUICK_LOOK, WARNING
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.costs import DATA as GIVEN
from oodbench.benchmark.views.costs import FITTED, Costs, cost_lines
from oodbench.benchmark.views.marks import DASH, FEWER, MAYBE, SEEN
from oodbench.benchmark.views.names import Names
from oodbench.benchmark.views.summary import GROUPS, PARTIAL, Block, Summary, TableCell
from oodbench.benchmark.views.tables.paper.spec import DATA, NETWORKS, NONE, PASSES, TableSpec
from oodbench.benchmark.views.warnings import SENTENCES, UNFIT, WARNED, doubtful

WELL_KNOWN = ("auroc", "id_accuracy")
"""Metrics that a caption does not define."""

NAMED = 4
"""Cells, rows or notes of one kind that are named; others are counted."""


@dataclass(frozen=True)
class Shown:
    """What a table shows: the run, the part of it that was chosen, and how."""

    run: StoredRun
    summary: Summary
    """Of the rows and sets that are shown."""
    spec: TableSpec
    names: Names
    costs: Mapping[str, Costs]
    """Label -> what its row costs."""

    @property
    def has_std(self) -> bool:
        """Whether deviations over seeds are shown."""
        several = len(self.summary.seeds) > 1
        return several if self.spec.std is None else several and self.spec.std


def caption_of(shown: Shown, blocks: Sequence[Block]) -> str:
    """The caption: what the table is about, what its metrics are, seeds, and what bold and underlined mean."""
    return " ".join(visible(" ".join(line.split())) for line in _caption(shown, blocks))


def _caption(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    spec, names = shown.spec, shown.names
    if spec.caption:
        yield spec.caption.rstrip(".") + "."
    else:
        networks = list(dict.fromkeys(names.network(one) for block in blocks for one in block.backbones))
        id_sets = " and ".join(names.set(block.id_set) for block in blocks) if len(blocks) < 4 else "several ID sets"
        yield f"OOD detection, ID: {id_sets}{f' ({chr(44).join(networks)})' if networks else ''}."
    yield f"{_unit(shown)}. {_seeds(shown)}"
    titles = {metric.name + metric.rules: metric for metric in spec.metrics}
    if defined := [f"{m.full_title}: {m.help}" for m in titles.values() if m.name not in WELL_KNOWN or m.rules]:
        yield "; ".join(defined) + "."
    ranks = ["bold: best"] * (spec.bold != NONE) + ["underlined: second best"] * (spec.underline != NONE)
    if ranks:
        text = ", ".join(ranks) + ("; seen cells do not compete" if spec.sets and _seen(blocks) else "")
        yield f"{text[0].upper()}{text[1:]}."
    if spec.group_means != (NONE,):
        yield from _means(blocks)


def _unit(shown: Shown) -> str:
    return "Percent" if all(metric.is_percent for metric in shown.spec.metrics) else "Percent, NLL in nats"


def _seeds(shown: Shown) -> str:
    seeds = shown.summary.seeds
    if len(seeds) < 2:
        return "One seed."
    return f"Mean{' ± std' if shown.has_std else ''} over {len(seeds)} seeds."


def _seen(blocks: Sequence[Block]) -> bool:
    return any(cell.seen for block in blocks for row in block.rows for cell in row.cells.values())


def _means(blocks: Sequence[Block]) -> Iterator[str]:
    if any(ood.source for block in blocks for ood in block.sets):
        yield "Means leave out the set whose distribution the training outliers have."
    ungrouped = [block for block in blocks if not all(ood.group in GROUPS for ood in block.averaged)]
    if ungrouped and len(blocks) == 1 and len(blocks[0].averaged) > 1:
        yield f"Mean: over the {len(blocks[0].averaged)} OOD sets."


# Notes


def notes_of(shown: Shown, blocks: Sequence[Block]) -> tuple[str, ...]:
    """What stands under the table, one sentence or more each; nothing if notes are not wanted."""
    if not shown.spec.notes:
        return ()
    lines = [
        *shown.run.unfinished,
        *_warnings(shown, blocks),
        *_marks(shown, blocks),
        *_missing(shown, blocks),
        *_costs(shown, blocks),
        *_short(shown, blocks),
    ]
    return tuple(dict.fromkeys(visible(" ".join(line.split())) for line in lines))


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


def _cells(shown: Shown, blocks: Sequence[Block]) -> list[tuple[str, TableCell]]:
    """Where and what: all cells of the sets that count in the table."""
    found = []
    for block in blocks:
        for row in block.rows:
            for name, cell in row.cells.items():
                where = f"{shown.names.row(row.label)} on {shown.names.set(name)}"
                found.append((where if len(blocks) == 1 else f"{where} ({shown.names.set(block.id_set)})", cell))
    return found


def _warnings(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    """Weights that do not fit the labels, always; the other warnings where their mark is shown."""
    names = {metric.name for metric in shown.spec.metrics}
    for kind, sentence in SENTENCES.items():
        if kind != UNFIT and shown.spec.marks != "all":
            continue
        concerned = [
            where
            for where, cell in _cells(shown, blocks)
            if kind in cell.warnings and (kind == UNFIT or any(doubtful({kind: ""}, name) for name in names))
        ]
        if concerned:
            sign = f"{WARNED} " if shown.spec.marks == "all" else ""
            yield f"{sign}{sentence} ({_listed(concerned)})."


def _marks(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    cells = [cell for _, cell in _cells(shown, blocks)]
    kind, seeds = shown.spec.marks, len(shown.summary.seeds)
    if shown.spec.sets and any(cell.seen for cell in cells):  # no mean has a seen cell
        sign = f"{SEEN} s" if kind != NONE else "S"
        seen = [where for where, cell in _cells(shown, blocks) if cell.seen]
        yield f"{sign}een: trained on outliers of the OOD set's own distribution ({_listed(seen)})."
    if kind == "all" and any(stat.may_be_best for cell in cells for stat in cell.stats.values()):
        yield f"{MAYBE} may be the best AUROC of its column among all rows of the run, with 95% confidence."
    fewer = [where for where, cell in _cells(shown, blocks) if cell.status == PARTIAL]
    if fewer:
        yield f"{f'{FEWER} f' if kind == 'all' else 'F'}ewer than {seeds} seeds: {_listed(fewer)}."


def _missing(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    """Why there is no number, by reason."""
    by_reason: dict[str, list[str]] = {}
    for where, cell in _cells(shown, blocks):
        if cell.status not in (OK, PARTIAL):
            reason = f"{cell.status}: {cell.reason}" if cell.reason else "not run"
            by_reason.setdefault(reason, []).append(where)
    if by_reason:
        texts = [f"{_listed(places)} ({reason})" for reason, places in by_reason.items()]
        more = f"; and {len(texts) - NAMED} more reasons" if len(texts) > NAMED else ""
        yield f"{DASH} no number, and no mean that would need it: {'; '.join(texts[:NAMED])}{more}."


def _costs(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    """What the columns of costs mean; of costs without a column, the rows that have more than others."""
    labels = dict.fromkeys(row.label for block in blocks for row in block.rows)
    costs = {label: shown.costs[label] for label in labels}
    data, passes, networks = cost_lines(costs.values())
    columns = shown.spec.costs
    yield from (f"{line}." for name, line in ((DATA, data), (PASSES, passes), (NETWORKS, networks)) if name in columns)
    unlike: dict[str, list[str]] = {}
    for label, cost in costs.items():
        name = shown.names.row(label)
        for given in cost.data or () if DATA not in columns else ():
            if given != FITTED:
                unlike.setdefault(GIVEN[given], []).append(name)
        if cost.passes and cost.passes[1] and PASSES not in columns:
            unlike.setdefault("further network passes per image", []).append(name)
        if cost.networks and cost.networks > 1 and NETWORKS not in columns:
            unlike.setdefault("several networks in training", []).append(name)
    unknown = [shown.names.row(label) for label, cost in costs.items() if cost.passes is None or cost.data is None]
    if unknown and not columns and len(costs) > 1:
        yield f"Costs are not recorded in full: {_listed(unknown)}."
    if unlike and len(costs) > 1:
        yield f"Unlike costs: {'; '.join(f'{what}: {_listed(rows)}' for what, rows in unlike.items())}."


def _short(shown: Shown, blocks: Sequence[Block]) -> Iterator[str]:
    """Notes without which the numbers would be taken for something else."""
    sets = {block.id_set for block in blocks}
    for record in shown.run.records:
        if record.id_set in sets:
            yield from (
                f"{note[0].upper()}{note[1:].rstrip('.')}." for note in record.notes if note.startswith(QUICK_LOOK)
            )
    yield from (str(note) for note in shown.run.info.get("notes", ()) if str(note).startswith(WARNING))
