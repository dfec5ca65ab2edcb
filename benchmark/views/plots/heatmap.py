"""A heat map of one metric over all cells: a row per detector, columns grouped by ID set, near before far.

Many rows are sorted, and put beside rows with similar numbers, with rules between the groups. Values are printed where
they have room; otherwise colours, whose lightness rises with the value, and a bar of colours show them.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.heat_order import Numbers, row_groups
from oodbench.benchmark.views.plots.options import Options, explained, marks_of, number_of
from oodbench.benchmark.views.plots.page import EDGE, GAP, Page, heading
from oodbench.benchmark.views.plots.row_table import label_column, title_of
from oodbench.benchmark.views.plots.style import ink_on, plain, setting
from oodbench.benchmark.views.summary import GROUPS, Block, OodSet, Stat, Summary, TableCell

Column = tuple[Block, OodSet]
Strip = Sequence[Sequence[Column]]
"""Groups of columns, one per ID set, that stand beside each other."""

PAD = 0.05
"""Inches around a cell's number."""

BETWEEN, RULE = 0.09, 0.06
"""Inches between the columns of two ID sets, and between two groups of rows."""

BAR = (1.6, 0.1)
"""Inches of the bar of colours."""

LINES = 2
"""Strips of columns below each other, at most, with printed values."""

UPRIGHT = 0.9
"""Inches of columns above which the name of their ID set stands upright."""


@dataclass(frozen=True)
class HeatPlan:
    """Where everything is, in inches."""

    metric: Metric
    names: Mapping[str, str]
    """Label -> name in lines."""
    groups: Sequence[Sequence[str]]
    """Labels in the order of the rows, by groups with a rule between them."""
    heights: Sequence[float]
    column: float
    pitch: float
    """The width of a column."""
    strips: Sequence[Strip]
    heads: Sequence[tuple[float, float]]
    """For each strip, the height of the names of OOD sets and of ID sets."""
    printed: bool
    """Whether values are printed."""
    lowest: float
    """The value of the darkest colour."""
    highest: float

    @property
    def tops(self) -> list[float]:
        """Where each row begins, from the first row's top, with the rules between groups; and the end of all."""
        ends = set(list(accumulate(map(len, self.groups)))[:-1])
        return [0.0, *accumulate(height + RULE * (i + 1 in ends) for i, height in enumerate(self.heights))]

    @property
    def fixed(self) -> float:
        """The height of all but the rows, over all strips."""
        return (
            sum(names + sets for names, sets in self.heads)
            + len(self.strips) * GAP
            + BAR[1]
            + measure.line_height()
            + GAP
        )

    @property
    def flexible(self) -> float:
        """The height of all rows, over all strips."""
        return len(self.strips) * self.tops[-1]

    @property
    def width(self) -> float:
        """The width of all."""
        return self.column + max(strip_width(strip, self.pitch) for strip in self.strips)


def heatmap(summary: Summary, options: Options) -> Figure:
    """The picture of all ID sets."""
    size = options.size
    metric = options.metrics_or("auroc")[0]
    plan = heat_plan(summary, metric, options, size.inner)
    if not size.exact:
        size = size.at_most(plan.width + 2 * EDGE)
    cells = [row.cells[ood.name] for block in summary.blocks for row in block.rows for ood in block.sets]
    numbers = [number_of(row, ood, metric) for block in summary.blocks for row in block.rows for ood in block.sets]
    marks = "".join(marks_of([cell], stat, options.seeds) for cell, stat in zip(cells, numbers, strict=True))
    detail = (
        ["rows: best first" + (", similar ones in groups" if len(plan.groups) > 1 else "")]
        if plan_is_sorted(summary, options)
        else []
    )
    detail += explained(marks, options.seeds) if plan.printed else []
    detail += ["hatched: no result"] if None in numbers else []
    title = title_of(metric) + (", mean over seeds" if options.seeds > 1 else "")
    top = heading(size, title, detail, options.remark)
    fixed = top.height + GAP / 2 + plan.fixed + EDGE
    factor = options.size.stretch(fixed, plan.flexible, 1.0)
    plan = replace(plan, heights=[factor * height for height in plan.heights])
    page = Page.of(size.width, options.size.height or fixed + plan.flexible)
    top.draw(page)
    y = top.height + GAP / 2
    sheet = page.sheet(EDGE, y, size.width - 2 * EDGE, page.height - y)
    draw_heatmap(sheet, plan, options)
    return page.figure


def plan_is_sorted(summary: Summary, options: Options) -> bool:
    """Whether rows are in another order than the plan's."""
    return row_groups(_numbers(summary, options.metrics_or("auroc")[0]), summary, options)[1]


def _numbers(summary: Summary, metric: Metric) -> Numbers:
    return {
        (row.label, block.id_set, ood.name): stat.mean
        for block in summary.blocks
        for row in block.rows
        for ood in block.sets
        if (stat := number_of(row, ood, metric))
    }


