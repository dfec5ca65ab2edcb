"""The overview plots of a run, from records alone: bars as in the field's papers, and a heat map."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from oodbench.benchmark.views.labels import wrapped_label
from oodbench.benchmark.views.marks import FEWER, SEEN, percent
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins, Look
from oodbench.benchmark.views.summary import Block, Summary, TableCell, TableRow

BARS = {"tnr_at_tpr95": "TNR at TPR 95%", "auroc": "AUROC", "detection_accuracy": "Detection accuracy"}

LABEL = 34
"""Characters per line of a heat map's row label."""


def bars(block: Block, styles: Mapping[str, Look], seeds: int) -> Figure:
    """Bars of the main metrics: one panel per metric, one group per OOD set, one bar per detector."""
    labels = [row.label for row in block.rows]
    width = min(max(len(block.sets) * max(1.25, 0.25 + 0.1 * len(labels)), 3.0), 13.0)
    margins = FigureMargins(0.45, canvas.legend_inches(labels), 0.5, 0.45, down=0.18)
    figure, axes = canvas.grid(len(BARS), 1, (width, 1.35), margins)
    for (panel,), (metric, name) in zip(axes, BARS.items(), strict=True):
        for i, row in enumerate(block.rows):
            offset = (i - (len(labels) - 1) / 2) * _bar_width(block)
            _bar_series(panel, block, row, metric, offset, styles[row.label], seeds)
        panel.set(xlim=(-0.5, len(block.sets) - 0.5), ylim=(0, 109), ylabel=f"{name} (%)")
        panel.set_yticks([0, 25, 50, 75, 100])
        panel.set_xticks(range(len(block.sets)), [""] * len(block.sets))
        panel.grid(axis="y", color="#E5E5E5", linewidth=0.5)
        panel.set_axisbelow(True)
    axes[-1][0].set_xticks(range(len(block.sets)), [canvas.stacked(ood.heading) for ood in block.sets])
    handles = [
        Patch(facecolor=styles[k].colour, hatch=styles[k].hatch, edgecolor="black", linewidth=0.5) for k in labels
    ]
    canvas.legend_beside(figure, axes[0][0], handles, labels)
    cells = [cell for row in block.rows for cell in row.cells.values()]
    marks = [f"mean and std over {seeds} seeds"] if seeds > 1 else []
    marks += _explained(cells, seeds)
    marks += ["x no result"] if any(not cell.stats for cell in cells) else []
    canvas.title(figure, f"ID set {block.id_set}", "; ".join(marks))
    return figure


def _marks(cell: TableCell, metric: str, seeds: int) -> str:
    """The marks of a cell with a number, as in the tables."""
    return SEEN * cell.seen + FEWER * (cell.stats[metric].n < seeds)


def _explained(cells: Sequence[TableCell], seeds: int) -> list[str]:
    fewer = any(stat.n < seeds for cell in cells for stat in cell.stats.values())
    seen = [f"{SEEN} seen in training"] if any(cell.seen for cell in cells) else []
    return seen + [f"{FEWER} over fewer of the {seeds} seeds"] * fewer


def _bar_series(panel: Axes, block: Block, row: TableRow, metric: str, offset: float, style: Look, seeds: int) -> None:
    """Draw one detector's bars; a cross on the axis where there is no number."""
    cells = [(i + offset, row.cells[ood.name]) for i, ood in enumerate(block.sets)]
    drawn = [(x, 100 * cell.stats[metric].mean, cell) for x, cell in cells if metric in cell.stats]
    places, heights = [x for x, _, _ in drawn], [height for _, height, _ in drawn]
    look: dict[str, Any] = {"color": style.colour, "hatch": style.hatch, "edgecolor": "black", "linewidth": 0.4}
    panel.bar(places, heights, _bar_width(block), **look)
    spread = [(x, height, 100 * std) for x, height, cell in drawn if (std := cell.stats[metric].std) is not None]
    if spread:
        at, means, stds = zip(*spread, strict=True)
        panel.errorbar(at, means, stds, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.3, capthick=0.7)
    for x, height, cell in drawn:
        if marks := _marks(cell, metric, seeds):
            panel.text(x, height + 100 * (cell.stats[metric].std or 0) + 1, marks, ha="center", va="bottom", fontsize=6)
    panel.plot(
        [x for x, cell in cells if metric not in cell.stats], [3] * (len(cells) - len(drawn)), "kx", markersize=3
    )


