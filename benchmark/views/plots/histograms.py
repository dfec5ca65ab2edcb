"""Histograms of scores, ID against every OOD set: one row per detector, one panel per set.

All panels are in one axes whose coordinates are inches: separate axes would take most of the time of all plots.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.options import Options
from oodbench.benchmark.views.plots.page import EDGE, GAP, Page, heading, legend
from oodbench.benchmark.views.plots.row_table import label_column
from oodbench.benchmark.views.plots.score_scale import ASINH, ScoreScale, Tick, scale_ticks, score_scale
from oodbench.benchmark.views.plots.scores import Pair, PairScores
from oodbench.benchmark.views.plots.style import DARK, plain, setting
from oodbench.benchmark.views.summary import Block, OodSet, TableRow

Share = NDArray[np.float64]

BINS = 48
ID_GREY = "#C4C4C4"
PANEL, NARROWEST, TALL = 1.45, 0.72, 0.52
"""Inches of a panel: its width at most and at least, and its height."""

BETWEEN = 0.1


@dataclass(frozen=True)
class HistogramPlan:
    """Where everything is, in inches."""

    beside: bool
    """Whether names stand at the left, not above the panels."""
    column: float
    panel: float
    strips: Sequence[Sequence[OodSet]]
    """Sets that stand beside each other; further ones follow below."""
    names: Sequence[str]
    headings: float
    heights: Sequence[float]
    """Of each row, with its name and the numbers of its axes."""
    factor: float = 1.0
    """Of the panels' own height."""

    @property
    def across(self) -> int:
        """Sets beside each other, at most."""
        return max(map(len, self.strips))

    @property
    def width(self) -> float:
        """The width of all."""
        return self.column + self.across * (self.panel + BETWEEN) - BETWEEN

    @property
    def fixed(self) -> float:
        """The height of all but the panels, over all strips."""
        return len(self.strips) * (self.headings + sum(height - TALL for height in self.heights))

    @property
    def flexible(self) -> float:
        """The height of all panels, over all strips."""
        return len(self.strips) * len(self.heights) * TALL