def heat_plan(summary: Summary, metric: Metric, options: Options, width: float) -> HeatPlan:
    """Arrange rows and columns within `width` inches."""
    numbers = _numbers(summary, metric)
    groups, _ = row_groups(numbers, summary, options)
    labels = [label for group in groups for label in group]
    column = label_column([options.name(label) for label in labels], options.size) + 0.06
    names = {
        label: measure.folded(
            options.name(label), column - 0.06, None, "bold" if label in options.highlight else "normal"
        )
        for label in labels
    }
    blocks = [[(block, ood) for ood in _near_first(block)] for block in summary.blocks]
    texts = {
        cell_text(stat, row.cells[ood.name], metric, options.seeds)
        for block in summary.blocks for row in block.rows for ood in block.sets if (stat := number_of(row, ood, metric))
    }  # fmt: skip
    room = width - column
    pitch = max(measure.widest(texts) + PAD, 2 * measure.line_height())
    strips = _strips(blocks, room, pitch)
    printed = len(strips) <= LINES or (len(strips) <= len(summary.blocks) and not options.size.narrow)
    if not printed:
        pitch = measure.line_height() + 0.03
        strips = _strips(blocks, room, pitch)
    heights = [max(measure.height_of(names[label]), measure.line_height()) + 0.02 for label in labels]
    low, high = ends_of(list(numbers.values()), metric)
    heads = [_heads(strip, pitch) for strip in strips]
    return HeatPlan(metric, names, groups, heights, column, pitch, strips, heads, printed, low, high)