def _bar_width(block: Block) -> float:
    return min(0.84 / len(block.rows), 0.2)


def heatmap(summary: Summary) -> Figure:
    """AUROC of all cells: one block per ID set, one row per detector, one column per OOD set."""
    sets = list(dict.fromkeys(ood.name for block in summary.blocks for ood in block.sets))
    figure, panel = _heat_panel(summary, sets)
    cells = [cell for block in summary.blocks for row in block.rows for cell in row.cells.values()]
    lowest = min([0.5, *(cell.stats["auroc"].mean for cell in cells if "auroc" in cell.stats)])
    ticks: dict[float, str] = {}
    y = 0
    for block in summary.blocks:
        panel.text(0, y + 0.6, canvas.plain(f"ID set {block.id_set}"), weight="bold", va="center")
        for i, row in enumerate(block.rows, start=y + 1):
            ticks[i + 0.5] = canvas.folded(row.label, LABEL)
            _heat_row(panel, row, sets, i, lowest, len(summary.seeds))
        y += len(block.rows) + 1
    panel.set_yticks(list(ticks), list(ticks.values()))
    _colour_bar(figure, panel, lowest)
    marks = _explained(cells, len(summary.seeds))
    marks += ["hatched: no result"] if any("auroc" not in cell.stats for cell in cells) else []
    canvas.title(figure, "AUROC (%)" + (", mean over seeds" if len(summary.seeds) > 1 else ""), "; ".join(marks))
    return figure


def _heat_panel(summary: Summary, sets: Sequence[str]) -> tuple[Figure, Axes]:
    lines = sum(len(block.rows) + 1 for block in summary.blocks)
    labels = [line for b in summary.blocks for row in b.rows for line in wrapped_label(row.label, LABEL)]
    slanted = 0.62 * canvas.text_inches(sets)
    margins = FigureMargins(canvas.text_inches(labels) + 0.2, max(0.8, slanted), 0.5 + slanted, 0.15)
    figure, ((panel,),) = canvas.grid(1, 1, (0.6 * len(sets), 0.24 * lines), margins)
    panel.set(xlim=(0, len(sets)), ylim=(lines, 0))
    panel.xaxis.tick_top()
    names = [canvas.plain(name) for name in sets]
    panel.set_xticks([x + 0.5 for x in range(len(sets))], names, rotation=40, ha="left", rotation_mode="anchor")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return figure, panel


def _heat_row(panel: Axes, row: TableRow, sets: Sequence[str], y: int, lowest: float, seeds: int) -> None:
    for x, name in enumerate(sets):
        if name in row.cells:
            _heat_cell(panel, row.cells[name], x, y, lowest, seeds)


def _heat_cell(panel: Axes, cell: TableCell, x: int, y: int, lowest: float, seeds: int) -> None:
    stat = cell.stats.get("auroc")
    if stat is None:
        panel.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor="#999999", hatch="////", linewidth=0.5))
        return
    colour = mpl.colormaps["cividis"]((stat.mean - lowest) / (1 - lowest))
    panel.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
    text = percent(stat.mean) + _marks(cell, "auroc", seeds)
    panel.text(x + 0.5, y + 0.52, text, ha="center", va="center", color=canvas.ink_on(colour))


def _colour_bar(figure: Figure, panel: Axes, lowest: float) -> None:
    box, width = panel.get_position(), figure.get_figwidth()
    height = min(box.height, 1.8 / figure.get_figheight())
    bar = figure.add_axes((box.x1 + 0.15 / width, box.y1 - height, 0.1 / width, height))
    step = 100 * (1 - lowest) / 64
    for i in range(64):
        bar.add_patch(Rectangle((0, 100 * lowest + i * step), 1, step, color=mpl.colormaps["cividis"](i / 63)))
    bar.set(xlim=(0, 1), ylim=(100 * lowest, 100), xticks=[])
    bar.yaxis.tick_right()
    bar.spines[:].set_visible(False)
