"""The `bench` command: the group that every command hangs on. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import click

from oodbench.benchmark.cli.base import CONTEXT
from oodbench.benchmark.cli.cache import cache
from oodbench.benchmark.cli.compare import compare
from oodbench.benchmark.cli.data import data
from oodbench.benchmark.cli.figures import figures
from oodbench.benchmark.cli.listing import list_, show
from oodbench.benchmark.cli.new import new
from oodbench.benchmark.cli.plugins import check
from oodbench.benchmark.cli.run import run
from oodbench.benchmark.cli.runs import verify
from oodbench.benchmark.cli.tables import plot, table


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="oodbench", prog_name="bench")
def main() -> None:
    """Compare out-of-distribution detectors on a matrix of ID and OOD data sets.

    \b
    bench run                      everything, on the embedded matrix; no download
    bench list detectors           what there is
    bench show energy              what it is
    bench table digits             a finished run's table again
    bench compare digits           which detector is better, and is it chance?

    Every option can be given as an environment variable: OODBENCH_SEEDS=3 for --seeds 3.
    """


for command in (run, list_, show, table, plot, compare, verify, check, new, data, figures, cache):
    main.add_command(command)
