"""The four losses of Lee et al. (ICLR 2018) as rows of a run, and Figures 2 and 4: histograms, ROC curves and bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from oodbench.benchmark import Picture, Studio
from oodbench.benchmark.metrics import auroc, roc_curve
from oodbench.benchmark.records import OK, Record, slug
from oodbench.benchmark.views import _canvas as canvas
from oodbench.benchmark.views._canvas import Margins
from oodbench.benchmark.views._summary import Block, Row
from oodbench.detectors.msp import MSP
from oodbench.figures._lee2018_text import filled

Scores = NDArray[np.float64]


class Loss(NamedTuple):
    """One of the four losses: the detector's label in a run, its name in the figures, its colour in the paper."""

    label: str
    name: str
    colour: str
    hatch: str
    dash: Any


LOSSES = (
    Loss("msp", "cross-entropy", "#C1272D", "", "-"),
    Loss("confidence", "confidence loss, real outliers", "#2E9E4F", "////", "--"),
    Loss("gan_confidence", "confidence loss, original GAN", "#F08A24", "....", "-."),
    Loss("joint", "joint confidence loss", "#2B5FB3", "\\\\\\\\", (0, (4, 1, 1, 1, 1, 1))),
)
"""Red, green, orange and blue as in the paper's Figure 4; hatches and dashes for a grey print."""
BARS = {"tnr_at_tpr95": "TNR at TPR 95%", "auroc": "AUROC", "detection_accuracy": "Detection\naccuracy"}
OOD_COLOURS = ("#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#000000")
ID_GREY = "#B8B8B8"
BINS = 40
ROC_POINTS = 400


def rows_of(block: Block) -> dict[str, Row]:
    """The rows of the four losses that an ID set has, by label, each the plain detector of its name."""
    rows = {row.label: row for row in block.rows}
    return {loss.label: rows[loss.label] for loss in LOSSES if loss.label in rows}


def measured(block: Block, row: Row) -> list[str]:
    """The OOD sets on which a row has numbers."""
    return [ood.name for ood in block.sets if ood.name in row.cells and row.cells[ood.name].stats]


def lacking(studio: Studio, labels: Sequence[str]) -> str | None:
    """Why a run does not serve: no ID set has numbers of all these detectors."""
    for block in studio.summary().blocks:
        rows = rows_of(block)
        if all(label in rows and measured(block, rows[label]) for label in labels):
            return None
    return f"run '{studio.run.path.name}' has no results of {', '.join(labels)} on one ID set. Run 'bench run --add'."


def served(studio: Studio, labels: Sequence[str]) -> Iterator[tuple[Block, dict[str, Row]]]:
    """The ID sets that have numbers of all these detectors."""
    for block in studio.summary().blocks:
        rows = rows_of(block)
        if all(label in rows and measured(block, rows[label]) for label in labels):
            yield block, rows


def told_run(studio: Studio, block: Block) -> str:
    """The run, its network and its training, for a caption."""
    first = next(r for r in studio.run.records if r.id_set == block.id_set and r.status == OK)
    how = first.training
    trained = f", {how['images']:,} training images, {how['epochs']} epochs" if how else ""
    suite = studio.run.info.get("suite", {}).get("name", "?")
    return f"run `{studio.run.path.name}` of suite `{suite}`: network `{first.backbone}`{trained}"


def max_softmax(scores: Scores) -> Scores:
    """max_k p_k of each image, (N,), from stored MSP scores."""
    return np.asarray(MSP().confidence_of(scores), dtype=np.float64)


# Figure 2


def missing2(studio: Studio) -> str | None:
    """Why Figure 2 cannot be drawn from the run."""
    if reason := lacking(studio, ("msp", "confidence")):
        return reason
    reader = studio.scores()
    for block, _ in served(studio, ("msp", "confidence")):
        for label in ("msp", "confidence"):
            if any(not isinstance(reader.read(block, label, ood.name), str) for ood in block.sets):
                return None
    return f"the scores of run '{studio.run.path.name}' are not in its cache. Run the same command again."


def figure2(studio: Studio) -> Iterator[Picture]:
    """One picture an ID set: (a, b) histograms of the maximum softmax, (c) ROC curves, a panel an OOD set."""
    for block, rows in served(studio, ("msp", "confidence")):
        pairs = _pairs(studio, block, rows)
        shown = [ood.name for ood in block.sets if ood.name in pairs["msp"] and ood.name in pairs["confidence"]]
        if shown:
            figure = _draw2(block, shown, pairs)
            yield Picture(f"figure2_{slug(block.id_set)}", figure, _caption2(studio, block, shown, pairs))