def ends_of(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The values of the darkest and lightest colour: from chance, or lower values, to the best that there can be."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not metric.is_percent:
        return low, high if high > low else low + 1.0
    if metric.lower_is_better:
        return 0.0, max(high, 0.5)
    return min(0.5, low), 1.0


def _near_first(block: Block) -> list[OodSet]:
    places = {group: place for place, group in enumerate(GROUPS)}
    return sorted(block.sets, key=lambda ood: places.get(ood.group, len(GROUPS)))


def strip_width(strip: Strip, pitch: float) -> float:
    """The width of the columns that stand beside each other."""
    return pitch * sum(map(len, strip)) + BETWEEN * (len(strip) - 1)


def _strips(blocks: Sequence[Sequence[Column]], room: float, pitch: float) -> list[list[Sequence[Column]]]:
    """Columns in as few strips as possible; those of one ID set stay together if they fit."""
    most = max(1, int(room / pitch))
    strips: list[list[Sequence[Column]]] = [[]]
    for block in blocks:
        size = -(-len(block) // -(-len(block) // most)) if block else 1  # parts of nearly equal width
        for part in [block[a : a + size] for a in range(0, len(block), size)]:
            if strips[-1] and strip_width([*strips[-1], part], pitch) > room:
                strips.append([])
            strips[-1].append(part)
    return strips


def _heads(strip: Strip, pitch: float) -> tuple[float, float]:
    names = [measure.width_of(set_name(ood, pitch)) for part in strip for _, ood in part]
    sets = [id_set_name(part, pitch) for part in strip]
    tall = [measure.width_of(text) if upright else measure.height_of(text) for text, upright in sets]
    return max(names) + 0.08, max(tall) + 0.08


def set_name(ood: OodSet, pitch: float) -> str:
    """The heading of an OOD set, which is read from below, in as many lines as a column has room for."""
    lines = max(1, int(pitch / measure.line_height()))
    width = measure.width_of(ood.heading)
    for inches in np.arange(0.7, width, 0.1) if lines > 1 else []:
        text = measure.folded(ood.heading, float(inches))
        if text.count("\n") < lines:
            return text
    return measure.folded(ood.heading, width)


def id_set_name(part: Sequence[Column], pitch: float) -> tuple[str, bool]:
    """The name of the ID set of some columns, in lines, and whether it is to be read from below."""
    span = pitch * len(part) + BETWEEN / 2
    text = f"ID set {part[0][0].id_set}"
    if all(measure.width_of(word, None, "bold") <= span for word in text.split()) or span >= UPRIGHT:
        return measure.folded(text, span, None, "bold"), False
    for inches in np.arange(0.8, 20, 0.1):
        folded = measure.folded(text, float(inches), None, "bold")
        if measure.height_of(folded) <= max(span, measure.line_height()):
            break
    return folded, True


def cell_text(stat: Stat, cell: TableCell, metric: Metric, seeds: int) -> str:
    """A number as it is printed in its cell, with its marks."""
    value = percent(stat.mean) if metric.is_percent else f"{stat.mean:.2f}"
    return value + marks_of([cell], stat, seeds)


def draw_heatmap(sheet: Axes, plan: HeatPlan, options: Options) -> None:
    """Draw all strips in axes whose coordinates are inches from the top left corner, and the bar of colours below."""
    top = 0.0
    for strip, (names, sets) in zip(plan.strips, plan.heads, strict=True):
        left = plan.column
        for part in strip:
            _heads_of(sheet, part, plan, left, top, names, sets)
            left += len(part) * plan.pitch + BETWEEN
        top += names + sets
        _rows(sheet, strip, plan, options, top)
        top += plan.tops[-1] + GAP
    _colour_bar(sheet, plan, top)


def _heads_of(
    sheet: Axes, part: Sequence[Column], plan: HeatPlan, left: float, top: float, names: float, sets: float
) -> None:
    text, turned = id_set_name(part, plan.pitch)
    span = len(part) * plan.pitch
    middle = left + span / 2
    rotation = 90 if turned else 0
    sheet.text(middle, top + sets - 0.05, plain(text), weight="bold", ha="center", va="bottom", rotation=rotation)
    sheet.hlines([top + sets - 0.02], left, left + span, "black", linewidth=0.6)
    for k, (_, ood) in enumerate(part):
        at = left + (k + 0.5) * plan.pitch
        sheet.text(
            at, top + sets + names - 0.04, plain(set_name(ood, plan.pitch)), rotation=90, ha="center", va="bottom"
        )


def _rows(sheet: Axes, strip: Strip, plan: HeatPlan, options: Options, top: float) -> None:
    labels = [label for group in plan.groups for label in group]
    tops = plan.tops
    boxes, colours, texts = [], [], []
    left = plan.column
    for part in strip:
        by_label = {row.label: row for row in part[0][0].rows}
        for k, (_, ood) in enumerate(part):
            x = left + k * plan.pitch
            for i, label in enumerate(labels):
                if label not in by_label:
                    continue
                y, height = top + tops[i], plan.heights[i]
                stat = number_of(by_label[label], ood, plan.metric)
                if stat is None:
                    look = {"facecolor": "white", "edgecolor": "#999999", "hatch": "////", "linewidth": 0.5}
                    sheet.add_patch(Rectangle((x, y), plan.pitch, height, **look))  # type: ignore[arg-type]
                    continue
                boxes.append([(x, y), (x + plan.pitch, y), (x + plan.pitch, y + height), (x, y + height)])
                colours.append(_colour(plan, stat.mean))
                text = cell_text(stat, by_label[label].cells[ood.name], plan.metric, options.seeds)
                texts.append((x + plan.pitch / 2, y + height / 2, text, ink_on(colours[-1])))
        _group_rules(sheet, part, plan, left, top)
        left += len(part) * plan.pitch + BETWEEN
    cells = PolyCollection(boxes, facecolors=colours, edgecolors="white", linewidths=0.6, zorder=1)
    sheet.add_collection(cells, autolim=False)
    for x, y, text, ink in texts if plan.printed else []:
        sheet.text(x, y, text, ha="center", va="center", color=ink)
    for i, label in enumerate(labels):
        weight = "bold" if label in options.highlight else "normal"
        name = plain(plan.names[label])
        sheet.text(
            plan.column - 0.06, top + tops[i] + plan.heights[i] / 2, name, ha="right", va="center", weight=weight
        )
    ends = list(accumulate(map(len, plan.groups)))[:-1]
    rules = [[(0, top + tops[end] - RULE / 2), (left - BETWEEN, top + tops[end] - RULE / 2)] for end in ends]
    sheet.add_collection(LineCollection(rules, colors="black", linewidths=0.6), autolim=False)


def _group_rules(sheet: Axes, part: Sequence[Column], plan: HeatPlan, left: float, top: float) -> None:
    """A line between near and far columns."""
    groups = [ood.group for _, ood in part]
    places = [left + k * plan.pitch for k in range(1, len(groups)) if groups[k] != groups[k - 1]]
    lines = [[(x, top - 0.03), (x, top + plan.tops[-1])] for x in places]
    sheet.add_collection(LineCollection(lines, colors="black", linewidths=1.0, zorder=2), autolim=False)


def _colour(plan: HeatPlan, value: float) -> tuple[float, float, float, float]:
    share = (value - plan.lowest) / (plan.highest - plan.lowest)
    red, green, blue, alpha = mpl.colormaps[setting("colour_map")](share)
    return (red, green, blue, alpha)


def _colour_bar(sheet: Axes, plan: HeatPlan, top: float) -> None:
    """The colours with their values, at the left below all rows."""
    width, height = min(BAR[0], plan.width - 0.4), BAR[1]
    left, count = 0.2, 64
    values = np.linspace(plan.lowest, plan.highest, count)
    boxes = []
    for i in range(count):
        a, b = left + i * width / count, left + (i + 1) * width / count
        boxes.append([(a, top), (b, top), (b, top + height), (a, top + height)])
    colours = [_colour(plan, float(value)) for value in values]
    sheet.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors=colours, linewidths=0.3), autolim=False)
    for share in (0.0, 0.5, 1.0):
        value = plan.lowest + share * (plan.highest - plan.lowest)
        text = f"{100 * value:.0f}" if plan.metric.is_percent else f"{value:.2f}"
        sheet.text(left + share * width, top + height + 0.02, text, ha="center", va="top")
