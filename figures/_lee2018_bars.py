"""Figure 4 of Lee et al. (ICLR 2018): bars of the four losses on unseen OOD sets, from a run's records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from oodbench.benchmark import FigureInputs, Picture
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.benchmark.views.summary import Block, TableRow
from oodbench.figures._lee2018_losses import LOSSES, describe_run, lacking, measured, served
from oodbench.figures._lee2018_text import filled

BARS = {"tnr_at_tpr95": "TNR at TPR 95%", "auroc": "AUROC", "detection_accuracy": "Detection\naccuracy"}


def missing4(inputs: FigureInputs) -> str | None:
    """Why Figure 4 cannot be drawn from the run."""
    if reason := lacking(inputs, [loss.label for loss in LOSSES]):
        return reason
    if not any(_unseen(block, rows) for block, rows in served(inputs, [loss.label for loss in LOSSES])):
        return f"run '{inputs.run.path.name}' has no OOD set that is not the outliers' own distribution."
    return None


def _unseen(block: Block, rows: dict[str, TableRow]) -> list[str]:
    return [
        ood.name
        for ood in block.sets
        if not ood.source and all(ood.name in measured(block, row) for row in rows.values())
    ]


def figure4(inputs: FigureInputs) -> Iterator[Picture]:
    """Bars of the four losses: one row per ID set, one panel per unseen OOD set, one group of bars per metric."""
    blocks = [(block, rows, _unseen(block, rows)) for block, rows in served(inputs, [loss.label for loss in LOSSES])]
    blocks = [entry for entry in blocks if entry[2]]
    columns = max(len(sets) for _, _, sets in blocks)
    figure, axes = canvas.grid(len(blocks), columns, (1.75, 1.35), FigureMargins(0.5, 0.15, 0.76, 0.36, 0.14, 0.45))
    for (block, rows, sets), panels in zip(blocks, axes, strict=True):
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
    seeds = len(inputs.summary().seeds)
    canvas.title(
        figure, "The four losses on unseen OOD sets" + (f", mean and sd over {seeds} seeds" if seeds > 1 else "")
    )
    yield Picture("figure4", figure, _caption4(inputs, blocks))


def _bars(panel: Axes, rows: dict[str, TableRow], name: str, first: bool) -> None:
    for i, loss in enumerate(LOSSES):
        stats = [rows[loss.label].cells[name].stats[metric] for metric in BARS]
        places = [x + (i - 1.5) * 0.2 for x in range(len(BARS))]
        look: dict[str, Any] = {"color": loss.colour, "hatch": loss.hatch, "edgecolor": "black", "linewidth": 0.4}
        panel.bar(places, [100 * stat.mean for stat in stats], 0.2, **look)
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


def order_counts(blocks: Sequence[tuple[Block, dict[str, TableRow], list[str]]]) -> dict[str, tuple[int, int, int]]:
    """Name of each other loss -> in how many cases the joint loss's mean is higher, in how many equal, of how many.

    A case is an OOD set and a metric.
    """
    counts = {}
    for loss in LOSSES[:3]:
        gains = [
            rows["joint"].cells[name].stats[metric].mean - rows[loss.label].cells[name].stats[metric].mean
            for _, rows, sets in blocks
            for name in sets
            for metric in BARS
        ]
        counts[loss.name] = (sum(gain > 0 for gain in gains), gains.count(0.0), len(gains))
    return counts


def _caption4(inputs: FigureInputs, blocks: Sequence[tuple[Block, dict[str, TableRow], list[str]]]) -> str:
    lines = [
        f"- ID `{block.id_set}`, `{name}`: "
        + "; ".join(
            f"{loss.name} " + " / ".join(f"{100 * rows[loss.label].cells[name].stats[m].mean:.1f}" for m in BARS)
            for loss in LOSSES
        )
        for block, rows, sets in blocks
        for name in sets
    ]
    runs = "; ".join(describe_run(inputs, block) + f" on `{block.id_set}`" for block, _, _ in blocks)
    wins = "; ".join(
        f"than {name} in {won} of {count} (equal in {equal})"
        for name, (won, equal, count) in order_counts(blocks).items()
    )
    seeds = inputs.summary().seeds
    over_seeds = f"Bars are means over seeds {', '.join(map(str, seeds))}, whiskers one standard deviation (ddof = 1)"
    return filled(f"""\
TNR at TPR 95%, AUROC and detection accuracy of the maximum-softmax detector under four losses, in the paper's
colours: red cross-entropy, green the confidence loss on real outliers, orange on samples of an original GAN,
blue the joint loss. Only OOD sets whose distribution is not that of the real outliers are shown, as in the paper.

From {runs}. {over_seeds if len(seeds) > 1 else f"Seed {seeds[0]} only, so there are no whiskers"}. The metrics are
exact; those of the paper are for VGG-13 by its own grid rules, one run each, and the values of its bars are not in
its text, so only the order can be compared.

The paper: blue is above red, green and orange "in all cases". Measured: the joint loss's mean is higher {wins}
cases. TNR / AUROC / detection accuracy in percent:

{chr(10).join(lines)}
""")