Pairs = dict[str, dict[str, tuple[Scores, Scores]]]
"""Label -> OOD set -> maximum softmax of the ID and of the OOD images; ROC curves keep the exact scores' order."""


def _pairs(studio: Studio, block: Block, rows: dict[str, Row]) -> Pairs:
    reader = studio.scores()
    read = {label: {ood.name: reader.read(block, label, ood.name) for ood in block.sets} for label in rows}
    return {
        label: {name: pair for name, pair in own.items() if not isinstance(pair, str)} for label, own in read.items()
    }


def _draw2(block: Block, shown: list[str], pairs: Pairs) -> Figure:
    columns = max(len(shown), 2)
    side = 1.35
    total = columns * side + (columns - 1) * 0.18
    legend = 1.75
    margins = Margins(0.5, legend, 0.5, 0.42 + side + 0.72, across=0.45)
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
    kept = [loss for loss in LOSSES if pairs.get(loss.label)]
    lines = [Line2D([], [], color=loss.colour, linestyle=loss.dash, linewidth=1.3) for loss in kept]
    place = ((width - 1.75 + 0.1) / width, (0.42 + 1.35) / height)
    names = [loss.name.replace(", ", ",\n") for loss in kept]
    figure.legend(lines, names, loc="upper left", bbox_to_anchor=place, borderaxespad=0.0)


def _caption2(studio: Studio, block: Block, shown: list[str], pairs: Pairs) -> str:
    lines = []
    for loss in LOSSES:
        own = pairs.get(loss.label, {})
        if own:
            id_values = max_softmax(next(iter(own.values()))[0])
            told = ", ".join(
                f"{n} {np.median(max_softmax(own[n][1])):.3f} ({auroc(*own[n]):.3f})" for n in shown if n in own
            )
            lines.append(f"- {loss.name}: ID {np.median(id_values):.3f}; {told}")
    sources = [ood.name for ood in block.sets if ood.source]
    told_source = (
        f"the outliers of the confidence loss come from `{sources[0]}`"
        if sources
        else "no set shares the outliers' source"
    )
    return filled(f"""\
Histograms of the maximum softmax on the ID test set `{block.id_set}` and on OOD test sets (a) under
cross-entropy and (b) under the confidence loss on real outliers, {BINS} equal bins; (c) ROC curves with ID
positive, one colour a loss, that is, a source of outliers: none, real images, samples of an original GAN,
samples of the jointly trained GAN; {told_source}.

From {told_run(studio, block)}; first seed ({studio.scores().seed}). The paper's: a simple CNN (two
convolutions, three linear layers) trained on SVHN with CIFAR-10 as outliers, against TinyImageNet, LSUN and
synthetic noise; its panel (c) compares cross-entropy with outliers from TinyImageNet, LSUN and noise in one
panel. This run holds no classifiers trained on several real sources, so that (c) compares the four losses
instead, a panel an OOD set.

Measured, median of the maximum softmax (and AUROC of ID against the set, from the unrounded scores):

{chr(10).join(lines)}
""")


# Figure 4


def missing4(studio: Studio) -> str | None:
    """Why Figure 4 cannot be drawn from the run."""
    if reason := lacking(studio, [loss.label for loss in LOSSES]):
        return reason
    if not any(_unseen(block, rows) for block, rows in served(studio, [loss.label for loss in LOSSES])):
        return f"run '{studio.run.path.name}' has no OOD set that is not the outliers' own distribution."
    return None


def _unseen(block: Block, rows: dict[str, Row]) -> list[str]:
    return [
        ood.name
        for ood in block.sets
        if not ood.source and all(ood.name in measured(block, row) for row in rows.values())
    ]


def figure4(studio: Studio) -> Iterator[Picture]:
    """Bars of the four losses: a row an ID set, a panel an unseen OOD set, a group a metric."""
    kept = [(block, rows, _unseen(block, rows)) for block, rows in served(studio, [loss.label for loss in LOSSES])]
    kept = [entry for entry in kept if entry[2]]
    columns = max(len(sets) for _, _, sets in kept)
    figure, axes = canvas.grid(len(kept), columns, (1.75, 1.35), Margins(0.5, 0.15, 0.76, 0.36, 0.14, 0.45))
    for (block, rows, sets), panels in zip(kept, axes, strict=True):
        for i, panel in enumerate(panels):
            if i < len(sets):
                _bars(panel, rows, sets[i], first=i == 0)
                panel.set_title(canvas.plain(sets[i]), pad=3)
            else:
                panel.set_axis_off()
        panels[0].set_ylabel(canvas.plain(f"ID {block.id_set} (%)"))
    width, height = figure.get_size_inches()
    patches = [Patch(facecolor=x.colour, hatch=x.hatch, edgecolor="black", linewidth=0.4) for x in LOSSES]
    place = (0.1 / width, 1 - 0.42 / height)
    names = [loss.name for loss in LOSSES]
    figure.legend(
        patches, names, loc="center left", bbox_to_anchor=place, ncols=4 if width > 7.4 else 2, borderaxespad=0.0
    )
    seeds = len(studio.summary().seeds)
    canvas.title(
        figure, "The four losses on unseen OOD sets" + (f", mean and sd over {seeds} seeds" if seeds > 1 else "")
    )
    yield Picture("figure4", figure, _caption4(studio, kept))


