"""The marks of a picture with one row per detector: dots with intervals, and bars."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from oodbench.benchmark.views.plots.options import (
    Series,
)
from oodbench.benchmark.views.plots.row_table import PAD, RowTable, scale_of
from oodbench.benchmark.views.plots.style import DARK, setting
from oodbench.benchmark.views.summary import Stat

FORMS = ("o", "D", "s", "^")
"""Marks of a row; filled and open ones alternate."""

BAR_HATCHES = ("", "////", "....", "xxxx")

NOTHING = "x"


def look_of(place: int, series: Sequence[Series]) -> tuple[str, str, bool]:
    """Form, colour and whether it is filled, of a series' mark."""
    groups = setting("groups")
    group = series[place].group
    colours = list(groups.values())
    distinct = len({one.group for one in series}) == len(series)
    colour = groups.get(group, groups[""]) if distinct else colours[place % len(colours)]
    return FORMS[place % len(FORMS)], colour, place % 2 == 0


def dot_handles(series: Sequence[Series]) -> list[Line2D]:
    """The legend's marks."""
    return [Line2D([], [], linestyle="-", linewidth=1.4, **_dot(i, series)) for i in range(len(series))]


def _dot(place: int, series: Sequence[Series]) -> dict[str, Any]:
    form, colour, filled = look_of(place, series)
    face = colour if filled else "white"
    return {
        "marker": form, "color": colour, "markersize": 4.6 if form == "o" else 4.0, "markerfacecolor": face,
        "markeredgecolor": colour, "markeredgewidth": 1.0,
    }  # fmt: skip


def draw_dots(axes: Axes, table: RowTable, metric: int) -> None:
    """Draw the dots of one metric, the first series uppermost, each a little above or below the row's middle."""
    scale, count = scale_of(table.metrics[metric]), len(table.series)
    for i in reversed(range(count)):
        _, colour, _ = look_of(i, table.series)
        shift = (i - (count - 1) / 2) * min(0.05, 0.1 / count)
        found = [
            (table.middle(k) + shift, table.stats.get((row.label, i, metric)), row) for k, row in enumerate(table.rows)
        ]
        lines = [[(scale * a, y) for a in stat.interval] for y, stat, _ in found if stat and stat.interval]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.3, zorder=2), autolim=False)
        _arrows(axes, lines, table.ends(metric), colour)
        spread = [
            (scale * (stat.mean + sign * stat.std), y)
            for y, stat, _ in found
            if stat and stat.std is not None
            for sign in (-1, 1)
        ]
        if spread:
            axes.plot(*zip(*spread, strict=True), linestyle="", marker="|", color=colour, markersize=5, zorder=2.4)
        drawn = [(scale * stat.mean, y) for y, stat, _ in found if stat]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), linestyle="", zorder=3 - 0.1 * i, **_dot(i, table.series))
        _extras(axes, table, i, metric, [(y, stat, row.label) for y, stat, row in found])


def _arrows(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]], ends: tuple[float, float], colour: str) -> None:
    """A small arrow where an interval goes on beyond the axis."""
    look: dict[str, Any] = {"linestyle": "", "color": colour, "markersize": 3.2, "clip_on": False, "zorder": 2}
    left = [line[0][1] for line in lines if line[0][0] < ends[0]]
    right = [line[1][1] for line in lines if line[1][0] > ends[1]]
    axes.plot([ends[0]] * len(left), left, marker="<", **look)
    axes.plot([ends[1]] * len(right), right, marker=">", **look)


def _extras(
    axes: Axes, table: RowTable, series: int, metric: int, found: Sequence[tuple[float, Stat | None, str]]
) -> None:
    """Marks behind numbers, and a cross at the edge where there is no number."""
    low, high = table.ends(metric)
    scale = scale_of(table.metrics[metric])
    for y, stat, label in found:
        marks = table.marks[label, series]
        if stat is not None and marks:
            at, align = scale * stat.mean, "left"
            if at > (low + high) / 2:
                align = "right"
            axes.annotate(
                marks, (at, y), (5 if align == "left" else -5, 0), textcoords="offset points", ha=align, va="center",
                color=DARK, zorder=4, bbox={"boxstyle": "square,pad=0", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
    lost = [y for y, stat, _ in found if stat is None]
    if lost:
        colour = look_of(series, table.series)[1]
        axes.plot([low + 0.02 * (high - low)] * len(lost), lost, NOTHING, color=colour, markersize=3.5, zorder=3)


def bar_handles(series: Sequence[Series]) -> list[Patch]:
    """The legend's patches."""
    return [Patch(**_bar(i, series)) for i in range(len(series))]


def _bar(place: int, series: Sequence[Series]) -> dict[str, Any]:
    colour = look_of(place, series)[1]
    red, green, blue = to_rgb(colour)
    light = (1 - 0.45 * (1 - red), 1 - 0.45 * (1 - green), 1 - 0.45 * (1 - blue))
    hatch = BAR_HATCHES[place % len(BAR_HATCHES)]
    return {"facecolor": light if hatch else colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.4}


def draw_bars(axes: Axes, table: RowTable, metric: int) -> None:
    """Draw the bars of one metric, the first series uppermost."""
    scale, count = scale_of(table.metrics[metric]), len(table.series)
    for i in range(count):
        found = [
            (table.tops[k] + PAD / 2 + (table.tops[k + 1] - table.tops[k] - PAD) * (i + 0.5) / count, row)
            for k, row in enumerate(table.rows)
        ]
        stats = [(y, table.stats.get((row.label, i, metric)), row.label) for y, row in found]
        drawn = [(y, scale * stat.mean) for y, stat, _ in stats if stat]
        heights = [
            (table.tops[k + 1] - table.tops[k] - PAD) / count
            for k, row in enumerate(table.rows)
            if (row.label, i, metric) in table.stats
        ]
        if drawn:
            axes.barh([y for y, _ in drawn], [x for _, x in drawn], heights, **_bar(i, table.series))
        lines = [[(scale * a, y) for a in stat.interval] for y, stat, _ in stats if stat and stat.interval]
        for colour, width in (("white", 2.2), ("black", 0.8)):  # also on a black bar
            axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, zorder=3), autolim=False)
        _arrows(axes, lines, table.ends(metric), "black")
        _extras(axes, table, i, metric, stats)
