"""One row per detector: dots with intervals, or horizontal bars, of several metrics beside each other.

Both read well for any number of rows: the picture grows downwards, the best row comes first, and near and far means
have a mark each, told apart by form and fill as well as by colour.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.options import (
    Options,
    Series,
    explained,
    order_text,
    shown,
)
from oodbench.benchmark.views.plots.page import EDGE, GAP, Page, heading, legend
from oodbench.benchmark.views.plots.row_marks import NOTHING, bar_handles, dot_handles, draw_bars, draw_dots
from oodbench.benchmark.views.plots.row_table import (
    BAR_METRICS,
    DOT_METRICS,
    RowTable,
    label_column,
    row_table,
    title_of,
)
from oodbench.benchmark.views.plots.style import plain
from oodbench.benchmark.views.summary import Block

LEAST = 0.95
"""Inches of a panel's width, at least."""

MANY = 25
"""With more rows, the numbers of the axis stand at the top as well."""


def dots(block: Block, options: Options) -> Figure:
    """A dot per row and mean, with its interval; a panel per metric."""
    return _picture(block, options, options.metrics_or(*DOT_METRICS), draw_dots, dot_handles)


def row_bars(block: Block, options: Options) -> Figure:
    """A bar per row and mean; a panel per metric."""
    return _picture(block, options, options.metrics_or(*BAR_METRICS), draw_bars, bar_handles)


Draw = Callable[[Axes, RowTable, int], None]
Handles = Callable[[Sequence[Series]], Sequence[Artist]]


def _picture(block: Block, options: Options, metrics: Sequence[Metric], draw: Draw, handles: Handles) -> Figure:
    size = options.size
    rows, is_sorted = shown(block, options)
    column = label_column([options.name(row.label) for row in rows], size)
    table = row_table(block, rows, metrics, options, column, draw is draw_bars)
    key = legend(handles(table.series), [one.name for one in table.series], size.inner)
    top = heading(size, f"Detectors, ID set {block.id_set}", _detail(block, table, options, is_sorted), options.remark)
    left = EDGE + column + 0.08
    room, between = size.width - EDGE - left - 0.12, 0.22
    across = max(1, min(len(metrics), int((room + between) / (LEAST + between))))
    width = (room - (across - 1) * between) / across
    titles = [measure.folded(title_of(metric), width + between - 0.04) for metric in metrics]
    strips = [range(a, min(a + across, len(metrics))) for a in range(0, len(metrics), across)]
    ticks = measure.line_height() + 0.07
    above = [
        max(measure.height_of(titles[i]) for i in s) + 0.05 + (ticks + 0.05 if len(rows) > MANY else 0) for s in strips
    ]
    fixed = top.height + GAP / 2 + key.height + GAP + sum(above) + len(strips) * (ticks + GAP) + EDGE
    factor = size.stretch(fixed, len(strips) * table.height, 1.0)
    page = Page.of(size.width, size.height or fixed + len(strips) * table.height)
    top.draw(page)
    y = top.height + GAP / 2
    key.draw(page, EDGE, y)
    y += key.height + GAP
    for strip, over in zip(strips, above, strict=True):
        for place, metric in enumerate(strip):
            axes = page.axes(left + place * (width + between), y + over, width, factor * table.height)
            draw(axes, table, metric)
            frame_rows(axes, table, metric, width, named=place == 0)
            axes.set_title(plain(titles[metric]), pad=3 if len(rows) <= MANY else 72 * (ticks + 0.05))
        y += over + factor * table.height + ticks + GAP
    return page.figure


def _detail(block: Block, table: RowTable, options: Options, is_sorted: bool) -> list[str]:
    parts = [order_text(block, options)] if is_sorted else []
    if len(table.rows) < len(block.rows):
        parts.append(f"{len(table.rows)} of {len(block.rows)} detectors")
    stats = table.stats.values()
    if any(stat.interval for stat in stats):
        means = any(one.ood is None for one in table.series)
        parts.append("lines: 95% over draws of test images" + (", ends averaged over sets" if means else ""))
    if any(stat.std is not None for stat in stats):
        parts.append(f"ticks: std over {options.seeds} seeds")
    parts += explained("".join(table.marks.values()), options.seeds)
    parts += [f"{NOTHING} no result"] if len(table.stats) < len(table.marks) * len(table.metrics) else []
    return parts


def frame_rows(axes: Axes, table: RowTable, metric: int, width: float, named: bool) -> None:
    """Limits, ticks, names at the left and a pale line through every row."""
    low, high = table.ends(metric)
    axes.set(xlim=(low, high), ylim=(table.height, 0))
    most = max(2, int(width / 0.32))
    ticks = [tick for tick in MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if len(table.rows) > MANY:
        axes.tick_params(axis="x", top=True, labeltop=True)
        axes.spines["top"].set_visible(True)
    middles = [table.middle(i) for i in range(len(table.rows))]
    axes.hlines(middles, low, high, colors="#E9E9E9", linewidths=0.5, zorder=0)
    axes.vlines(ticks, 0, table.height, colors="#E9E9E9", linewidths=0.5, zorder=0)
    axes.set_yticks(middles, [plain(name) for name in table.names] if named else [""] * len(middles))
    axes.tick_params(axis="y", length=0, pad=4)
    if named:
        for text, strong in zip(axes.get_yticklabels(), table.bold, strict=True):
            text.set_fontweight("bold" if strong else "normal")