def histogram_plan(
    rows: Sequence[TableRow], sets: Sequence[OodSet], options: Options, width: float, narrow: bool
) -> HistogramPlan:
    """Arrange panels within `width` inches."""
    names = [options.name(row.label) for row in rows]
    column = 0.0 if narrow else label_column(names, options.size)
    above = width - measure.width_of(f"   {ASINH}")
    folded = [measure.folded(name, column or above) for name in names]
    room = width - column - (0.0 if narrow else 0.08)
    across = max(1, min(len(sets), int((room + BETWEEN) / (NARROWEST + BETWEEN))))
    across = -(-len(sets) // -(-len(sets) // across))  # strips of nearly equal width
    panel = min((room + BETWEEN) / across - BETWEEN, PANEL)
    strips = [sets[a : a + across] for a in range(0, len(sets), across)]
    heads = max(measure.height_of(measure.folded(ood.heading, panel)) for ood in sets) + 0.06
    ticks = measure.line_height() + 0.07
    line = measure.line_height()
    if narrow:
        heights = [measure.height_of(name) + TALL + ticks + 0.08 for name in folded]
    else:
        heights = [max(TALL + ticks + 0.06, measure.height_of(name) + line + 0.06) for name in folded]
    return HistogramPlan(not narrow, column + (0.0 if narrow else 0.08), panel, strips, folded, heads, heights)


def histograms(block: Block, rows: Sequence[TableRow], scores: PairScores, options: Options) -> Figure:
    """The picture of some rows of an ID set."""
    size = options.size
    plan = histogram_plan(rows, block.sets, options, size.inner, size.narrow)
    if not size.exact:
        size = size.at_most(plan.width + 2 * EDGE)
    key = legend(*histogram_key(), size.inner)
    drawn = [[scores.read(block, row.label, ood.name) for ood in block.sets] for row in rows]
    scales = [scale_of_pairs(pairs) for pairs in drawn]
    details = ["higher = more OOD", "each detector's central 99.8%", "one axis per row"]
    details += [f"{ASINH} where a linear one would hide the scores"] if any(scale.name for scale in scales) else []
    top = heading(size, f"Scores, ID set {block.id_set}", [*details, options.seed], options.remark)
    fixed = top.height + GAP / 2 + key.height + GAP / 2 + plan.fixed + (len(plan.strips) - 1) * GAP + EDGE
    factor = options.size.stretch(fixed, plan.flexible, 0.6)
    plan = replace(plan, factor=factor)
    page = Page.of(size.width, options.size.height or fixed + plan.flexible)
    top.draw(page)
    y = top.height + GAP / 2
    key.draw(page, EDGE, y)
    y += key.height + GAP / 2
    sheet = page.sheet(EDGE, y, size.width - 2 * EDGE, page.height - y)
    draw_histograms(sheet, plan, drawn, scales)
    return page.figure


def histogram_key() -> tuple[list[Patch], list[str]]:
    """The patches of the legend, and their names."""
    return [Patch(facecolor=ID_GREY), Patch(**_ood_look())], ["ID", "OOD"]


def _ood_look() -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": setting("groups")["near"], "hatch": "/////", "linewidth": 0.8}


def scale_of_pairs(pairs: Sequence[Pair | str]) -> ScoreScale:
    """The axis of a row: one for all of its panels."""
    known = [pair for pair in pairs if not isinstance(pair, str)]
    return score_scale(known[0][0], [pair[1] for pair in known]) if known else ScoreScale(0.0, 1.0)


@dataclass
class _Ink:
    """What is drawn at once at the end: thousands of artists would take most of the time of all plots."""

    known: list[NDArray[np.float64]] = field(default_factory=list)
    ood: list[NDArray[np.float64]] = field(default_factory=list)
    lines: list[list[tuple[float, float]]] = field(default_factory=list)

    def draw(self, sheet: Axes) -> None:
        """Draw histograms of ID scores, of OOD scores, and the axes."""
        sheet.add_collection(PolyCollection(self.known, facecolors=ID_GREY, linewidths=0), autolim=False)
        look = _ood_look()
        shapes = PolyCollection(self.ood, facecolors="none", edgecolors=look["edgecolor"], linewidths=0.8)
        shapes.set_hatch(look["hatch"])
        sheet.add_collection(shapes, autolim=False)
        sheet.add_collection(LineCollection(self.lines, colors="black", linewidths=0.6), autolim=False)


def draw_histograms(
    sheet: Axes, plan: HistogramPlan, pairs: Sequence[Sequence[Pair | str]], scales: Sequence[ScoreScale]
) -> None:
    """Draw all rows in axes whose coordinates are inches from the top left corner."""
    ink = _Ink()
    beyond = BETWEEN + NARROWEST if plan.across > 1 else 0.0  # below the second panel, which has no numbers
    ticks = [scale_ticks(scale, plan.panel, beyond) for scale in scales]
    top, first = 0.0, 0
    for strip in plan.strips:
        for k, ood in enumerate(strip):
            middle = plan.column + k * (plan.panel + BETWEEN) + plan.panel / 2
            text = measure.drawn(ood.heading, plan.panel)
            sheet.text(middle, top + plan.headings - 0.05, text, ha="center", va="bottom")
        top += plan.headings
        for i, height in enumerate(plan.heights):
            base = _name(sheet, plan, i, top, scales[i].name)
            for k, pair in enumerate(pairs[i][first : first + len(strip)]):
                left = plan.column + k * (plan.panel + BETWEEN)
                if isinstance(pair, str):
                    _reason(sheet, plan, left, base, pair)
                else:
                    _pair(sheet, ink, plan, left, base, pair, scales[i])
                _ticks(sheet, ink, left, base, ticks[i], numbered=k == 0)
                ink.lines.append([(left, base), (left + plan.panel, base)])
            top += height + (plan.factor - 1) * TALL
        top += GAP
        first += len(strip)
    ink.draw(sheet)


def _name(sheet: Axes, plan: HistogramPlan, row: int, top: float, scale: str) -> float:
    """Write a row's name and scale; returns where the base of its panels is."""
    name, tall = plan.names[row], plan.factor * TALL
    look: dict[str, Any] = {"color": DARK, "style": "italic", "ha": "right"}
    if plan.beside:
        start = max(top, top + (tall - measure.height_of(name)) / 2)
        sheet.text(plan.column - 0.08, start, plain(name), ha="right", va="top")
        if scale:
            foot = max(top + tall + 0.05, start + measure.height_of(name))
            sheet.text(plan.column - 0.08, foot, scale, va="top", **look)
        return top + tall
    sheet.text(0, top, plain(name), ha="left", va="top")
    if scale:
        sheet.text(plan.width, top + measure.height_of(name), scale, va="bottom", **look)
    return top + measure.height_of(name) + tall


def _reason(sheet: Axes, plan: HistogramPlan, left: float, base: float, reason: str) -> None:
    """Say in a panel why it is empty."""
    middle = base - plan.factor * TALL / 2
    text = measure.drawn(reason, plan.panel)
    sheet.text(left + plan.panel / 2, middle, text, ha="center", va="center", color=DARK, style="italic")


def _pair(sheet: Axes, ink: _Ink, plan: HistogramPlan, left: float, base: float, pair: Pair, scale: ScoreScale) -> None:
    """Histograms of shares, with a common height, so that sets of different sizes can be compared.

    A bin that would make all others flat, such as one of equal scores, is cut, and its share is written beside it.
    """
    tall = 0.92 * plan.factor * TALL
    shares = [scale.counts(scores, BINS) / scores.size for scores in pair]
    limit = height_limit(shares)
    places = np.repeat(np.linspace(left, left + plan.panel, BINS + 1), 2)
    line = base - tall
    for share, shapes, colour in zip(shares, (ink.known, ink.ood), (DARK, _ood_look()["edgecolor"]), strict=True):
        heights = np.zeros(2 * BINS + 2)
        heights[1:-1] = np.repeat(tall * np.minimum(share / limit, 1.0), 2)
        shapes.append(np.column_stack((places, base - heights)))
        if share.max() > limit:
            place = (int(share.argmax()) + 0.5) / BINS
            side, shift = ("left", 0.04) if place < 0.5 else ("right", -0.04)
            text = f"{100 * share.max():.0f}%"
            sheet.text(left + plan.panel * place + shift, line, text, ha=side, va="top", color=colour)
            line += measure.line_height()


def height_limit(shares: Sequence[Share]) -> float:
    """The share at the upper end of a panel: the largest, or less if one or two bins are much higher than others."""
    highest = np.sort(np.concatenate(shares))
    rest = float(highest[-3])
    return 1.25 * rest if 0 < 2.5 * rest < highest[-1] else float(highest[-1]) or 1.0


def _ticks(sheet: Axes, ink: _Ink, left: float, base: float, ticks: Sequence[Tick], numbered: bool) -> None:
    """Draw the ticks below a panel, and their numbers below the first of a row, whose panels have the same axis."""
    for place, text, middle in ticks:
        ink.lines.append([(left + place, base), (left + place, base + 0.035)])
        if numbered:
            sheet.text(left + middle, base + 0.05, text, ha="center", va="top")
