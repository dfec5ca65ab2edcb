"""Figure 2 of Lee et al. (ICLR 2018): histograms of the maximum softmax and ROC curves, from a run's stored scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from oodbench.benchmark import FigureInputs, Picture
from oodbench.benchmark.metrics.exact import auroc, roc_curve
from oodbench.benchmark.store.atomic import slug
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.benchmark.views.summary import Block, TableRow
from oodbench.detectors.msp import MSP
from oodbench.figures._lee2018_losses import LOSSES, describe_run, lacking, served
from oodbench.figures._lee2018_text import filled

Scores = NDArray[np.float64]

OOD_COLOURS = ("#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#000000")
ID_GREY = "#B8B8B8"
BINS = 40
ROC_POINTS = 400


def max_softmax(scores: Scores) -> Scores:
    """max_k p_k of each image, (N,), from (N,) stored MSP scores."""
    return np.asarray(MSP().confidence_of(scores), dtype=np.float64)


def missing2(inputs: FigureInputs) -> str | None:
    """Why Figure 2 cannot be drawn from the run."""
    if reason := lacking(inputs, ("msp", "confidence")):
        return reason
    reader = inputs.scores()
    for block, _ in served(inputs, ("msp", "confidence")):
        for label in ("msp", "confidence"):
            if any(not isinstance(reader.read(block, label, ood.name), str) for ood in block.sets):
                return None
    return f"the scores of run '{inputs.run.path.name}' are not in its cache. Repeat the command that made the run."


def figure2(inputs: FigureInputs) -> Iterator[Picture]:
    """One picture per ID set: (a, b) histograms of the maximum softmax, (c) ROC curves, one panel per OOD set."""
    for block, rows in served(inputs, ("msp", "confidence")):
        pairs = _pairs(inputs, block, rows)
        shown = [ood.name for ood in block.sets if ood.name in pairs["msp"] and ood.name in pairs["confidence"]]
        if shown:
            figure = _draw2(block, shown, pairs)
            yield Picture(f"figure2_{slug(block.id_set)}", figure, _caption2(inputs, block, shown, pairs))


Pairs = dict[str, dict[str, tuple[Scores, Scores]]]
"""Label -> OOD set -> scores of the ID and of the OOD images, as stored."""


def _pairs(inputs: FigureInputs, block: Block, rows: dict[str, TableRow]) -> Pairs:
    reader = inputs.scores()
    read = {label: {ood.name: reader.read(block, label, ood.name) for ood in block.sets} for label in rows}
    return {
        label: {name: pair for name, pair in by_set.items() if not isinstance(pair, str)}
        for label, by_set in read.items()
    }


def _draw2(block: Block, shown: list[str], pairs: Pairs) -> Figure:
    columns = max(len(shown), 2)
    side = 1.35
    total = columns * side + (columns - 1) * 0.18
    legend = max(1.75, canvas.legend_inches(["ID test", *shown]))
    margins = FigureMargins(0.5, legend, 0.5, 0.42 + side + 0.72, across=0.45)
    figure, (tops,) = canvas.grid(1, 2, ((total - 0.45) / 2, 1.6), margins)
    width, height = figure.get_size_inches()
    for panel, loss, letter in zip(tops, LOSSES, "ab", strict=False):
        _histogram(panel, pairs[loss.label], shown)
        panel.set_title(f"({letter}) {loss.name}")
        panel.set_xlabel("maximum softmax", labelpad=1)
    tops[0].set_ylabel("share of images a bin")
    highest = max(panel.get_ylim()[1] for panel in tops)
    for panel in tops:
        panel.set_ylim(0, highest)
    for i, name in enumerate(shown):
        left = (0.5 + i * (side + 0.18)) / width
        panel = figure.add_axes((left, 0.42 / height, side / width, side / height))
        _roc(panel, pairs, name, i == 0)
        seen = next(ood for ood in block.sets if ood.name == name).source
        panel.set_title(canvas.plain(name + ("\n(outlier source)" if seen else "")), pad=3)
    figure.text(0.1 / width, (0.42 + side + 0.3) / height, "(c)", fontsize=7.5, va="bottom")
    _legends2(figure, tops[1], shown, pairs)
    canvas.title(figure, f"Maximum softmax and ROC, ID set {block.id_set}")
    return figure


def _histogram(panel: Axes, pairs: dict[str, tuple[Scores, Scores]], shown: list[str]) -> None:
    edges = np.linspace(0, 1, BINS + 1)
    id_values = max_softmax(pairs[shown[0]][0])
    share = np.histogram(id_values, edges)[0] / len(id_values)
    panel.stairs(share, edges, fill=True, facecolor=ID_GREY, label="ID")
    for name, colour in zip(shown, _ood_colours(len(shown)), strict=True):
        values = max_softmax(pairs[name][1])
        panel.stairs(np.histogram(values, edges)[0] / len(values), edges, color=colour, linewidth=1.1)
    panel.set_xlim(0, 1)


def _ood_colours(count: int) -> list[str]:
    return [OOD_COLOURS[i % len(OOD_COLOURS)] for i in range(count)]


def _roc(panel: Axes, pairs: Pairs, name: str, first: bool) -> None:
    for loss in LOSSES:
        if name in pairs.get(loss.label, {}):
            curve = roc_curve(*pairs[loss.label][name], points=ROC_POINTS)
            panel.plot(*curve, color=loss.colour, linestyle=loss.dash, linewidth=1.1)
    panel.plot([0, 1], [0, 1], color="#DDDDDD", linewidth=0.7, zorder=0)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="FPR (OOD accepted)")
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if first else ["", "", ""])
    panel.set_ylabel("TPR (ID accepted)" if first else "", labelpad=1)


def _legends2(figure: Figure, top: Axes, shown: list[str], pairs: Pairs) -> None:
    sets = [Patch(facecolor=ID_GREY), *(Line2D([], [], color=c, linewidth=1.3) for c in _ood_colours(len(shown)))]
    canvas.legend_beside(figure, top, sets, ["ID test", *shown])
    width, height = figure.get_size_inches()
    drawn = [loss for loss in LOSSES if pairs.get(loss.label)]
    lines = [Line2D([], [], color=loss.colour, linestyle=loss.dash, linewidth=1.3) for loss in drawn]
    place = ((width - 1.75 + 0.1) / width, (0.42 + 1.35) / height)
    names = [loss.name.replace(", ", ",\n") for loss in drawn]
    figure.legend(lines, names, loc="upper left", bbox_to_anchor=place, borderaxespad=0.0)


def _caption2(inputs: FigureInputs, block: Block, shown: list[str], pairs: Pairs) -> str:
    lines = []
    for loss in LOSSES:
        by_set = pairs.get(loss.label, {})
        if by_set:
            id_values = max_softmax(next(iter(by_set.values()))[0])
            of_ood = ", ".join(
                f"{n} {np.median(max_softmax(by_set[n][1])):.3f} ({auroc(*by_set[n]):.3f})"
                for n in shown
                if n in by_set
            )
            lines.append(f"- {loss.name}: ID {np.median(id_values):.3f}; {of_ood}")
    sources = [ood.name for ood in block.sets if ood.source]
    source = (
        f"The outliers of the confidence loss come from `{sources[0]}`"
        if sources
        else "None of the sets comes from the source of the outliers"
    )
    return filled(f"""\
Histograms of the maximum softmax on the ID test set `{block.id_set}` and on OOD test sets (a) under
cross-entropy and (b) under the confidence loss on real outliers, {BINS} equal bins; (c) ROC curves with ID
positive, one colour per loss. The losses differ in their source of outliers: none, real images, samples of an original
GAN, samples of the jointly trained GAN. {source}.

From {describe_run(inputs, block)}; first seed ({inputs.scores().seed}). The paper uses a simple CNN (two
convolutions, three linear layers) trained on SVHN with CIFAR-10 as outliers, against TinyImageNet, LSUN and
synthetic noise; its panel (c) compares cross-entropy with outliers from TinyImageNet, LSUN and noise. This run has no
classifiers trained on several real sources of outliers, so (c) compares the four losses instead, with one panel per
OOD set.

Measured, median of the maximum softmax (and AUROC of ID against the set, from the unrounded scores):

{chr(10).join(lines)}
""")
