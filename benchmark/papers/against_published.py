"""Tables of a run's numbers next to published ones, with the difference in points and the differences of protocol.

A published number is matched by ID set, OOD set or group, detector and recipe. If no set has the published name, a set
with another name that samples the same distribution (a part of it, for example) is matched, and flagged like every
other difference of protocol: a flagged number is not a reproduction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from oodbench.benchmark.metrics.names import FULL_SPECTRUM
from oodbench.benchmark.papers.match import Line, compare, of_the_runs_networks
from oodbench.benchmark.papers.published import ID_ACCURACY, RECALLED, Reference, first_of
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.summary import Stat
from oodbench.benchmark.views.tables.layout import COLUMNS
from oodbench.benchmark.views.tables.stacked import Item, Stack, stacked_markdown, stacked_text

TITLES = {
    ID_ACCURACY: "ID acc", **COLUMNS, "fpr_at_tpr95": "FPR95", "openood_fpr95": "FPR95 (OOD positive)",
    "aupr_in_counts": "AUPR-in (counts)", "aupr_out_counts": "AUPR-out (counts)",
    **{f"fs_{name}": f"{COLUMNS[name]}, full spectrum" for name in FULL_SPECTRUM},
}  # fmt: skip

RECALLED_MARK = "?"

NOTHING = "No cell of this run has a published counterpart."


def _numbers(line: Line) -> tuple[str, str, str]:
    """Our number, the published one and the difference, as printed."""
    number = line.published
    published = number.value + (f" ± {number.std}" if number.std else "")
    published += RECALLED_MARK if number.mark == RECALLED else ""
    if line.difference is None:
        return line.status or DASH, published, DASH
    return _percent(line.ours, line), published, f"{line.difference:+.{_places(line)}f}"


def _percent(stat: Stat | None, line: Line) -> str:
    if stat is None:
        return DASH
    places = _places(line)
    std = f" ± {100 * stat.std:.{places}f}" if stat.std is not None else ""
    return f"{100 * stat.mean:.{places}f}{std}"


def _places(line: Line) -> int:
    """Number of decimals: that of the published number, at least one."""
    return max(1, line.published.decimals)


def _matched(lines: Iterable[Line]) -> list[Line]:
    """The lines with a counterpart, those of a cell next to each other."""
    cells: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.status:
            cells.setdefault((line.id_set, line.place), []).append(line)
    return [line for of_cell in cells.values() for line in of_cell]


def _footnotes(lines: Iterable[Line]) -> dict[str, int]:
    notes: dict[str, int] = {}
    for line in lines:
        for reason in line.reasons:
            notes.setdefault(reason, len(notes) + 1)
    return notes


def _flags(line: Line, notes: Mapping[str, int]) -> str:
    return f"[{','.join(str(notes[reason]) for reason in line.reasons)}]" if line.reasons else ""


def _title(run: StoredRun, reference: Reference) -> str:
    return f"{run.name} against {reference.name}: {reference.title}"


def _legend(lines: Sequence[Line], matched: Sequence[Line], notes: Mapping[str, int]) -> Iterator[str]:
    yield (
        "Percent; ours: mean ± std over seeds (ddof = 1); difference: ours minus published, in points. "
        "A flagged number is not a reproduction: its protocol differs as described in the note."
    )
    if rules := {line.published.rules for line in matched if line.ruled}:
        yield (
            f"By its rules: ours by the metric rules behind the published number ({', '.join(sorted(rules))}, see "
            "docs/appendix/metrics_saturation.md); where available, the difference is computed from it."
        )
    if any(line.published.mark == RECALLED for line in matched):
        yield f"{RECALLED_MARK} recalled: the published number was not checked against its source."
    yield from (f"[{number}] {note}." for note, number in notes.items())
    for note, places in _published_notes(matched).items():
        yield f"Published: {note} ({'; '.join(places)})."
    yield from _without_counterpart(lines)


def _published_notes(matched: Iterable[Line]) -> dict[str, dict[str, None]]:
    notes: dict[str, dict[str, None]] = {}
    for line in matched:
        if line.published.note:
            title = TITLES[line.published.metric]
            notes.setdefault(line.published.note, {})[f"{line.place}: {title} {line.published.value}"] = None
    return notes


def _without_counterpart(lines: Sequence[Line]) -> Iterator[str]:
    """The published numbers that this run does not have, in one sentence per ID set."""
    for id_set in dict.fromkeys(first_of(line.published.id_set) for line in lines):
        of_set = [line for line in lines if first_of(line.published.id_set) == id_set]
        missing = [line for line in of_set if not line.status]
        if len(missing) == len(of_set):
            yield f"Published, without a counterpart in this run: all {len(of_set)} numbers on ID set {id_set}."
        elif missing:
            texts = _grouped(missing)
            yield f"Published, without a counterpart in this run, on ID set {id_set}: {'; '.join(texts)}."


def _grouped(missing: Iterable[Line]) -> list[str]:
    """Texts such as 'near mean, far mean: odin@plain, vim@plain', which combine methods that lack the same places."""
    places: dict[str, dict[str, None]] = {}
    for line in missing:
        places.setdefault(line.label, {})[line.place.removesuffix(f", {line.label}")] = None
    labels: dict[str, list[str]] = {}
    for label, names in places.items():
        labels.setdefault(", ".join(names), []).append(label)
    return [f"{names}: {', '.join(methods)}" for names, methods in labels.items()]


def against_text(run: StoredRun, reference: Reference, width: int = 100) -> str:
    """The comparison for a terminal: one heading per cell, one line per metric, notes below."""
    stacks, legend = _parts(run, reference)
    return stacked_text(_title(run, reference), stacks, NOTHING, legend, width)


def against_markdown(run: StoredRun, reference: Reference) -> str:
    """The comparison as Markdown: one table per ID set, notes below."""
    stacks, legend = _parts(run, reference)
    return stacked_markdown(_title(run, reference), stacks, NOTHING, legend)


def _parts(run: StoredRun, reference: Reference) -> tuple[list[Stack], list[str]]:
    lines = compare(run, reference)
    matched = _matched(lines)
    notes = _footnotes(matched)
    ruled = any(line.ruled for line in matched)
    heads = ("ours", *(("by its rules",) if ruled else ()), "published", "difference")
    stacks = [
        Stack(id_set, heads, tuple(_item(line, notes, ruled) for line in matched if line.id_set == id_set))
        for id_set in dict.fromkeys(line.id_set for line in matched)
    ]
    return stacks, [*_network_note(run, reference), *_legend(lines, matched, notes)]


def _network_note(run: StoredRun, reference: Reference) -> Iterator[str]:
    """Of a reference with several networks: which of them is compared, or that none is the run's."""
    networks = [first_of(name) for name in reference.networks]
    if len(networks) < 2:
        return
    used = ", ".join(sorted({record.backbone for record in run.records} - {""})) or "an unknown network"
    if of_the_runs_networks(run, reference) is reference.values:
        yield f"Published for {', '.join(networks)}; this run's network is another: {used}."
    else:
        yield f"Published for {len(networks)} networks; compared is this run's: {used}."


