"""`bench plot`: redraw a run's plots, or draw pictures by choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oodbench.benchmark.cli.base import PATH, Command, results_option
from oodbench.benchmark.cli.streams import note
from oodbench.benchmark.records.paths import cache_of, run_dir

if TYPE_CHECKING:
    from oodbench.benchmark.records.run import StoredRun

LABELS, PAPER = "labels", "paper"
"""How detectors are named: as on the command line, or as their papers do."""


@click.command(
    cls=Command,
    short_help="Redraw a run's plots, or draw some by choice.",
    examples="""
    bench plot digits
    bench plot digits --kind roc --best 8 --size 3.3 --format pdf
    bench plot digits --kind roc --detectors "vim,knn,*mahalanobis*" --ood near --log-fpr -o figures/
    bench plot digits --kind dots --metric fpr95 --sort near:fpr95 --id digits -o dots.pdf
    bench plot digits --kind heatmap --style grey --names paper
    """,
)
@click.argument("run_name", metavar="RUN")
@click.option(
    "--kind", "kinds", default="", metavar="KIND,...", help="roc, histograms, bars, dots, heatmap, multiples."
)
@click.option("--detectors", default="", metavar="NAME,...", help="Rows to show: labels, names, patterns with '*'.")
@click.option("--id", "id_sets", default="", metavar="SET,...", help="ID sets to show.")
@click.option("--ood", default="", metavar="SET,...", help="OOD sets to show: names, patterns, near, far.")
@click.option("--metric", "metrics", default="", metavar="NAME,...", help="Of bars, dots, the heat map and sorting.")
@click.option("--sort", default="", metavar="GROUP:METRIC", help="Order of the rows, such as near:auroc.")
@click.option(
    "--best",
    type=click.IntRange(0),
    metavar="N",
    help="Rows in colour (roc), or shown (other kinds): the N best.  [default: 8 in colour, all shown]",
)
@click.option("--highlight", default="", metavar="NAME,...", help="Rows in colour or shown whatever their place.")
@click.option("--log-fpr", is_flag=True, help="Logarithmic axis of false positive rates (roc).")
@click.option(
    "--size", default="", metavar="WxH", help="Inches: 3.3x2.5, or 3.3 for a height that suits.  [default: up to 7.2]"
)
@click.option(
    "--style", default="screen", show_default=True, metavar="NAME", help="screen, paper, grey, slides, FILE.mplstyle."
)
@click.option("--names", default=LABELS, show_default=True, metavar="HOW", help="labels, paper, or FILE.toml.")
@click.option("--format", "formats", default="", metavar="NAME,...", help="png, svg, pdf.  [default: png,svg]")
@click.option("--output", "-o", "out", type=PATH, metavar="FILE|DIR", help="Where to write.  [default: plots/chosen]")
@results_option
def plot(run_name: str, results: Path, **asked: Any) -> None:
    """Redraw a run's plots from its records and stored scores, and print their paths.

    RUN is a name or a folder. With any of the options, only the pictures that they describe are drawn, into the folder
    plots/chosen of the run or to --output; a run's own plots stay as they are. If the run is unfinished, standard error
    says how many cells are missing, and how to continue.
    """
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.views.plots import draw as plots
    from oodbench.benchmark.views.plots.chosen import save_chosen

    folder = run_dir(results, run_name)
    run_ = read_stored_run(folder)
    cache = cache_of(folder, results)
    if _is_default(asked):
        paths = plots.draw(run_, cache)
    else:
        paths = save_chosen(run_, cache, _choice(run_, asked), asked["formats"], asked["out"])
    for path in paths:
        click.echo(str(path))
    for sentence in run_.unfinished:
        note(sentence)


def _is_default(asked: Mapping[str, Any]) -> bool:
    defaults = {"style": "screen", "names": LABELS, "best": None, "out": None, "log_fpr": False}
    return all(value == defaults.get(name, "") for name, value in asked.items())


def _choice(run: StoredRun, asked: Mapping[str, Any]) -> Any:
    from oodbench.benchmark.views.names import NO_NAMES, display_names, read_names
    from oodbench.benchmark.views.plots.chosen import PlotChoice, parse_size
    from oodbench.benchmark.views.plots.page import Size

    names: Mapping[str, str] = {}
    if asked["names"] != LABELS:
        names = display_names(run, NO_NAMES if asked["names"] == PAPER else read_names(Path(asked["names"]))).rows
    same = ("kinds", "detectors", "ood", "id_sets", "metrics", "sort", "best", "highlight", "style", "log_fpr")
    size = parse_size(asked["size"]) if asked["size"] else Size()
    return PlotChoice(**{name: asked[name] for name in same}, size=size, names=names)
