"""`bench run`: train, extract, score and evaluate."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oodbench.benchmark.cli.base import Command
from oodbench.benchmark.cli.run_options import run_options
from oodbench.benchmark.cli.runs import repeat
from oodbench.benchmark.cli.up_to_date import Said, Shortcut, heard

if TYPE_CHECKING:
    from oodbench.benchmark.records.run import StoredRun
    from oodbench.benchmark.records.up_to_date import Remembered


@click.command(
    cls=Command,
    short_help="Run detectors on ID and OOD sets and print the table.",
    examples="""
    bench run
    bench run --detectors msp,energy,joint --id digits --seeds 3
    bench run --detectors 'energy[temperature=10]@joint[beta=0.5]'
    bench run --id 'digits[0-6]' --ood 'digits[7-9],digits[0-6]+inverted' --detectors msp
    bench run --plugin my_detector.py --detectors all --name mine
    bench run --checkpoint mine.safetensors --id digits
    bench run --checkpoint a.pt,b.pt,c.pt --id digits
    bench run --checkpoint mine.pt --recipe linear_probe --id folder:photos --ood folder:others
    bench run --outputs my_outputs --detectors msp,energy,knn
    bench run --scores my_scores.csv --higher id
    bench run --store s3://bucket/folder
    bench run --dry-run
    bench run --from results/runs/digits/run.json
    """,
)
@run_options
def run(from_run: str, dry_run: bool, quiet: bool, verbose: bool, plugins: tuple[Path, ...], **options: Any) -> None:
    """Train classifiers, score every detector on every pair of ID and OOD sets, and print the table.

    Results of earlier commands are reused, so that a stopped run continues. With --from, a run is repeated from scratch
    under the name RUN-again, and every cell is compared with the original.

    Exit code 1 if a cell failed or a repeated cell differs, 2 for a wrong option.
    """
    # Set before torch is imported. OpenMP threads spin at every barrier, which slows small networks down a lot if other
    # programs need the cores. perf/spin.py measures the effect of spinning only briefly.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    context = click.get_current_context()
    verbosity = chosen_verbosity(context, quiet, verbose)
    if from_run:
        repeat(context, dry_run, verbosity, from_run=from_run, plugins=plugins, **options)
        return
    options["stability"] = not options.pop("no_stability")
    # What this process has loaded or registered before, no file tells.
    fresh = "oodbench.benchmark.api" not in sys.modules and verbosity != "verbose"
    shortcut = Shortcut.of(options, plugins) if fresh else None
    if shortcut is not None and (known := shortcut.answer()) is not None:
        _answer(*known, dry_run)
        return
    from oodbench.benchmark.api import prepare
    from oodbench.benchmark.cli.progress import watch
    from oodbench.benchmark.cli.text import dry_run_text

    with heard() as messages:
        prepared = prepare(**options, plugins=plugins)
        if dry_run:
            click.echo(dry_run_text(prepared))
            return
        with watch(prepared.work.jobs, verbosity, prepared.standing()) as progress:
            finished = prepared.start(progress)
    if shortcut is not None:
        shortcut.remember(prepared, messages)
    _print_finished(finished)


def _answer(folder: Path, known: Remembered, dry_run: bool) -> None:
    """Print what a command with nothing to do prints, from the run as it lies in its folder."""
    from oodbench.benchmark.records.run import read_stored_run

    said = Said.of_text(known.text)
    said.repeat_messages()
    if dry_run:
        click.echo(said.dry_run)
        return
    _print_finished(read_stored_run(folder))


def _print_finished(finished: StoredRun) -> None:
    """Print the closing table, and where the files are. Exits with 1 if a cell failed."""
    from oodbench.benchmark.cli.text import run_footer
    from oodbench.benchmark.views.tables.text import filled

    print_closing(finished)
    click.echo("\n".join(line for text in run_footer(finished).splitlines() for line in filled(text, columns(), False)))
    if any(record.status == "failed" for record in finished.records):
        sys.exit(1)


def chosen_verbosity(context: click.Context, quiet: bool, verbose: bool) -> str:
    """'quiet', 'verbose' or '' for progress bars. Of both flags, the one on the command line counts.

    Raises `click.UsageError` if both come from the same place.
    """
    if quiet and verbose:
        sources = {name: context.get_parameter_source(name) for name in ("quiet", "verbose")}
        if sources["quiet"] == sources["verbose"]:
            raise click.UsageError("--quiet and --verbose exclude each other. Leave out one of them.")
        quiet = sources["quiet"] is ParameterSource.COMMANDLINE
    return "quiet" if quiet else "verbose" if verbose else ""


def print_table(run_: Any) -> None:
    """Print a run's table in the width of the terminal."""
    from oodbench.benchmark.views.tables.text import text_table

    width = shutil.get_terminal_size((140, 40)).columns
    click.echo(text_table(run_, width=width, colour=sys.stdout.isatty()))


def columns() -> int:
    """Width of the terminal, 140 where there is none."""
    return shutil.get_terminal_size((140, 40)).columns


def print_closing(run_: Any) -> None:
    """Print what `bench run` ends with: a small run's table, or the best rows of a large one."""
    from oodbench.benchmark.views.tables.brief import closing_text

    click.echo(closing_text(run_, width=columns(), colour=sys.stdout.isatty()))