def _item(line: Line, notes: Mapping[str, int], ruled: bool) -> Item:
    ours, published, difference = _numbers(line)
    by_rules = (_percent(line.ruled, line),) if ruled else ()
    numbers = (ours, *by_rules, published, difference)
    return Item(line.place, _flags(line, notes), TITLES[line.published.metric], numbers)


def against_csv(run: StoredRun, reference: Reference) -> str:
    """The comparison as CSV, with every number for the run's networks: percent and points, six decimals for ours."""
    columns = (
        "id_set", "ood_set", "group", "label", "metric", "status", "ours_percent", "ours_std", "seeds",
        "by_its_rules_percent", "published_percent", "published_std", "difference_points",
        "mark", "differs", "source", "note",
    )  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for line in compare(run, reference):
        published, ours = line.published, line.ours
        std = f"{100 * ours.std:.6f}" if ours and ours.std is not None else ""
        writer.writerow([
            line.id_set, line.ood_set, published.group, line.label, published.metric, line.status,
            f"{100 * ours.mean:.6f}" if ours else "", std, ours.n if ours else "",
            f"{100 * line.ruled.mean:.6f}" if line.ruled else "", published.value, published.std,
            "" if line.difference is None else f"{line.difference:.6f}",
            published.mark, "; ".join(line.reasons), published.source, published.note,
        ])  # fmt: skip
    return out.getvalue()
