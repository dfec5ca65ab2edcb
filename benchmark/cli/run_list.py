"""The text of `bench list runs`: one row per run, the last one first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.overview import BROKEN, RunOverview, overviews
from oodbench.benchmark.store.sizes import bytes_in, in_bytes

HEADS = (
    *("run", "suite", "ID sets", "detectors", "done", "failed", "skipped", "missing"),
    *("started", "size", "state"),
)
NUMBERS = ("detectors", "done", "failed", "skipped", "missing", "size")
"""Columns that are aligned on the right."""

NAMED = 3
"""Number of ID sets that are named; the others are counted."""


def runs_text(results: Path) -> str:
    """All runs of a results folder; those that cannot be read with the reason."""
    found = overviews(results)
    if not found:
        return "No runs yet."
    rows = [_row(run) for run in found]
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(HEADS)]
    lines = [_line(HEADS, widths), *(_line(row, widths) for row in rows)]
    lines += [f"{visible(run.name)}: {visible(run.problem)}" for run in found if run.state == BROKEN]
    lines.append(f"{len(found)} run{'s' * (len(found) != 1)}; store {results / 'cache'}: {_store_size(results)}.")
    return "\n".join(lines)


def _row(run: RunOverview) -> tuple[str, ...]:
    name = run.name if run.name == run.folder else f"{run.name} ({run.folder})"
    date = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M")
    if run.state == BROKEN:
        return (visible(name), *[""] * 7, date, in_bytes(run.bytes), run.state)
    more = f" +{len(run.id_sets) - NAMED}" if len(run.id_sets) > NAMED else ""
    sets = ", ".join(run.id_sets[:NAMED]) + more
    counts = (run.detectors, run.ok, run.failed, run.skipped, run.missing)
    return (visible(name), visible(run.suite), visible(sets), *map(str, counts), date, in_bytes(run.bytes), run.state)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = (
        cell.rjust(width) if head in NUMBERS else cell.ljust(width)
        for head, cell, width in zip(HEADS, cells, widths, strict=True)
    )
    return "  ".join(aligned).rstrip()


def _store_size(results: Path) -> str:
    return in_bytes(bytes_in(results / "cache"))
