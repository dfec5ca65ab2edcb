"""How a table's numbers are printed and marked: bold for the best of a column, and the signs after a number."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import counted
from oodbench.benchmark.metrics.names import LOWER_IS_BETTER
from oodbench.benchmark.records.record import NOT_TRAINED
from oodbench.benchmark.views.warnings import SENTENCES

if TYPE_CHECKING:
    from oodbench.benchmark.views.summary import Stat, Summary


MAYBE, SEEN, FEWER, DASH = "°", "†", "‡", "\N{EN DASH}"
"""May be the best; seen; over fewer seeds; no number."""

SEEDS = "§"
"""Marks an interval over draws of test images that is smaller than the variation over training seeds."""

FEW_GROUPS = 10
"""Sets with fewer groups are named under the table: the critical value of t is then at least 15% above the normal."""

SHOWN = 3
"""Cells named per warning; the others are only counted."""


def percent(value: float) -> str:
    """A fraction as every table prints it."""
    return f"{100 * value:.1f}"


def bold_rows(stats: Sequence[Stat | None], metric: str) -> frozenset[int]:
    """Which rows of a column are bold: those with the best mean as printed. None if all are equal or only one has one.

    `stats` has one entry per row, None for rows that do not compete.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    shown = {i: sign * float(percent(stat.mean)) for i, stat in enumerate(stats) if stat}
    if len(set(shown.values())) < 2:
        return frozenset()
    return frozenset(i for i, value in shown.items() if value == max(shown.values()))


def seeds_scatter_more(stat: Stat) -> bool:
    """Whether a number varies more with the training seed than with the draw of test images."""
    return stat.std is not None and stat.image_error is not None and stat.std > stat.image_error


def image_lines(summary: Summary, column: str) -> Iterator[str]:
    """Lines of the legend on the uncertainty from test images.

    `column` is the title of the table's column of intervals, empty if it has none.
    """
    known = {
        (block.id_set, row.label, name): stat
        for block in summary.blocks
        for row in block.rows
        for name, cell in row.cells.items()
        if (stat := cell.stats.get("auroc")) and stat.interval
    }
    if not known:
        return
    widths = {place: ends[1] - ends[0] for place, stat in known.items() if (ends := stat.interval)}
    widest = max(widths, key=lambda place: widths[place])
    spread = [stat for stat in known.values() if stat.std is not None]
    groups = _few_groups(summary)
    why = " and ".join(_counted(groups, name) for name in (widest[0], widest[2]) if name in groups)
    where = ", ".join(widest) + f": {why}" * bool(why)
    sentence = (
        f"Test images: the 95% interval of AUROC over draws of test images is {_points(widths.values())} points wide "
        f"in the median cell, {_points([widths[widest]])} in the widest ({where})."
    )
    more = _seeds_line(spread) if spread else "What training seeds add, --seeds 3 shows." if _trains(summary) else ""
    yield f"{sentence} {more}".rstrip()
    if groups:
        counts = ", ".join(_counted(groups, name) for name in groups)
        yield (
            "Intervals are wide where a set has few independent groups, whatever its number of images, because images "
            f"of one group (one photograph, one writer, one font) resemble each other: {counts}."
        )
    if column:
        mark = f", {SEEDS} where the std over seeds is the larger" if spread else ""
        yield f"{column}: that interval{', its ends averaged over seeds' * bool(spread)}{mark}."


def _trains(summary: Summary) -> bool:
    """Whether a network of the run was trained here, so that other seeds would give other numbers."""
    return any(row.first.recipe not in NOT_TRAINED for block in summary.blocks for row in block.rows)


def _few_groups(summary: Summary) -> dict[str, int]:
    """Name of a set -> its number of independent groups, for sets with fewer than `FEW_GROUPS`."""
    found: dict[str, int | None] = {}
    for block in summary.blocks:
        for one in block.sets:
            found |= {block.id_set: one.id_groups, one.name: one.ood_groups}
    return {name: count for name, count in found.items() if count is not None and count < FEW_GROUPS}


def _counted(groups: Mapping[str, int], name: str) -> str:
    return f"{groups[name]} group{'s' * (groups[name] != 1)} in {name}"


def _seeds_line(stats: Sequence[Stat]) -> str:
    more = sum(map(seeds_scatter_more, stats))
    seeds, images = _points(stat.std or 0.0 for stat in stats), _points(stat.image_error or 0.0 for stat in stats)
    return (
        f"The std over seeds is larger than the images' standard error in {more} of {len(stats)} cells "
        f"(medians {seeds} and {images} points)."
    )


def _points(values: Iterable[float]) -> str:
    """The median of fractions, in percentage points."""
    return f"{100 * statistics.median(values):.1f}"


def warning_lines(summary: Summary, kinds: Iterable[str]) -> Iterator[str]:
    """One line per kind of warning, with the cells it applies to."""
    for kind in kinds:
        sentence = SENTENCES[kind]
        places = [
            f"{block.id_set}, {row.label}, {name}: {cell.warnings[kind]}"
            for block in summary.blocks
            for row in block.rows
            for name, cell in row.cells.items()
            if kind in cell.warnings
        ]
        if places:
            more = f"; and {counted(len(places) - SHOWN, 'more cell')}" if len(places) > SHOWN else ""
            yield f"{sentence} ({'; '.join(places[:SHOWN])}{more})"
