"""The stability lines under a table: whether slight changes of ID test images move a detector's scores."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import visible
from oodbench.benchmark.metrics.names import STABILITY
from oodbench.benchmark.views.marks import SHOWN, percent

if TYPE_CHECKING:
    from oodbench.benchmark.views.summary import Block, Summary

NOTICED = 0.6
"""AUROC from which on a score counts as noticing a change; as does one under 1 - NOTICED, which takes the changed
images for more in-distribution."""

SAID = dict(
    zip(
        STABILITY,
        ("tint", "one grey level more", "one grey level less", "shift by one pixel", "JPEG"),
        strict=True,
    )
)
"""Change -> how the line names it."""

Areas = Mapping[str, float]
"""Row label -> AUROC of changed against unchanged images, averaged over seeds."""


def stability_lines(summary: Summary) -> Iterator[str]:
    """One line per ID set whose records have stability, after one that says what the numbers are."""
    lines = [line for block in summary.blocks for line in _lines(block)]
    if lines:
        yield (
            "Stability: AUROC of slightly changed ID test images against the same images unchanged; 50: the score does "
            "not notice. Tint: red 13 of 255 grey levels up, blue 13 down, two grey levels up for a grey "
            "network; JPEG: quality 90. A detector that notices may tell OOD images by the same cue, whatever they "
            "show."
        )
    yield from lines


def _lines(block: Block) -> Iterator[str]:
    found = {change: areas for change in STABILITY if (areas := _areas(block, change))}
    if not found:
        return
    texts = [f"{SAID[change]}: {_range(areas)}" for change, areas in found.items()]
    yield f"Stability on {visible(block.id_set)}: {'; '.join(texts)}."
    noticing: dict[str, list[str]] = {}
    for change, areas in found.items():
        for label, area in areas.items():
            if not 1 - NOTICED <= area <= NOTICED:
                noticing.setdefault(label, []).append(f"{SAID[change]} {percent(area)}")
    if noticing:
        named = sorted(noticing, key=lambda label: -max(_distance(found[c].get(label, 0.5)) for c in found))
        texts = [f"{visible(label)} ({', '.join(noticing[label])})" for label in named[:SHOWN]]
        others = ", ".join(map(visible, named[SHOWN:]))
        yield (
            f"Warning: scores that notice slight changes on {visible(block.id_set)} (AUROC above {percent(NOTICED)} or "
            f"under {percent(1 - NOTICED)}): {'; '.join(texts)}" + f"; also {others}" * bool(others) + "."
        )


def _areas(block: Block, change: str) -> Areas:
    """The AUROC of a change for every row that has it, except for sanity rows."""
    return {row.label: row.stability[change] for row in block.rows if change in row.stability and not row.first.sanity}


def _range(areas: Areas) -> str:
    """The row furthest from 50, and the median over rows."""
    worst = max(areas, key=lambda label: _distance(areas[label]))
    if len(areas) == 1:
        return f"{visible(worst)} {percent(areas[worst])}"
    return f"{visible(worst)} {percent(areas[worst])} (worst), median {percent(statistics.median(areas.values()))}"


def _distance(area: float) -> float:
    return abs(area - 0.5)
