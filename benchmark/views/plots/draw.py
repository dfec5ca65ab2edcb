"""The plots of a run, PNG for the screen and SVG for a paper: ROC curves, histograms of scores, bars, a heat map.

They use matplotlib's figure objects and never pyplot, so there is no global state and no window system. Equal runs give
equal bytes. The colours suit colour-blind readers; line styles, hatches and printed numbers survive grey-scale print.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from oodbench.benchmark.metrics.exact import roc_curve
from oodbench.benchmark.records.record import OK, OTHER_THREADS, QUICK_TEST, QUICK_TRAINING, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.atomic import slug, unique_slug
from oodbench.benchmark.store.npy import stored_scores
from oodbench.benchmark.views.labels import wrapped_label
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.overview import bars, heatmap
from oodbench.benchmark.views.plots.style import FigureMargins, Look
from oodbench.benchmark.views.summary import Block, OodSet, Summary, TableRow, summary_of

Scores = NDArray[np.float64]

ROC_POINTS = 400
BINS = 48
ROWS_A_PAGE = 12
ID_GREY, OOD_BLUE = "#C4C4C4", "#0072B2"
NO_SCORES = "scores not in the cache"


def draw(run: StoredRun, cache_dir: Path) -> list[Path]:
    """Draw all plots that the run's records and the scores in `cache_dir` allow into the run's `plots/`."""
    summary = summary_of(run)
    store = ScoreReader.of(run, cache_dir, summary.seeds[0] if summary.seeds else 0)
    beginnings = {
        QUICK_TRAINING: "quick look: training shortened",
        QUICK_TEST: "quick look: test images left out",
        OTHER_THREADS: OTHER_THREADS,
    }
    notes = {note for record in run.records for note in record.notes}
    remarks = [text for start, text in beginnings.items() if any(note.startswith(start) for note in notes)]
    paths: list[Path] = []
    with canvas.styled():
        for name, figure in _figures(summary, store):
            if remarks:
                canvas.remark(figure, "; ".join(remarks))
            paths += canvas.saved(figure, run.path / "plots", name)
    return paths


@dataclass(frozen=True)
class ScoreReader:
    """Reads the stored scores behind a run's cells, for one seed."""

    cache_dir: Path
    seed: int
    records: Mapping[tuple[str, str, str], Record]

    @classmethod
    def of(cls, run: StoredRun, cache_dir: Path, seed: int) -> ScoreReader:
        """The reader for a run and a seed."""
        return cls(cache_dir, seed, {(r.id_set, r.label, r.ood_set): r for r in run.records if r.seed == seed})

    def read(self, block: Block, label: str, ood_set: str) -> tuple[Scores, Scores] | str:
        """The (N,) scores of the ID set and the (M,) scores of the OOD set, or why there are none."""
        record = self.records.get((block.id_set, label, ood_set))
        if record is None or record.status != OK:
            return record.status if record else "not run"
        id_scores, ood_scores = self._load(record, "id_scores"), self._load(record, "ood_scores")
        return NO_SCORES if id_scores is None or ood_scores is None else (id_scores, ood_scores)

    def _load(self, record: Record, name: str) -> Scores | None:
        scores = stored_scores(self.cache_dir, record.artifacts, name)
        return scores if scores is not None and scores.size else None


def _figures(summary: Summary, store: ScoreReader) -> Iterator[tuple[str, Figure]]:
    styles = canvas.looks(row.label for block in summary.blocks for row in block.rows)
    seed = f"seed {store.seed}" + (f", the first of {len(summary.seeds)}" if len(summary.seeds) > 1 else "")
    slugs = Counter(slug(block.id_set) for block in summary.blocks)
    for block in summary.blocks:
        name = slug(block.id_set)
        if slugs[name] > 1:  # such as digits[0-2] and digits+0-2
            name = unique_slug(block.id_set)
        yield f"roc_{name}", _roc(block, styles, store, seed)
        for page in range(0, len(block.rows), ROWS_A_PAGE):
            number = f"_{page // ROWS_A_PAGE + 1}" if page else ""
            yield f"histograms_{name}{number}", _histograms(block, block.rows[page : page + ROWS_A_PAGE], store, seed)
        yield f"bars_{name}", bars(block, styles, len(summary.seeds))
    if summary.blocks:
        yield "heatmap", heatmap(summary)


# ROC curves


