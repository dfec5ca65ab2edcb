"""The plots of a comparison: a heat map of wins and losses, and the critical-difference diagram."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oodbench.benchmark.comparisons.compare import Comparison, Matrix
from oodbench.benchmark.views.comparison.layout import PLOTS, metric_title
from oodbench.benchmark.views.labels import wrapped_label
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins

WINS, DIAGRAM = PLOTS

LABEL = 34
"""Characters per line of a label."""

COLOURS = "RdBu"

CONOVER = "#D55E00"
"""Of the bars that join what Conover's test does not tell apart."""

STEP = 0.17
"""Inches between the lines of the diagram's labels."""


def draw(found: Comparison, folder: Path) -> list[Path]:
    """Draw the comparison into `folder`, as PNG and SVG; the diagram only if there are enough sets."""
    with canvas.styled():
        return [path for name, figure in _figures(found) for path in canvas.saved(figure, folder, name)]


def _figures(found: Comparison) -> Iterator[tuple[str, Figure]]:
    yield WINS, wins(found)
    if found.matrix is not None and found.matrix.tests.enough and len(found.labels) > 2:
        yield DIAGRAM, diagram(found.matrix, metric_title(found.metric))


def wins(found: Comparison) -> Figure:
    """Each row's wins/ties/losses against each column, coloured by wins minus losses."""
    count = len(found.labels)
    names = [f"{i} {label}" for i, label in enumerate(found.labels, 1)]
    lines = [line for name in names for line in wrapped_label(name, LABEL)]
    margins = FigureMargins(canvas.text_inches(lines) + 0.2, 0.3, 0.68, 0.15)
    figure, ((panel,),) = canvas.grid(1, 1, (0.56 * count, 0.27 * count), margins)
    panel.set(xlim=(0, count), ylim=(count, 0))
    panel.xaxis.tick_top()
    panel.set_xticks([i + 0.5 for i in range(count)], [str(i + 1) for i in range(count)])
    panel.set_yticks([i + 0.5 for i in range(count)], [canvas.folded(name, LABEL) for name in names])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    for y, a in enumerate(found.labels):
        for x, b in enumerate(found.labels):
            if a != b:
                _win_cell(panel, x, y, found.counts(a, b))
    detail = f"of the row against the column; {len(found.columns)} columns of the table, 5% after Holm; blue: more wins"
    canvas.title(figure, f"Wins/ties/losses, {metric_title(found.metric)}", detail)
    return figure


def _win_cell(panel: Axes, x: int, y: int, counts: tuple[int, int, int]) -> None:
    won, _, lost = counts
    balance = (won - lost) / max(sum(counts), 1)
    colour = mpl.colormaps[COLOURS](0.5 + 0.42 * balance)
    panel.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
    text = "/".join(map(str, counts)) if sum(counts) else ""
    panel.text(x + 0.5, y + 0.52, text, ha="center", va="center", color=canvas.ink_on(colour))


def diagram(matrix: Matrix, metric: str) -> Figure:
    """Mean ranks on an axis, 1 = best at the left; bars join detectors that a test cannot separate.

    Demsar (2006), figure 1: black bars by the Nemenyi test, whose critical difference is the bar above the axis. Below
    them, those by Conover's test with Holm's correction, in colour.
    """
    tests, count = matrix.tests, len(matrix.labels)
    order = np.argsort(tests.ranks, kind="stable")
    half = (count + 1) // 2
    joined = [(group, "black") for group in tests.groups] + [(group, CONOVER) for group in tests.cliques]
    side = canvas.text_inches([f"{label} 00.00" for label in matrix.labels]) + 0.25
    bars = 0.12 * len(joined) + 0.1
    margins = FigureMargins(side, side, 0.95, 0.1)
    height = bars + STEP * half + 0.1
    detail = f"{tests.sets} columns; joined: not told apart at 5% (black: Nemenyi, orange: Conover-Holm)"
    width = max(2.6, 0.3 * count, canvas.text_inches([detail]) + 0.3 - 2 * side)
    figure, ((panel,),) = canvas.grid(1, 1, (width, height), margins)
    panel.set(xlim=(1, count), ylim=(-height, 0))
    panel.spines["top"].set_visible(True)
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.xaxis.tick_top()
    panel.set_xticks(range(1, count + 1, max(1, count // 10)))
    panel.set_yticks([])
    for i, place in enumerate(order):
        left = i < half
        depth = bars + STEP * (i if left else count - 1 - i) + 0.05
        _leader(panel, matrix.labels[place], tests.ranks[place], depth, count, left)
    for level, (group, colour) in enumerate(joined):
        ends = (tests.ranks[group[0]] - 0.04, tests.ranks[group[-1]] + 0.04)
        panel.plot(ends, [-0.12 * (level + 1)] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
    _ruler(panel, tests.critical_difference, height)
    canvas.title(figure, f"Mean ranks, {metric} (1 = best)", detail)
    return figure


def _leader(panel: Axes, label: str, rank: float, depth: float, count: int, left: bool) -> None:
    """A line from a detector's rank down and sideways to its name beside the axis."""
    edge = 1.0 if left else float(count)
    panel.plot([rank, rank, edge], [0, -depth, -depth], color="#555555", linewidth=0.7, clip_on=False)
    text = canvas.plain(f"{label} {rank:.2f}" if left else f"{rank:.2f} {label}")
    gap = (-3, 0) if left else (3, 0)
    panel.annotate(
        text, (edge, -depth), gap, textcoords="offset points", ha="right" if left else "left", va="center",
        annotation_clip=False,
    )  # fmt: skip


def _ruler(panel: Axes, length: float, height: float) -> None:
    """Draw the critical difference as a bar above the axis."""
    y = 0.3
    panel.plot([1, 1 + length], [y, y], color="#0072B2", linewidth=1.6, clip_on=False)
    panel.text(1, y + 0.04, f"critical difference {length:.2f}", color="#0072B2", ha="left", va="bottom")
