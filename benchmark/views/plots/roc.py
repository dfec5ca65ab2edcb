"""ROC curves: one panel per OOD set; the best detectors of many, and named ones, in colour, the rest in grey."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.options import Options, in_colour, order_text
from oodbench.benchmark.views.plots.page import EDGE, GAP, Legend, Page, Size, heading, legend
from oodbench.benchmark.views.plots.scores import Curve, PairScores, curve_of
from oodbench.benchmark.views.plots.style import Look, setting
from oodbench.benchmark.views.summary import Block, OodSet

PALE_POINTS = 120

LARGEST, SMALLEST = 2.3, 0.55
"""Inches of a panel's side, at most; and the factor by which a given height may make it lower."""

X_TITLE, Y_TITLE = "FPR (OOD accepted)", "TPR (ID accepted)"


@dataclass(frozen=True)
class PanelCurves:
    """What one panel shows."""

    coloured: Mapping[str, Curve]
    pale: Sequence[Curve]
    missing: Mapping[str, int]
    """Why curves are missing -> how many."""
    rows: int
    floor: float | None
    """The lowest rate on a logarithmic axis."""


def roc(block: Block, scores: PairScores, options: Options) -> Figure:
    """The picture of one ID set: a panel per OOD set, and one legend."""
    front = [row.label for row in in_colour(block, options)]
    looks = {label: options.looks[label] for label in front}
    key = roc_key(looks, options, len(block.rows) - len(front))
    panels = [curves(block, ood, scores, options, front) for ood in block.sets]
    plan = _Plan.of(block, key, options.size, options.log_fpr)
    best = f"{len(front)} of {len(block.rows)} in colour, {order_text(block, options)}"
    detail = ["ID positive; grey line: 95% of ID accepted"]
    detail += [best] if len(block.rows) > len(front) else []
    top = heading(plan.size, f"ROC, ID set {block.id_set}", [*detail, options.seed], options.remark)
    fixed = top.height + plan.fixed
    factor = options.size.stretch(fixed, plan.rows * plan.side, SMALLEST)
    page = Page.of(plan.size.width, options.size.height or fixed + plan.rows * plan.side)
    top.draw(page)
    height, y = factor * plan.side, top.height + GAP / 2
    for i, (found, ood) in enumerate(zip(panels, block.sets, strict=True)):
        row, column = divmod(i, plan.columns)
        axes = page.axes(
            plan.left + column * (plan.side + plan.across),
            y + plan.titles + row * (height + plan.down),
            plan.side,
            height,
        )
        last = i + plan.columns >= len(block.sets)
        draw_panel(axes, found, looks)
        frame(axes, found.floor, last, column == 0, plan.side + plan.across, height)
        axes.set_title(measure.drawn(ood.heading, plan.side + plan.across - 0.05), pad=3)
    plan.draw_key(page, y)
    return page.figure


