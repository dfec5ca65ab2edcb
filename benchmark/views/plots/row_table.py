"""The rows of a picture with one row per detector: names, places, numbers and the ends of their axes."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.options import (
    Options,
    Series,
    marks_of,
    series_of,
)
from oodbench.benchmark.views.plots.page import Size
from oodbench.benchmark.views.summary import Block, Stat, TableRow

DOT_METRICS = ("auroc", "fpr_at_tpr95")
BAR_METRICS = ("tnr_at_tpr95", "auroc", "detection_accuracy")

PAD = 0.035
"""Inches between rows, in addition to the text's own leading."""

BEYOND = 0.35
"""How far an axis is extended for intervals, in units of the range of the numbers; an arrow shows that one goes on."""


@dataclass(frozen=True)
class RowTable:
    """The rows of a picture: names folded to a column, the place of each, and their numbers."""

    rows: Sequence[TableRow]
    names: Sequence[str]
    bold: Sequence[bool]
    tops: Sequence[float]
    """Distance of each row's upper end from the top of the panel, in inches; one more, the height of all."""
    series: Sequence[Series]
    metrics: Sequence[Metric]
    stats: dict[tuple[str, int, int], Stat]
    """(label, place of the series, place of the metric) -> the number."""
    marks: dict[tuple[str, int], str]
    """(label, place of the series) -> marks as in the tables, of the first metric."""
    from_zero: bool = False
    """Whether axes begin at 0, as bars need."""

    @property
    def height(self) -> float:
        """The height of all rows, in inches."""
        return self.tops[-1]

    def middle(self, row: int) -> float:
        """Where a row's middle is, in inches from the top."""
        return (self.tops[row] + self.tops[row + 1]) / 2

    def ends(self, metric: int) -> tuple[float, float]:
        """The ends of a metric's axis: wide enough for all numbers, and for intervals that are not much wider."""
        scale = scale_of(self.metrics[metric])
        stats = [stat for (_, _, place), stat in self.stats.items() if place == metric]
        means = [scale * stat.mean for stat in stats] + ([0.0] if self.from_zero else [])
        if not means:
            return limits([], self.metrics[metric])
        room = BEYOND * (max(means) - min(means))
        ends = [scale * end for stat in stats for end in _errors(stat)]
        low = max(min([*means, *ends]), min(means) - room)
        high = min(max([*means, *ends]), max(means) + room)
        found = limits([low, high], self.metrics[metric])
        return (0.0 if self.from_zero and low >= 0 else found[0]), found[1]


def row_table(
    block: Block,
    rows: Sequence[TableRow],
    metrics: Sequence[Metric],
    options: Options,
    width: float,
    from_zero: bool = False,
) -> RowTable:
    """Collect the numbers of a block's rows, with their names in lines of at most `width` inches."""
    bold = [row.label in options.highlight for row in rows]
    names = [
        measure.folded(options.name(row.label), width, None, "bold" if strong else "normal")
        for row, strong in zip(rows, bold, strict=True)
    ]
    series = series_of(block)
    room = measure.line_height() * (1 if len(series) < 3 else len(series) / 2)
    heights = [max(measure.height_of(name), room) + PAD for name in names]
    stats: dict[tuple[str, int, int], Stat] = {}
    marks: dict[tuple[str, int], str] = {}
    for row in rows:
        for i, one in enumerate(series):
            found = [one.stat(block, row, metric) for metric in metrics]
            stats |= {(row.label, i, j): stat for j, stat in enumerate(found) if stat}
            marks[row.label, i] = marks_of(one.cells(block, row), found[0] if found else None, options.seeds)
    return RowTable(rows, names, bold, [0.0, *accumulate(heights)], series, metrics, stats, marks, from_zero)


def scale_of(metric: Metric) -> float:
    """What a metric's values are multiplied by to be shown: 100 for percent."""
    return 100.0 if metric.is_percent else 1.0


def title_of(metric: Metric) -> str:
    """A metric's title on an axis, with its unit, and the direction where lower is better."""
    unit = "%" if metric.is_percent else "nats"
    return f"{metric.full_title} ({unit}{', lower is better' if metric.lower_is_better else ''})"


def label_column(names: Sequence[str], size: Size) -> float:
    """Inches for names at the left: what the widest needs, up to about a third of a page, and nearly half a column."""
    most = (0.45 if size.narrow else 0.37) * size.inner
    return min(measure.widest(names, None, "bold") + 0.02, most)


def _errors(stat: Stat) -> list[float]:
    """The ends of a number's interval, and of its std over seeds."""
    spread = [stat.mean - stat.std, stat.mean + stat.std] if stat.std is not None else []
    return [*(stat.interval or ()), *spread]


def limits(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The ends of an axis that shows all values: at multiples of 5 for percent, with room for a mark."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    if not metric.is_percent:
        room = 0.06 * ((high - low) or 1.0)
        return low - room, high + room
    low, high = max(0.0, 5 * math.floor(low / 5)), min(100.0, 5 * math.ceil(high / 5))
    low, high = (low, high) if high - low >= 5 else (max(0.0, low - 5), high)
    room = 0.04 * (high - low)
    return low - room, high + room
