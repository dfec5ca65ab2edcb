"""Plots of an evaluation, on axes of the user's own or in a new figure of pyplot."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import auroc, roc_curve
from oodbench.benchmark.store.schema import ByClass
from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.plots.histograms import ID_GREY
from oodbench.benchmark.views.plots.score_scale import central_range
from oodbench.benchmark.views.plots.scores import ROC_POINTS
from oodbench.benchmark.views.plots.style import looks, plain

Scores = NDArray[Any]

WHITE_BELOW = 0.5
"""AUROC below which a cell of the heat map is so dark that its number is white."""


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # a figure that notebooks show

    return plt.subplots()[1]


def plot_roc(id_scores: Scores, ood_scores: Mapping[str, Scores], title: str, ax: Axes | None) -> Axes:
    """A curve per OOD set, with its AUROC in the legend; grey lines: 95% of ID accepted, and chance."""
    ax = _axes(ax)
    ax.axhline(0.95, color="#BBBBBB", linewidth=0.7, zorder=0)
    ax.plot([0, 1], [0, 1], color="#DDDDDD", linewidth=0.7, zorder=0)
    styles = looks(ood_scores)
    for key, scores in ood_scores.items():
        curve = roc_curve(id_scores, scores, points=ROC_POINTS)
        label = plain(f"{key} (AUROC {percent(auroc(id_scores, scores))})")
        ax.plot(*curve, color=styles[key].colour, linestyle=styles[key].dash, linewidth=1.3, label=label)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="FPR (OOD accepted)", ylabel="TPR (ID accepted)")
    ax.set_title(plain(title))
    ax.legend(loc="lower right", frameon=False)
    return ax


def plot_histogram(id_scores: Scores, ood_scores: Mapping[str, Scores], title: str, ax: Axes | None, bins: int) -> Axes:
    """ID filled in grey, each OOD set as an outline, as shares of their own set."""
    if bins < 1:
        raise UserError(f"bins is {bins}; expected 1 or more.")
    ax = _axes(ax)
    arrays = [id_scores, *ood_scores.values()]
    edges = np.linspace(*central_range(arrays), bins + 1)
    shares = [np.histogram(scores, edges)[0] / len(scores) for scores in arrays]
    ax.stairs(shares[0], edges, fill=True, color=ID_GREY, label="ID")
    styles = looks(ood_scores)
    for key, share in zip(ood_scores, shares[1:], strict=True):
        ax.stairs(share, edges, color=styles[key].colour, linestyle=styles[key].dash, linewidth=1.3, label=plain(key))
    ax.set(xlabel="score (higher = more OOD)", ylabel="share of images", ylim=(0, None))
    ax.set_title(plain(title))
    ax.legend(frameon=False)
    return ax


def plot_classes(found: ByClass, title: str, ood_set: str, ax: Axes | None) -> Axes:
    """The AUROC of each ID class (rows) against each OOD class, in percent; the darker, the more confused."""
    if not found.pairs:
        raise UserError(
            f"AUROC by pairs of classes on '{ood_set}' needs labels of two classes or more on both sides: give "
            "id_labels and ood_labels."
        )
    values = np.array(found.pairs)
    if ax is None:
        import matplotlib.pyplot as plt  # a figure that notebooks show

        rows, columns = values.shape
        ax = plt.subplots(figsize=(1.8 + 0.36 * columns, 1.5 + 0.26 * rows), layout="constrained")[1]
    ax.imshow(1 - values, cmap="Oranges", vmin=0, vmax=0.7, aspect="auto")
    ax.set_xticks(range(len(found.ood)), [plain(one.name) for one in found.ood], rotation=90)
    ax.set_yticks(range(len(found.id)), [plain(one.name) for one in found.id])
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value < WHITE_BELOW else "black"
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    ax.set(xlabel=plain(f"OOD class ({ood_set})"), ylabel="ID class")
    ax.set_title(plain(f"{title}: AUROC by class, %" if title else "AUROC by class, %"), fontsize=10)
    return ax