def _bars(panel: Axes, rows: dict[str, Row], name: str, first: bool) -> None:
    for i, loss in enumerate(LOSSES):
        stats = [rows[loss.label].cells[name].stats[metric] for metric in BARS]
        places = [x + (i - 1.5) * 0.2 for x in range(len(BARS))]
        how = {"color": loss.colour, "hatch": loss.hatch, "edgecolor": "black", "linewidth": 0.4}
        panel.bar(places, [100 * stat.mean for stat in stats], 0.2, **how)
        spread = [100 * stat.std for stat in stats if stat.std is not None]
        if len(spread) == len(stats):
            means = [100 * stat.mean for stat in stats]
            panel.errorbar(places, means, spread, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.4)
    panel.set(xlim=(-0.5, len(BARS) - 0.5), ylim=(0, 109))
    panel.set_xticks(range(len(BARS)), [name.replace(" at ", "\nat ") for name in BARS.values()])
    panel.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100"] if first else [""] * 5)
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="y", color="#E5E5E5", linewidth=0.5)
    panel.set_axisbelow(True)


def order_counts(kept: Sequence[tuple[Block, dict[str, Row], list[str]]]) -> dict[str, tuple[int, int]]:
    """How often the joint loss has the higher mean than each other loss: (times, of how many set and metric pairs)."""
    counts = {}
    for loss in LOSSES[:3]:
        won = [
            rows["joint"].cells[name].stats[metric].mean > rows[loss.label].cells[name].stats[metric].mean
            for _, rows, sets in kept
            for name in sets
            for metric in BARS
        ]
        counts[loss.name] = (sum(won), len(won))
    return counts


def _caption4(studio: Studio, kept: Sequence[tuple[Block, dict[str, Row], list[str]]]) -> str:
    lines = [
        f"- ID `{block.id_set}`, `{name}`: "
        + "; ".join(
            f"{loss.name} " + " / ".join(f"{100 * rows[loss.label].cells[name].stats[m].mean:.1f}" for m in BARS)
            for loss in LOSSES
        )
        for block, rows, sets in kept
        for name in sets
    ]
    runs = "; ".join(told_run(studio, block) + f" on `{block.id_set}`" for block, _, _ in kept)
    wins = "; ".join(f"than {name} in {won} of {count}" for name, (won, count) in order_counts(kept).items())
    seeds = studio.summary().seeds
    told_seeds = f"bars are means over seeds {', '.join(map(str, seeds))}, whiskers one standard deviation (ddof = 1)"
    return filled(f"""\
TNR at TPR 95%, AUROC and detection accuracy of the maximum-softmax detector under four losses, in the paper's
colours: red cross-entropy, green the confidence loss on real outliers, orange on samples of an original GAN,
blue the joint loss. Only OOD sets whose distribution is not that of the real outliers, as in the paper.

From {runs}. {told_seeds if len(seeds) > 1 else f"Seed {seeds[0]} alone, so there are no whiskers"}. Exact
metrics; the paper's are of VGG-13 by its own grid rules, one run each, and the values of its bars are not in
its text: only the order can be compared.

The paper: blue is above red, green and orange "in all cases". Measured: the joint loss's mean is higher {wins}
cases. TNR / AUROC / detection accuracy in percent:

{chr(10).join(lines)}
""")


def first_records(studio: Studio, block: Block) -> dict[str, Record]:
    """One finished record a loss on an ID set, of the first seed: what says where its classifier is."""
    seed = studio.scores().seed
    found: dict[str, Record] = {}
    for record in studio.run.records:
        if record.id_set == block.id_set and record.seed == seed and record.status == OK:
            found.setdefault(record.label, record)
    return {loss.label: found[loss.label] for loss in LOSSES if loss.label in found}
