"""`bench run`: train, extract, score and evaluate."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.runs import repeat
from oodbench.benchmark.plan.threads import MOST_THREADS


def parse_seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    """Seeds from a count or a list: '3' -> 0, 1, 2; '0,5' -> 0, 5; '7,' -> 7."""
    try:
        numbers = [int(item) for item in text.split(",") if item.strip()]
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not a whole number or a list of them; write 3 for seeds 0, 1, 2, or a list such as 0,5 or 7,"
        ) from None
    if "," not in text and numbers and numbers[0] > 0:
        return tuple(range(numbers[0]))
    if "," not in text or not numbers or min(numbers) < 0:
        raise click.BadParameter(f"'{text}' gives no valid seeds; write a count such as 3, or a list such as 0,5 or 7,")
    return tuple(dict.fromkeys(numbers))


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
    bench run --store s3://bucket/folder
    bench run --dry-run
    bench run --from results/runs/digits/run.json
    """,
)
@click.option(
    "--suite",
    default="",
    metavar="NAME|FILE.toml",
    help="Matrix of ID and OOD sets, and protocol.  [default: the suite marked as default]",
)
@click.option(
    "--detectors",
    default="all",
    show_default=True,
    metavar="LIST",
    help="Detectors, as NAME, NAME[SETTING=VALUE,...] or NAME@RECIPE, separated by commas.",
)
@click.option("--id", "id_sets", default="all", show_default=True, metavar="LIST", help="ID sets, separated by commas.")
@click.option(
    "--ood", "ood_sets", default="all", show_default=True, metavar="LIST", help="OOD sets, separated by commas."
)
@click.option("--backbone", default="", metavar="NAME", help="Network architecture.  [default: the suite's]")
@click.option(
    "--seeds",
    default="1",
    show_default=True,
    callback=parse_seeds,
    metavar="N|LIST",
    help="Number of seeds, or a list of them: 3 means 0,1,2.",
)
@click.option(
    "--metrics",
    default="exact",
    show_default=True,
    metavar="LIST",
    help="Metrics to compute besides the exact ones: extended, lee2018.",
)
@click.option(
    "--protocol",
    default="",
    metavar="defaults|val_ood|leave_one_out",
    help="How detector settings are chosen.  [default: the suite's]",
)
@click.option("--checkpoint", default="", metavar="FILE", help="Evaluate these trained weights instead of training.")
@click.option(
    "--epochs",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Number of training epochs.  [default: the suite's]",
)
@click.option(
    "--limit-train",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Train on at most N images of each ID set.  [default: all]",
)
@click.option(
    "--precision",
    default="",
    metavar="auto|float32|bfloat16",
    help="Precision of training.  [default: the suite's]",
)
@click.option(
    "--no-stability",
    is_flag=True,
    help="Do not score slightly changed ID test images for the lines on stability.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Device that networks run on."
)
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(0, MOST_THREADS),
    metavar="N",
    help="CPU threads of a job, marked in the table if other than the suite's.  [default: the suite's]",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray",
    help="Run on this machine, or on a Ray cluster.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Number of processes on this machine.",
)
@click.option(
    "--ray-address",
    default="",
    metavar="HOST:PORT|local",
    help="Address of the Ray cluster; local starts one.  [default: a running one, else local]",
)
@click.option(
    "--gpus",
    type=float,
    metavar="N",
    help="GPUs per job on the cluster; 0.25 lets four jobs share one.  [default: the suite's, or 1]",
)
@data_dir_option
@results_option
@click.option("--name", default="", metavar="NAME", help="Name of the run.  [default: the suite's name]")
@plugin_option
@click.option(
    "--rerun",
    default="missing",
    show_default=True,
    type=click.Choice(["missing", "failed", "all"]),
    help="Cells to compute: missing ones, failed ones as well, or all.",
)
@click.option("--skip-bad-images", is_flag=True, help="Leave out and count images that cannot be read.")
@click.option(
    "--cell-timeout",
    default=0.0,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Time limit for a detector to tune, fit or score a set.  [default: none]",
)
@click.option(
    "--store", default="", metavar="URL", help="Store shared by several machines: s3://BUCKET/FOLDER, gs://..."
)
@click.option("--add", is_flag=True, help="Keep the cells of earlier commands in the run's table.")
@click.option("--from", "from_run", default="", metavar="RUN", help="Repeat a run from scratch and compare every cell.")
@click.option("--dry-run", is_flag=True, help="Print the plan, without running it.")
@click.option("--quiet", is_flag=True, help="Print the table without progress.")
@click.option("--verbose", is_flag=True, help="Print one line per job instead of progress bars.")
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
    from oodbench.benchmark.api import prepare
    from oodbench.benchmark.cli.progress import watch
    from oodbench.benchmark.cli.text import dry_run_text, run_footer

    options["stability"] = not options.pop("no_stability")
    prepared = prepare(**options, plugins=plugins)
    if dry_run:
        click.echo(dry_run_text(prepared))
        return
    with watch(prepared.work.jobs, verbosity) as progress:
        finished = prepared.start(progress)
    print_table(finished)
    click.echo(run_footer(finished))
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
    from oodbench.benchmark.views.table_text import text_table

    width = shutil.get_terminal_size((140, 40)).columns
    click.echo(text_table(run_, width=width, colour=sys.stdout.isatty()))
