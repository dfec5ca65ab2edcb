"""The lines on tuning spread under a table: how far a row's AUROC depends on what its settings were chosen on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.views.marks import percent

if TYPE_CHECKING:
    from oodbench.benchmark.views.summary import Block, Summary, TableRow


def spread_lines(summary: Summary) -> Iterator[str]:
    """One line per ID set with rows that have a tuning spread, after one that says what it is."""
    lines = [line for block in summary.blocks if (line := _line(block))]
    if lines:
        yield (
            "Tuning spread: how many points a row's AUROC may change with the images that its settings are chosen on, "
            "the largest minus the smallest AUROC with the settings that each source alone would have chosen, "
            "averaged over OOD sets."
        )
    yield from lines


def _line(block: Block) -> str:
    """The rows with a spread, those that depend most on tuning first."""
    found = {row.label: spreads for row in block.rows if (spreads := _spreads(block, row))}
    if not found:
        return ""
    ordered = sorted(found, key=lambda label: -max(found[label].values()))
    texts = [
        f"{visible(label)} {', '.join(f'{group} {percent(value)}'.strip() for group, value in found[label].items())}"
        for label in ordered
    ]
    return f"Tuning spread on {visible(block.id_set)}: {'; '.join(texts)}."


def _spreads(block: Block, row: TableRow) -> dict[str, float]:
    """Group -> mean spread over the OOD sets that the row's means are over, and over seeds."""
    values: dict[str, list[float]] = {}
    for ood in block.averaged:
        for record in row.records.get(ood.name, {}).values():
            if record.status == OK and "spread" in record.tuned:
                values.setdefault(ood.group, []).append(float(record.tuned["spread"]))
    return {group: math.fsum(spreads) / len(spreads) for group, spreads in values.items()}