def _roc(block: Block, styles: Mapping[str, Look], store: ScoreReader, seed: str) -> Figure:
    columns = min(3, len(block.sets))
    labels = [row.label for row in block.rows]
    margins = FigureMargins(0.5, canvas.legend_inches(labels), 0.68, 0.45, across=0.2, down=0.42)
    figure, axes = canvas.grid(-(-len(block.sets) // columns), columns, (2.0, 2.0), margins)
    panels = [panel for row in axes for panel in row]
    for i, (panel, ood) in enumerate(zip(panels, block.sets, strict=False)):
        _roc_panel(panel, block, ood, styles, store)
        _roc_axes(panel, bottom=i + columns >= len(block.sets), left=i % columns == 0)
    for panel in panels[len(block.sets) :]:
        panel.set_axis_off()
    lines = [Line2D([], [], color=styles[k].colour, linestyle=styles[k].dash, linewidth=1.2) for k in labels]
    canvas.legend_beside(figure, axes[0][-1], lines, labels)
    canvas.title(figure, f"ROC, ID set {block.id_set}", f"ID positive; grey line: 95% of ID accepted; {seed}")
    return figure


def _roc_panel(panel: Axes, block: Block, ood: OodSet, styles: Mapping[str, Look], store: ScoreReader) -> None:
    missing: dict[str, int] = {}
    for row in block.rows:
        scores = store.read(block, row.label, ood.name)
        if isinstance(scores, str):
            missing[scores] = missing.get(scores, 0) + 1
            continue
        style = styles[row.label]
        panel.plot(*roc_curve(*scores, points=ROC_POINTS), color=style.colour, linestyle=style.dash, linewidth=1.1)
    panel.set_title(canvas.plain(ood.heading), pad=3)
    if sum(missing.values()) == len(block.rows) and len(missing) == 1:
        canvas.say(panel, next(iter(missing)))
    elif missing:
        counts = "\n".join(f"{n} of {len(block.rows)}: {reason}" for reason, n in missing.items())
        canvas.say(panel, counts, 0.62, 0.12)


def _roc_axes(panel: Axes, bottom: bool, left: bool) -> None:
    panel.axhline(0.95, color="#BBBBBB", linewidth=0.7, zorder=0)
    panel.plot([0, 1], [0, 1], color="#DDDDDD", linewidth=0.7, zorder=0)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    names = ["0", "", "0.5", "", "1"]
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    panel.set_xticks(ticks, names if bottom else [""] * len(ticks))
    panel.set_yticks([*ticks[:-1], 0.95, 1], [*names[:-1], "0.95", ""] if left else [""] * 6)
    panel.set_xlabel("FPR (OOD accepted)" if bottom else "")
    panel.set_ylabel("TPR (ID accepted)" if left else "", labelpad=1)


# Histograms


def _histograms(block: Block, rows: Sequence[TableRow], store: ScoreReader, seed: str) -> Figure:
    """All panels in one axes, one unit square each: separate axes would take most of the time of all plots."""
    names = [line for row in rows for line in wrapped_label(row.label, 22)]
    margins = FigureMargins(canvas.text_inches(names) + 0.2, 0.15, 0.78, 0.3)
    figure, ((panel,),) = canvas.grid(1, 1, (1.45 * len(block.sets), 0.76 * len(rows)), margins)
    panel.set(xlim=(0, len(block.sets)), ylim=(len(rows), 0))
    panel.set_axis_off()
    for y, row in enumerate(rows):
        _histogram_row(panel, y, row.label, [store.read(block, row.label, ood.name) for ood in block.sets])
    for x, ood in enumerate(block.sets):
        panel.text(x + 0.5, -0.02, canvas.stacked(ood.heading), ha="center", va="bottom", fontsize=7.5)
    detail = f"higher = more OOD; each detector's central 99.8%; {seed}"
    canvas.title(figure, f"Scores, ID set {block.id_set}", detail)
    handles = [Patch(facecolor=ID_GREY), Patch(facecolor="none", edgecolor=OOD_BLUE, hatch="/////")]
    figure.legend(handles, ["ID", "OOD"], loc="lower left", ncols=2, bbox_to_anchor=(0.0, 0.0), borderaxespad=0.2)
    return figure


def _histogram_row(panel: Axes, y: int, label: str, pairs: Sequence[tuple[Scores, Scores] | str]) -> None:
    """One detector's panels, on the same score axis: wide enough for the central 99.8% of every set."""
    low, high = central_range([scores for pair in pairs if not isinstance(pair, str) for scores in pair])
    edges = np.linspace(low, high, BINS + 1)
    base = y + 0.78
    panel.text(-0.04, y + 0.45, canvas.folded(label, 22), ha="right", va="center")
    panel.hlines(
        [base] * len(pairs), np.arange(len(pairs)) + 0.04, np.arange(len(pairs)) + 0.96, "black", linewidth=0.6
    )
    for x, pair in enumerate(pairs):
        if isinstance(pair, str):
            panel.text(x + 0.5, y + 0.45, pair, ha="center", va="center", color="#555555", style="italic")
        else:
            _pair_of_histograms(panel, x, base, pair, edges)
            _score_ticks(panel, x, base, low, high)


def central_range(arrays: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The ends of a score axis that is wide enough for the central 99.8% of every set."""
    if not arrays:
        return 0.0, 1.0
    ends = np.array([np.quantile(array, [0.001, 0.999]) for array in arrays])
    low, high = float(ends.min()), float(ends.max())
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _pair_of_histograms(
    panel: Axes, x: int, base: float, pair: tuple[Scores, Scores], edges: NDArray[np.float64]
) -> None:
    """Histograms of shares, on a common scale, so that sets of different sizes can be compared."""
    id_share, ood_share = (np.histogram(scores, edges)[0] / scores.size for scores in pair)
    scale = 0.7 / (max(id_share.max(), ood_share.max()) or 1.0)
    places = np.linspace(x + 0.04, x + 0.96, len(edges))
    panel.stairs(base - scale * id_share, places, baseline=base, fill=True, facecolor=ID_GREY)
    look: dict[str, Any] = {"facecolor": "none", "edgecolor": OOD_BLUE, "hatch": "/////", "linewidth": 0.8}
    panel.stairs(base - scale * ood_share, places, baseline=base, fill=True, **look)


def _score_ticks(panel: Axes, x: int, base: float, low: float, high: float) -> None:
    values = [value for value in MaxNLocator(3).tick_values(low, high) if low <= value <= high]
    places = [x + 0.04 + 0.92 * (value - low) / (high - low) for value in values]
    panel.vlines(places, base, base + 0.04, "black", linewidth=0.6)
    for place, value in zip(places, values, strict=True):
        panel.text(place, base + 0.06, f"{value:g}", ha="center", va="top", fontsize=6.5)
