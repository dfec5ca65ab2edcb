"""The `bench` command group. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import click

from oodbench.benchmark.cli.base import Group
from oodbench.benchmark.cli.board.bundle import bundle
from oodbench.benchmark.cli.board.leaderboard import leaderboard
from oodbench.benchmark.cli.cache import cache
from oodbench.benchmark.cli.compare import compare
from oodbench.benchmark.cli.data import data
from oodbench.benchmark.cli.figures import figures
from oodbench.benchmark.cli.listing import list_, show
from oodbench.benchmark.cli.new import new
from oodbench.benchmark.cli.outputs import outputs
from oodbench.benchmark.cli.plugins import check
from oodbench.benchmark.cli.run import run
from oodbench.benchmark.cli.runs import verify
from oodbench.benchmark.cli.service.export import export
from oodbench.benchmark.cli.service.score import score
from oodbench.benchmark.cli.views.plot import plot
from oodbench.benchmark.cli.views.report import report
from oodbench.benchmark.cli.views.table import table


@click.group(
    cls=Group,
    examples="""
    bench run                                         run every detector on the default suite; no download
    bench run --detectors msp,energy --id digits      run some detectors on one ID set
    bench list detectors                              list what is available
    bench show energy                                 describe a detector, data set, suite or run
    bench table digits                                print a run's table again
    bench report digits                               write its results as one page for the browser
    bench compare digits                              test which of a run's detectors is better
    bench bundle digits -o digits.bundle.zip          pack a run into one file that others can check
    bench leaderboard bundles -o site                 make a page of such files
    bench export digits vim vim.safetensors --id digits
                                                      write a detector of a run to one file, for service
    bench score vim.safetensors photos/               score images with it
    bench new detector my_detector                    write a detector to start from: my_detector.py
    bench check my_detector --plugin my_detector.py   check that it keeps the contract
    """,
)
@click.version_option(package_name="oodbench", prog_name="bench")
def main() -> None:
    """Compare out-of-distribution (OOD) detectors on a matrix of in-distribution (ID) and OOD data sets.

    'bench COMMAND --help' shows the options of a command. Every option can also be set in the environment:
    OODBENCH_SEEDS=3 is --seeds 3 of 'bench run', OODBENCH_TABLE_STYLE=mos is --style mos of 'bench table'.
    """


for command in (
    run,
    list_,
    show,
    table,
    plot,
    report,
    compare,
    verify,
    bundle,
    leaderboard,
    export,
    score,
    check,
    new,
    data,
    outputs,
    figures,
    cache,
):
    main.add_command(command)
