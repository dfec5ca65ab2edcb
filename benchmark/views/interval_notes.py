"""What the finite number of test images leaves open, in words, beside what the training seeds do."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from oodbench.benchmark.views.summary import Stat, Summary

SEEDS = "§"
"""Marks an interval over draws of test images where the training seeds scatter more."""


def seeds_scatter_more(stat: Stat) -> bool:
    """Whether a number moves more with the training seed than with the draw of test images."""
    return stat.std is not None and stat.image_error is not None and stat.std > stat.image_error


def image_lines(summary: Summary, column: str) -> Iterator[str]:
    """For the legend; `column` is the title of the table's column of intervals, empty where it has none."""
    known = {
        f"{block.id_set}, {row.label}, {name}": stat
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
    told = (
        f"Test images: the 95% interval of AUROC over draws of test images is {_points(widths.values())} points wide "
        f"in the median cell, {_points([widths[widest]])} in the widest ({widest})."
    )
    yield f"{told} {_beside(spread) if spread else 'What training seeds add, --seeds 3 shows.'}"
    if column:
        mark = f", {SEEDS} where the std over seeds is the larger" if spread else ""
        yield f"{column}: that interval{', its ends averaged over seeds' * bool(spread)}{mark}."


def _beside(stats: Sequence[Stat]) -> str:
    more = sum(map(seeds_scatter_more, stats))
    seeds, images = _points(stat.std or 0.0 for stat in stats), _points(stat.image_error or 0.0 for stat in stats)
    return (
        f"The std over seeds is larger than the images' standard error in {more} of {len(stats)} cells "
        f"(medians {seeds} and {images} points)."
    )


def _points(values: Iterable[float]) -> str:
    """The median of fractions, in percentage points."""
    return f"{100 * statistics.median(values):.1f}"
