"""Small multiples: one small ROC panel per detector, the best first, with the curves of all OOD sets.

Any number of detectors can be compared at a glance, because every panel has the same axes and the same few lines.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.options import Options, order_text, ranked, series_of, shown
from oodbench.benchmark.views.plots.page import EDGE, GAP, Page, heading, legend
from oodbench.benchmark.views.plots.scores import PairScores, curve_of
from oodbench.benchmark.views.plots.style import DARK, plain, setting
from oodbench.benchmark.views.summary import GROUPS, Block, TableRow

POINTS = 100
SIDE, ACROSS = 1.3, 0.12
"""Inches of a panel's side, about, and between panels."""

DASHES: dict[str, Any] = {"near": "-", "far": (0, (4, 1.5)), "": (0, (1, 1))}


@dataclass(frozen=True)
class MultiplesPlan:
    """Where the panels are, in inches."""

    columns: int
    side: float
    height: float
    names: Sequence[str]
    above: Sequence[float]
    """For each line of panels, the height of its names."""

    @property
    def fixed(self) -> float:
        """The height of all but the panels."""
        return sum(self.above) + len(self.above) * GAP

    @property
    def flexible(self) -> float:
        """The height of all panels."""
        return len(self.above) * self.side


def multiples_plan(names: Sequence[str], width: float) -> MultiplesPlan:
    """Arrange a panel for each name within `width` inches."""
    columns = max(1, min(len(names), int((width + ACROSS) / (SIDE + ACROSS))))
    side = min((width + ACROSS) / columns - ACROSS, 1.6)
    folded = [measure.folded(name, side) for name in names]
    lines = [folded[a : a + columns] for a in range(0, len(folded), columns)]
    above = [max(map(measure.height_of, line)) + 0.03 for line in lines]
    return MultiplesPlan(columns, side, side, folded, above)


def multiples(block: Block, scores: PairScores, options: Options) -> Figure:
    """The picture of one ID set."""
    size = options.size
    rows = shown(block, options)[0] if options.best is not None else ranked(block, options)
    plan = multiples_plan([options.name(row.label) for row in rows], size.inner)
    if not size.exact:
        size = size.at_most(plan.columns * (plan.side + ACROSS) - ACROSS + 2 * EDGE)
    key = legend(*multiples_key(block), size.inner)
    metric = options.metrics_or("auroc")[0]
    details = ["FPR (across) and TPR (up) from 0 to 1", "a curve per OOD set", "grey line: TPR 95%"]
    details += [f"numbers: {metric.full_title}, means (%)", order_text(block, options), options.seed]
    top = heading(size, f"ROC by detector, ID set {block.id_set}", details, options.remark)
    fixed = top.height + key.height + 1.5 * GAP + plan.fixed + EDGE
    factor = options.size.stretch(fixed, plan.flexible, 0.5)
    plan = replace(plan, height=factor * plan.side)
    page = Page.of(size.width, options.size.height or fixed + plan.flexible)
    top.draw(page)
    y = top.height + GAP / 2
    key.draw(page, EDGE, y)
    y += key.height + GAP
    sheet = page.sheet(EDGE, y, size.width - 2 * EDGE, page.height - y)
    draw_multiples(sheet, plan, block, rows, scores, metric)
    return page.figure


def multiples_key(block: Block) -> tuple[list[Line2D], list[str]]:
    """The lines of the legend, and their names."""
    groups = dict.fromkeys(_group(ood.group) for ood in block.sets)
    return [_line(group) for group in groups], [group or "OOD sets" for group in groups]


def _group(group: str) -> str:
    return group if group in GROUPS else ""


def _line(group: str) -> Line2D:
    return Line2D([], [], color=setting("groups")[group], linestyle=DASHES[group], linewidth=1.1)


def draw_multiples(
    sheet: Axes, plan: MultiplesPlan, block: Block, rows: Sequence[TableRow], scores: PairScores, metric: Metric
) -> None:
    """Draw all panels in axes whose coordinates are inches from the top left corner."""
    lines: dict[str, list[NDArray[np.float64]]] = {}
    frames, levels = [], []
    top = 0.0
    for place, row in enumerate(rows):
        line, column = divmod(place, plan.columns)
        if column == 0:
            top += plan.above[line] if line == 0 else plan.above[line] + plan.height + GAP
        left, base = column * (plan.side + ACROSS), top + plan.height
        sheet.text(left, top - 0.03, plain(plan.names[place]), ha="left", va="bottom")
        frames.append([(left, top), (left, base), (left + plan.side, base)])
        levels.append([(left, base - 0.95 * plan.height), (left + plan.side, base - 0.95 * plan.height)])
        missing = []
        for ood in block.sets:
            pair = scores.read(block, row.label, ood.name)
            if isinstance(pair, str):
                missing.append(pair)
                continue
            x, y = curve_of(pair, POINTS)
            points = np.column_stack((left + plan.side * x, base - plan.height * y))
            lines.setdefault(_group(ood.group), []).append(points)
        text = _numbers(block, row, metric, missing)
        sheet.text(
            left + plan.side - 0.03,
            base - 0.04,
            measure.drawn(text, 0.9 * plan.side),
            ha="right",
            va="bottom",
            color=DARK,
        )
    sheet.add_collection(LineCollection(levels, colors="#BBBBBB", linewidths=0.7), autolim=False)
    sheet.add_collection(LineCollection(frames, colors="black", linewidths=0.6), autolim=False)
    for group, found in lines.items():
        colour, dash = setting("groups")[group], DASHES[group]
        sheet.add_collection(LineCollection(found, colors=colour, linestyles=[dash], linewidths=1.0), autolim=False)


def _numbers(block: Block, row: TableRow, metric: Metric, missing: Sequence[str]) -> str:
    """The row's means, and what is missing, for the corner of its panel where a good curve is not."""
    scale = 100 if metric.is_percent else 1
    found = [(one, one.stat(block, row, metric)) for one in series_of(block)[:3]]
    texts = [f"{one.group if one.ood is None else one.name} {scale * stat.mean:.1f}" for one, stat in found if stat]
    texts += [f"{missing.count(reason)} {reason}" for reason in dict.fromkeys(missing)]
    return "\n".join(texts)
