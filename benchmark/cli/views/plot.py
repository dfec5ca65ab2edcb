"""`bench plot`: redraw a run's plots."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, results_option
from oodbench.benchmark.cli.streams import note
from oodbench.benchmark.records.paths import cache_of, run_dir


@click.command(
    cls=Command,
    short_help="Redraw a run's plots.",
    examples="""
    bench plot digits
    bench plot results/runs/digits
    """,
)
@click.argument("run_name", metavar="RUN")
@results_option
def plot(run_name: str, results: Path) -> None:
    """Redraw a run's plots from its records and stored scores, and print their paths.

    RUN is a name or a folder. If it is unfinished, standard error says how many cells are missing, and how to continue.
    """
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.views.plots import draw as plots

    folder = run_dir(results, run_name)
    run_ = read_stored_run(folder)
    for path in plots.draw(run_, cache_of(folder, results)):
        click.echo(str(path))
    for sentence in run_.unfinished:
        note(sentence)
