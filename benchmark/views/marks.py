"""How a table's numbers are printed and marked: bold for the best of a column, the signs after a number, and warnings.

Warnings are about numbers that are exact and may still mislead.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from oodbench.benchmark.metrics.names import LOWER_IS_BETTER, METRICS
from oodbench.benchmark.records.record import Record

if TYPE_CHECKING:
    from oodbench.benchmark.views.summary import Stat, Summary

MAYBE, SEEN, FEWER, DASH = "°", "†", "‡", "\N{EN DASH}"
"""May be the best; seen; over fewer seeds; no number."""

SEEDS = "§"
"""Marks an interval over draws of test images that is smaller than the variation over training seeds."""

WARNED = "¶"
"""Marks a number with a warning."""

CONSTANT, EXPECTED, TIED, REVERSED = "one score", "one score, as expected", "tied", "reversed"
"""The kinds of warnings."""

TIED_SHARE = 0.01
"""Share of a set's scores: if more of them are equal to the threshold, there is a warning."""

SENTENCES = {
    CONSTANT: "Warning: all images of a set have the same score, so that nothing is told apart within it",
    EXPECTED: "A sanity row gives all images the same score, as it is meant to: these are the numbers of a detector "
    "that knows nothing",
    TIED: "Warning: more than 1% of a set's images have exactly the score at which 95% of ID is accepted; TNR95 counts "
    "all of them as accepted",
    REVERSED: "Warning: AUROC under 50% on a far OOD set, whose images the score ranks as more in-distribution than "
    "those of the ID set",
}
"""Kind of warning -> its sentence under the tables; the cells it applies to follow."""

_DOUBTFUL: Mapping[str, tuple[str, ...]] = {
    CONSTANT: METRICS,
    EXPECTED: (),
    TIED: ("tnr_at_tpr95", "fpr_at_tpr95"),
    REVERSED: ("auroc",),
}
"""Kind of warning -> the metrics that it makes doubtful."""

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


# Intervals over draws of test images


def seeds_scatter_more(stat: Stat) -> bool:
    """Whether a number varies more with the training seed than with the draw of test images."""
    return stat.std is not None and stat.image_error is not None and stat.std > stat.image_error


def image_lines(summary: Summary, column: str) -> Iterator[str]:
    """Lines of the legend on the uncertainty from test images.

    `column` is the title of the table's column of intervals, empty if it has none.
    """
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
    sentence = (
        f"Test images: the 95% interval of AUROC over draws of test images is {_points(widths.values())} points wide "
        f"in the median cell, {_points([widths[widest]])} in the widest ({widest})."
    )
    yield f"{sentence} {_seeds_line(spread) if spread else 'What training seeds add, --seeds 3 shows.'}"
    if column:
        mark = f", {SEEDS} where the std over seeds is the larger" if spread else ""
        yield f"{column}: that interval{', its ends averaged over seeds' * bool(spread)}{mark}."


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


# Warnings


def warnings_of(records: Sequence[Record]) -> dict[str, str]:
    """Kind of warning -> its details for one cell, given the records of the cell's seeds; empty if there is none.

    Records of older versions lack what most warnings need, and give none. A constant score is also tied at the
    threshold, which is not reported in addition. A sanity row's AUROC may be under 50% without a warning.
    """
    sanity = any(record.sanity for record in records)
    if kinds := sorted({kind for record in records for kind in _constant_over(record)}):
        return {EXPECTED if sanity else CONSTANT: " and ".join(kinds)}
    if sanity:
        return {}
    found = {}
    shares = {kind: max((_share_tied(record, kind) for record in records), default=0.0) for kind in ("id", "ood")}
    if max(shares.values()) > TIED_SHARE:
        found[TIED] = ", ".join(f"{100 * share:.1f}% of {kind.upper()}" for kind, share in shares.items())
    areas = [record.metrics["auroc"] for record in records if record.group == "far" and "auroc" in record.metrics]
    if areas and sum(areas) / len(areas) < 0.5:
        found[REVERSED] = f"{100 * sum(areas) / len(areas):.1f}"
    return found


def _constant_over(record: Record) -> Iterator[str]:
    """'ID' and 'OOD', if all images of that set have the same score and there is more than one image."""
    for kind, images in (("id", record.n_id), ("ood", record.n_ood)):
        if record.ties.get(f"distinct_{kind}") == 1 and images != 1:
            yield kind.upper()


def _share_tied(record: Record, kind: str) -> float:
    """Share of a set's scores equal to the threshold; 0 for the one ID score that always is."""
    images, equal = (record.n_id if kind == "id" else record.n_ood), record.ties.get(f"at_threshold_{kind}", 0)
    return equal / images if images and equal > (kind == "id") else 0.0


def doubtful(warnings: Mapping[str, str], metric: str) -> bool:
    """Whether a cell's warnings concern its value of `metric`, which then gets the mark."""
    return any(metric in _DOUBTFUL[kind] for kind in warnings)


def warning_lines(summary: Summary) -> Iterator[str]:
    """One line per kind of warning, with the cells it applies to."""
    for kind, sentence in SENTENCES.items():
        places = [
            f"{block.id_set}, {row.label}, {name}: {cell.warnings[kind]}"
            for block in summary.blocks
            for row in block.rows
            for name, cell in row.cells.items()
            if kind in cell.warnings
        ]
        if places:
            more = f"; and {len(places) - SHOWN} more cells" if len(places) > SHOWN else ""
            yield f"{sentence} ({'; '.join(places[:SHOWN])}{more})"
