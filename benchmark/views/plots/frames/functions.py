"""Pictures of a data frame, on the caller's own axes: for notebooks, and for figures that show something else as well.

Every function takes a frame, as `Run.summary()` and `Run.scores()` give it or made by hand, and axes. Without axes it
makes a figure of pyplot with room for all. Style and size of text are the caller's (matplotlib's `rcParams`).
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from oodbench.benchmark.views.choice import Wanted
from oodbench.benchmark.views.plots import bars as upright
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.frames.axes import (
    frame_options,
    given_panels,
    height_of_plan,
    inches_of,
    new_axes,
    only_block,
    sheet_axes,
)
from oodbench.benchmark.views.plots.frames.content import scores_content, summary_content
from oodbench.benchmark.views.plots.heatmap import draw_heatmap, heat_plan
from oodbench.benchmark.views.plots.histograms import draw_histograms, histogram_key, histogram_plan, scale_of_pairs
from oodbench.benchmark.views.plots.multiples import draw_multiples, multiples_key, multiples_plan
from oodbench.benchmark.views.plots.options import FEW, in_colour, ranked, shown
from oodbench.benchmark.views.plots.page import NARROW
from oodbench.benchmark.views.plots.roc import curves, draw_panel, frame, roc_key
from oodbench.benchmark.views.plots.row_marks import bar_handles, dot_handles, draw_bars, draw_dots
from oodbench.benchmark.views.plots.row_table import row_table, title_of
from oodbench.benchmark.views.plots.rows import frame_rows
from oodbench.benchmark.views.plots.style import plain

if TYPE_CHECKING:
    import pandas as pd

NAMES = 2.6
"""Inches of the names of rows, at most."""

BESIDE: Mapping[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0, "frameon": False}
ABOVE: Mapping[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.01), "borderaxespad": 0.0, "frameon": False}


def plot_roc(
    scores: pd.DataFrame,
    axes: Axes | Iterable[Axes] | None = None,
    *,
    best: int | None = None,
    highlight: Wanted = (),
    log_fpr: bool = False,
    sort: str = "",
    names: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes | list[Axes]:
    """Draw ROC curves, a curve per detector.

    Args:
        scores: A row per detector and OOD set of one ID set, as `Run.scores` gives it: `label`, `ood_set`, `id_scores`
            and `ood_scores`, (N,) and (M,) arrays, higher = more OOD; and optionally `id_set`, `group`.
        axes: Axes for one OOD set, or as many axes as there are OOD sets; None for a new figure of pyplot.
        best: How many detectors are in colour, the others grey; None: all of up to 8, or the best 8.
        highlight: Detectors that are in colour whatever their place: labels, names, patterns.
        log_fpr: Whether false positive rates have a logarithmic axis.
        sort: What is best, such as 'near:auroc'.
        names: Label -> the name to show.
        legend: Whether the last axes have a legend, at their right.

    Returns:
        The axes: one, or a list for several OOD sets.

    Raises:
        UserError: For a frame, name, order or number of axes that does not fit.

    Example:
        >>> plot_roc(run.scores().query("id_set == 'digits' and ood_set == 'greek'"), ax)  # doctest: +SKIP
    """
    summary, source = scores_content(scores)
    block = only_block(summary)
    options = frame_options(summary, "", sort, best, highlight, names, log_fpr)
    front = [row.label for row in in_colour(block, options)]
    beside = measure.widest(map(options.name, front)) + 1.0
    panels = given_panels(axes, [ood.heading for ood in block.sets], beside)
    looks = {label: options.looks[label] for label in front}
    for panel, ood in zip(panels, block.sets, strict=True):
        found = curves(block, ood, source, options, front)
        draw_panel(panel, found, looks)
        width, height = inches_of(panel)
        frame(panel, found.floor, True, panel is panels[0] or len(panels) == 1, width, height)
        panel.set_title(plain(ood.heading))
    if legend:
        lines, texts = roc_key(looks, options, len(block.rows) - len(front))
        panels[-1].legend(lines, [plain(text) for text in texts], **BESIDE)
    return panels[0] if isinstance(axes, Axes) or len(panels) == 1 else panels


def plot_dots(
    numbers: pd.DataFrame,
    axes: Axes | None = None,
    *,
    metric: str = "auroc",
    sort: str = "",
    best: int | None = None,
    highlight: Wanted = (),
    names: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes:
    """Draw a row per detector: near and far mean of a metric as two dots, with 95% intervals over draws of test images.

    Args:
        numbers: A row per detector, OOD set and metric of one ID set, as `Run.summary` gives it: `label`, `ood_set`,
            `metric`, `mean`; and optionally `id_set`, `group`, `outlier_source`, `seen`, `low`, `high`, `scope`.
        axes: The axes to draw on; None for a new figure of pyplot that is high enough for all rows.
        metric: The metric; `fpr95` is `fpr_at_tpr95`.
        sort: The order of the rows; by default by this metric's near mean if there are more than 8.
        best: How many of the best rows are shown, beside those of `highlight`; None: all.
        highlight: Detectors that are shown in bold whatever their place.
        names: Label -> the name to show.
        legend: Whether the axes have a legend, above them.

    Raises:
        UserError: For a frame, metric, name or order that does not fit.

    Example:
        >>> plot_dots(run.summary().query("id_set == 'digits'"), ax, metric="fpr95")  # doctest: +SKIP
    """
    return _rows(numbers, axes, metric, sort, best, highlight, names, legend, as_bars=False)


def plot_bars(
    numbers: pd.DataFrame,
    axes: Axes | None = None,
    *,
    metric: str = "auroc",
    sort: str = "",
    best: int | None = None,
    highlight: Wanted = (),
    names: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes:
    """Draw bars of a metric: a group per OOD set for up to 8 detectors, a row per detector for more.

    Arguments, errors and what is returned are those of `plot_dots`.

    Example:
        >>> plot_bars(run.summary().query("id_set == 'digits'"), ax, metric="tnr95")  # doctest: +SKIP
    """
    summary = summary_content(numbers)
    block = only_block(summary)
    options = frame_options(summary, metric, sort, best, highlight, names)
    rows, _ = shown(block, options)
    if len(rows) > FEW:
        return _rows(numbers, axes, metric, sort, best, highlight, names, legend, as_bars=True)
    beside = measure.widest([options.name(row.label) for row in rows]) + 1.0
    axes = axes or new_axes(max(3.4, 1.25 * len(block.sets)) + beside, 2.4)
    one = options.metrics[0]
    upright.draw_groups(axes, rows, block.sets, one, options)
    width, _ = inches_of(axes)
    texts = [measure.drawn(ood.heading, width / len(block.sets) - 0.04) for ood in block.sets]
    axes.set_xticks(range(len(block.sets)), texts)
    axes.set_ylabel(plain(title_of(one)))
    if legend:
        axes.legend(upright.handles(rows, options), [plain(options.name(row.label)) for row in rows], **BESIDE)
    return axes


def plot_heatmap(
    numbers: pd.DataFrame,
    axes: Axes | None = None,
    *,
    metric: str = "auroc",
    sort: str = "",
    best: int | None = None,
    highlight: Wanted = (),
    names: Mapping[str, str] | None = None,
) -> Axes:
    """Draw a heat map of a metric: a row per detector, columns by ID set, near before far.

    Arguments are those of `plot_dots`; the frame may have several ID sets. The picture fills the axes from the top left
    and hides their ticks; its coordinates are inches. More than 8 rows are sorted, similar ones in groups.

    Raises:
        UserError: As for `plot_dots`, or if the axes are not high enough for the text.

    Example:
        >>> plot_heatmap(run.summary(), metric="fpr95")  # doctest: +SKIP
    """
    summary = summary_content(numbers)
    options = frame_options(summary, metric, sort, best, highlight, names)
    one = options.metrics[0]
    axes = sheet_axes(axes, lambda width: height_of_plan(heat_plan(summary, one, options, width)), "this heat map")
    draw_heatmap(axes, heat_plan(summary, one, options, inches_of(axes)[0]), options)
    return axes


def plot_histograms(
    scores: pd.DataFrame,
    axes: Axes | None = None,
    *,
    sort: str = "",
    best: int | None = None,
    highlight: Wanted = (),
    names: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes:
    """Draw histograms of scores: a row per detector, a panel per OOD set, on a linear or an asinh scale.

    `scores` is the frame of `plot_roc`, the other arguments are those of `plot_dots`. The picture fills the axes from
    the top left and hides their ticks; its coordinates are inches.

    Raises:
        UserError: As for `plot_roc`, or if the axes are not high enough for the text.

    Example:
        >>> plot_histograms(run.scores().query("id_set == 'digits'"), best=6)  # doctest: +SKIP
    """
    summary, source = scores_content(scores)
    block = only_block(summary)
    options = frame_options(summary, "", sort, best, highlight, names)
    rows, _ = shown(block, options)
    axes = sheet_axes(
        axes,
        lambda width: height_of_plan(histogram_plan(rows, block.sets, options, width, width < NARROW)),
        "histograms of these rows",
    )
    width, _ = inches_of(axes)
    plan = histogram_plan(rows, block.sets, options, width, width < NARROW)
    pairs = [[source.read(block, row.label, ood.name) for ood in block.sets] for row in rows]
    draw_histograms(axes, plan, pairs, [scale_of_pairs(found) for found in pairs])
    if legend:
        patches, texts = histogram_key()
        axes.legend(patches, texts, ncols=2, **ABOVE)
    return axes


def plot_multiples(
    scores: pd.DataFrame,
    axes: Axes | None = None,
    *,
    metric: str = "auroc",
    sort: str = "",
    best: int | None = None,
    highlight: Wanted = (),
    names: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes:
    """Draw a small ROC panel per detector, the best first, with the curves of all OOD sets.

    `scores` is the frame of `plot_roc`, the other arguments are those of `plot_dots`; `metric` is written in the
    panels. The picture fills the axes from the top left and hides their ticks; its coordinates are inches.

    Raises:
        UserError: As for `plot_roc`, or if the axes are not high enough for the text.

    Example:
        >>> plot_multiples(run.scores().query("id_set == 'digits'"), best=12)  # doctest: +SKIP
    """
    summary, source = scores_content(scores)
    block = only_block(summary)
    options = frame_options(summary, metric, sort, best, highlight, names)
    rows = shown(block, options)[0] if best is not None else ranked(block, options)
    texts = [options.name(row.label) for row in rows]
    axes = sheet_axes(axes, lambda width: height_of_plan(multiples_plan(texts, width)), "a panel for each row")
    draw_multiples(axes, multiples_plan(texts, inches_of(axes)[0]), block, rows, source, options.metrics[0])
    if legend:
        lines, groups = multiples_key(block)
        axes.legend(lines, groups, ncols=3, **ABOVE)
    return axes


# What they share


def _rows(
    numbers: pd.DataFrame,
    axes: Axes | None,
    metric: str,
    sort: str,
    best: int | None,
    highlight: Wanted,
    names: Mapping[str, str] | None,
    legend: bool,
    as_bars: bool,
) -> Axes:
    summary = summary_content(numbers)
    block = only_block(summary)
    options = frame_options(summary, metric, sort, best, highlight, names)
    rows, _ = shown(block, options)
    table = row_table(block, rows, options.metrics, options, NAMES, as_bars)
    axes = axes or new_axes(5.5, table.height + 0.9)
    (draw_bars if as_bars else draw_dots)(axes, table, 0)
    frame_rows(axes, table, 0, inches_of(axes)[0], named=True)
    axes.set_xlabel(plain(title_of(options.metrics[0])))
    if legend:
        handles = (bar_handles if as_bars else dot_handles)(table.series)
        texts = [plain(one.name) for one in table.series]
        axes.legend(handles, texts, ncols=len(texts) if len(texts) < 3 else 2, **ABOVE)
    return axes
