"""Bars as in the field's papers: one panel per metric, one group of bars per OOD set, one bar per detector.

They suit few detectors; for more, `rows.row_bars` has a row for each.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.options import FEW, Options, explained, marks_of, number_of, order_text, shown
from oodbench.benchmark.views.plots.page import EDGE, GAP, Page, heading, legend
from oodbench.benchmark.views.plots.row_table import BAR_METRICS, scale_of, title_of
from oodbench.benchmark.views.plots.rows import row_bars
from oodbench.benchmark.views.plots.style import Look, plain
from oodbench.benchmark.views.summary import Block, OodSet, TableRow

TALL = 1.25
"""Inches of a panel's height."""


def bars(block: Block, options: Options) -> Figure:
    """The picture of one ID set: upright bars of few detectors, or rows of many."""
    rows, is_sorted = shown(block, options)
    if len(rows) > FEW:
        return row_bars(block, options)
    size, metrics = options.size, options.metrics_or(*BAR_METRICS)
    left = EDGE + measure.width_of("100") + measure.line_height() + 0.16
    pitch = max(0.3 + 0.13 * len(rows), 0.5)  # inches of a group, at least
    across = max(1, min(len(block.sets), int((size.width - EDGE - left - 0.05) / pitch)))
    strips = [block.sets[a : a + across] for a in range(0, len(block.sets), across)]
    width = size.width - EDGE - left - 0.05
    if not size.exact:
        width = min(width, max(across * max(1.25, pitch), 3.0))
        size = size.at_most(left + width + 0.05 + EDGE)
        width = size.width - EDGE - left - 0.05
    group = width / across
    upright = all(measure.width_of(word) <= group - 0.06 for ood in block.sets for word in ood.heading.split())
    names = [_heading(ood, group, upright) for ood in block.sets]
    room = max(measure.height_of(n) if upright else measure.width_of(n) for n in names) + 0.08
    titles = [measure.folded(title_of(metric), width) for metric in metrics]
    panels = [measure.height_of(title) + 0.06 for title in titles]
    key = legend(handles(rows, options), [options.name(row.label) for row in rows], size.inner)
    top = heading(
        size, f"Detectors, ID set {block.id_set}", _detail(block, rows, metrics, options, is_sorted), options.remark
    )
    fixed = top.height + key.height + 1.5 * GAP + len(strips) * (sum(panels) + len(metrics) * 0.1 + room) + EDGE
    factor = options.size.stretch(fixed, len(strips) * len(metrics) * TALL, 0.45)
    page = Page.of(size.width, options.size.height or fixed + len(strips) * len(metrics) * TALL)
    top.draw(page)
    y = top.height + GAP / 2
    key.draw(page, EDGE, y)
    y += key.height + GAP
    for s, strip in enumerate(strips):
        for metric, title, over in zip(metrics, titles, panels, strict=True):
            axes = page.axes(left, y + over, group * len(strip), factor * TALL)
            draw_groups(axes, rows, strip, metric, options)
            axes.set_title(plain(title), pad=3, loc="left")
            y += over + factor * TALL + 0.1
        texts = [plain(name) for name in names[s * across : s * across + len(strip)]]
        axes.set_xticks(range(len(strip)), texts, rotation=0 if upright else 90)
        axes.tick_params(axis="x", length=0, pad=2)
        y += room
    return page.figure


def _heading(ood: OodSet, group: float, upright: bool) -> str:
    return measure.folded(ood.heading.replace(" (", "\n(", 1), group - 0.04 if upright else 1.6)


def handles(rows: Sequence[TableRow], options: Options) -> list[Patch]:
    """The patches of the legend."""
    return [Patch(**_bar(options.looks[row.label])) for row in rows]


def _bar(look: Look) -> dict[str, Any]:
    return {"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "black", "linewidth": 0.4}


def _detail(
    block: Block, rows: Sequence[TableRow], metrics: Sequence[Metric], options: Options, is_sorted: bool
) -> list[str]:
    cells = [
        (row.cells[ood.name], number_of(row, ood, metric)) for row in rows for ood in block.sets for metric in metrics
    ]
    parts = [order_text(block, options)] if is_sorted else []
    parts += [f"{len(rows)} of {len(block.rows)} detectors"] if len(rows) < len(block.rows) else []
    if options.seeds > 1:
        parts.append(f"mean and std over {options.seeds} seeds")
    elif any(stat and stat.interval for _, stat in cells):
        parts.append("lines: 95% over draws of test images")
    parts += explained("".join(marks_of([cell], stat, options.seeds) for cell, stat in cells), options.seeds)
    parts += ["x no result"] if any(stat is None for _, stat in cells) else []
    return parts


def draw_groups(axes: Axes, rows: Sequence[TableRow], sets: Sequence[OodSet], metric: Metric, options: Options) -> None:
    """Draw one metric: a group of bars per OOD set."""
    share = min(0.84 / max(len(rows), 1), 0.28)
    scale = scale_of(metric)
    for i, row in enumerate(rows):
        _series(axes, row, sets, metric, (i - (len(rows) - 1) / 2) * share, share, options)
    axes.set_xlim(-0.5, len(sets) - 0.5)
    if metric.is_percent:
        axes.set_ylim(0, 109)
        axes.set_yticks([0, 25, 50, 75, 100])
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(sets)), [""] * len(sets))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.5)
    axes.set_axisbelow(True)
    lost = [
        j + (i - (len(rows) - 1) / 2) * share
        for i, row in enumerate(rows)
        for j, ood in enumerate(sets)
        if number_of(row, ood, metric) is None
    ]
    axes.plot(lost, [0.03 * 100 if scale == 100 else 0.0] * len(lost), "kx", markersize=3)


def _series(
    axes: Axes, row: TableRow, sets: Sequence[OodSet], metric: Metric, offset: float, share: float, options: Options
) -> None:
    """Draw one detector's bars, with the std over seeds, or the interval where there is one seed."""
    scale = scale_of(metric)
    found = [
        (j + offset, stat, row.cells[ood.name]) for j, ood in enumerate(sets) if (stat := number_of(row, ood, metric))
    ]
    axes.bar(
        [x for x, _, _ in found], [scale * stat.mean for _, stat, _ in found], share, **_bar(options.looks[row.label])
    )
    lines = []
    for x, stat, cell in found:
        ends = stat.interval if options.seeds == 1 else None
        if stat.std is not None:
            ends = (stat.mean - stat.std, stat.mean + stat.std)
        if ends:
            lines.append((x, scale * ends[0], scale * ends[1]))
        if marks := marks_of([cell], stat, options.seeds):
            above = max(stat.mean, ends[1] if ends else 0.0)
            axes.text(x, scale * above + 1, marks, ha="center", va="bottom", clip_on=False)
    if lines:
        places, lows, highs = zip(*lines, strict=True)
        axes.vlines(places, lows, highs, colors="black", linewidths=0.8)