@dataclass(frozen=True)
class _Plan:
    """Where the panels and the legend are, in inches."""

    size: Size
    rows: int
    columns: int
    left: float
    side: float
    across: float
    titles: float
    down: float
    key: Legend
    beside: bool
    fixed: float
    """The height of all but heading and panels."""

    @classmethod
    def of(
        cls, block: Block, entries: tuple[Sequence[Any], Sequence[str]], size: Size, log_fpr: bool, beside: bool = True
    ) -> _Plan:
        beside = beside and not size.narrow
        left = measure.line_height() + measure.width_of("0.95") + 0.17
        across, right = (0.34 if log_fpr else 0.2), 0.12
        columns = min(2 if size.narrow else 3, len(block.sets))
        key = legend(*entries, min(2.4, 0.34 * size.inner))
        if not beside:
            key = legend(*entries, size.inner)
        room = size.inner - left - right - (key.width + GAP if beside else 0.0) - (columns - 1) * across
        side = min(room / columns, LARGEST)
        titles = max(measure.height_of(measure.folded(s.heading, side + across - 0.05)) for s in block.sets) + 0.06
        rows = -(-len(block.sets) // columns)
        down = titles + 0.1
        if beside and key.height > rows * side + (rows - 1) * down:
            return cls.of(block, entries, size, log_fpr, beside=False)
        bottom = measure.line_height() + measure.height_of(measure.folded(X_TITLE, side + across)) + 0.12
        used = left + columns * side + (columns - 1) * across + right + (key.width + GAP if beside else 0.0)
        if not size.exact:
            size = size.at_most(used + 2 * EDGE)
        tall = GAP / 2 + titles + (rows - 1) * down + bottom + EDGE
        fixed = tall if beside else tall + GAP + key.height
        return cls(size, rows, columns, left + EDGE, side, across, titles, down, key, beside, fixed)

    def draw_key(self, page: Page, top: float) -> None:
        if self.beside:
            across = self.columns * self.side + (self.columns - 1) * self.across
            self.key.draw(page, self.left + across + 0.12 + GAP, top + self.titles)
        else:
            self.key.draw(page, EDGE, page.height - EDGE - self.key.height)


def roc_key(looks: Mapping[str, Look], options: Options, others: int) -> tuple[list[Line2D], list[str]]:
    """The lines of the legend, and their names; `others` are grey."""
    lines = [Line2D([], [], color=look.colour, linestyle=look.dash, linewidth=1.3) for look in looks.values()]
    names = [options.name(label) for label in looks]
    if others:
        lines.append(Line2D([], [], color=setting("pale"), linewidth=0.7))
        names.append(f"{others} other" + "s" * (others > 1))
    return lines, names


def curves(block: Block, ood: OodSet, scores: PairScores, options: Options, front: Iterable[str]) -> PanelCurves:
    """The curves of one OOD set."""
    coloured: dict[str, Curve] = {}
    pale: list[Curve] = []
    missing: dict[str, int] = {}
    pairs = {row.label: scores.read(block, row.label, ood.name) for row in block.rows}
    sizes = [len(pair[1]) for pair in pairs.values() if not isinstance(pair, str)]
    floor = 10.0 ** -len(str(max(sizes, default=100) - 1)) if options.log_fpr else None
    for label, pair in pairs.items():
        if isinstance(pair, str):
            missing[pair] = missing.get(pair, 0) + 1
        elif label not in front:
            pale.append(curve_of(pair, PALE_POINTS, floor))
    for label in front:
        if not isinstance(pair := pairs[label], str):
            coloured[label] = curve_of(pair, floor=floor)
    return PanelCurves(coloured, pale, missing, len(block.rows), floor)


def draw_panel(axes: Axes, found: PanelCurves, looks: Mapping[str, Look]) -> None:
    """Draw the curves of one OOD set, and say which are missing."""
    figure_width = axes.bbox.width / axes.get_position().width / axes.figure.dpi
    if found.pale:
        lines = [np.column_stack(curve) for curve in found.pale]
        axes.add_collection(LineCollection(lines, colors=setting("pale"), linewidths=0.6, zorder=1.5), autolim=False)
    for label, curve in reversed(list(found.coloured.items())):
        axes.plot(*curve, color=looks[label].colour, linestyle=looks[label].dash, linewidth=1.2, zorder=2.5)
    width = axes.get_position().width * figure_width
    if sum(found.missing.values()) == found.rows and len(found.missing) == 1:
        canvas.say(axes, measure.folded(next(iter(found.missing)), 0.9 * width))
    elif found.missing:
        counts = "\n".join(f"{n} of {found.rows}: {reason}" for reason, n in found.missing.items())
        canvas.say(axes, measure.folded(counts, 0.94 * width), 0.5, 0.14)


def frame(axes: Axes, floor: float | None, bottom: bool, left: bool, width: float, height: float) -> None:
    """Ticks, limits and titles of a panel's axes, and the line at TPR 95%."""
    axes.axhline(0.95, color="#BBBBBB", linewidth=0.7, zorder=0)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    names = ["0", "", "0.5", "", "1"]
    axes.set_ylim(-0.01, 1.01)
    if floor is None:
        axes.plot([0, 1], [0, 1], color="#DDDDDD", linewidth=0.7, zorder=0)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xticks(ticks, names if bottom else [""] * len(ticks))
    else:
        axes.set_xscale("log")
        axes.set_xlim(floor, 1.05)
        decades = [10.0**power for power in range(round(np.log10(floor)), 1)]
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(decades, [f"{decade:g}" if bottom else "" for decade in decades])
    axes.set_yticks([*ticks[:-1], 0.95, 1], [*names[:-1], "0.95", ""] if left else [""] * 6)
    if bottom:
        axes.set_xlabel(measure.folded(X_TITLE, width), labelpad=1)
    if left:
        axes.set_ylabel(Y_TITLE if measure.width_of(Y_TITLE) <= height else Y_TITLE.split(" ", 1)[0], labelpad=1)
