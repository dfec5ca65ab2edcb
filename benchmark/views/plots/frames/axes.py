"""What pictures of a data frame share: their options, and the axes that they are drawn on."""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.views.choice import Wanted, check_order, choose_rows, split_names
from oodbench.benchmark.views.metric_titles import metrics_of
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.draw import looks_of
from oodbench.benchmark.views.plots.options import Options
from oodbench.benchmark.views.plots.page import WIDTH
from oodbench.benchmark.views.recorded import check_recorded
from oodbench.benchmark.views.summary import Block, Summary

if TYPE_CHECKING:
    pass


def frame_options(
    summary: Summary,
    metric: str,
    sort: str,
    best: int | None,
    highlight: Wanted,
    names: Mapping[str, str] | None,
    log_fpr: bool = False,
) -> Options:
    """The options of a picture of a frame. Raises `UserError` for an unknown name, metric or order."""
    labels = [row.label for block in summary.blocks for row in block.rows]
    chosen = tuple(choose_rows(labels, highlight, names)) if split_names(highlight) else ()
    if sort:
        check_order(summary.blocks, sort)
    metrics = tuple(metrics_of([metric])) if metric else ()
    check_recorded(summary.blocks, metrics)
    options = Options(metrics=metrics, sort=sort, best=best, highlight=chosen, names=names or {}, log_fpr=log_fpr)
    return Options(**{**vars(options), "looks": looks_of(summary, options)})


def only_block(summary: Summary) -> Block:
    """The one ID set of a frame. Raises `UserError` if it has several."""
    found = [block.id_set for block in summary.blocks]
    if len(found) != 1:
        raise UserError(
            f"The frame has {len(found)} ID sets ({', '.join(found)}), but the picture shows one. Choose it, as in "
            f"frame[frame['id_set'] == {found[0]!r}]."
        )
    return summary.blocks[0]


def given_panels(axes: Axes | Iterable[Axes] | None, sets: Sequence[str], beside: float) -> list[Axes]:
    """The axes that are given, or new ones for these sets, with room for a legend of `beside` inches.

    Raises `UserError` if there are more or fewer axes than sets.
    """
    count = len(sets)
    if axes is None:
        import matplotlib.pyplot as plt  # a figure that notebooks show

        made = plt.subplots(1, count, figsize=(2.4 * count + beside, 2.8), layout="constrained", squeeze=False)[1]
        return list(made[0])
    panels = [axes] if isinstance(axes, Axes) else list(np.ravel(np.array(list(axes), dtype=object)))
    if len(panels) != count:
        raise UserError(
            f"The frame has {count} OOD sets ({', '.join(sets)}), but there are {len(panels)} axes. Give as many axes, "
            "or choose sets, as in frame[frame['ood_set'] == NAME]."
        )
    return panels


def new_axes(width: float, height: float) -> Axes:
    """Axes in a new figure of this size in inches."""
    import matplotlib.pyplot as plt  # a figure that notebooks show

    axes: Axes = plt.subplots(figsize=(width, height), layout="constrained")[1]
    return axes


def height_of_plan(plan: Any) -> float:
    """The height in inches that a picture needs."""
    return float(plan.fixed + plan.flexible)


def inches_of(axes: Axes) -> tuple[float, float]:
    """The width and height of axes."""
    figure = axes.get_figure(root=True)
    dpi = figure.dpi if figure is not None else 100.0
    box = axes.get_window_extent()
    return box.width / dpi, box.height / dpi


def sheet_axes(axes: Axes | None, height: Callable[[float], float], what: str) -> Axes:
    """Axes whose coordinates are inches from their top left corner, and which are high enough."""
    if axes is None:
        import matplotlib.pyplot as plt  # a figure that notebooks show

        needed, edge, above = height(WIDTH - 0.1), 0.05, 3 * measure.line_height()
        figure = plt.figure(figsize=(WIDTH, needed + above + edge))
        whole = needed + above + edge
        axes = figure.add_axes((edge / WIDTH, edge / whole, 1 - 2 * edge / WIDTH, needed / whole))
    width, tall = inches_of(axes)
    needed = height(width)
    if tall < needed - 0.02:
        raise UserError(
            f"The axes are {width:.1f} x {tall:.1f} inches, but {what} needs a height of {needed:.1f} at this width. "
            "Make the figure larger, choose fewer rows, or give no axes."
        )
    axes.set(xlim=(0, width), ylim=(tall, 0))
    axes.set_axis_off()
    return axes
