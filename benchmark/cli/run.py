"""`bench run`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.runs import repeat


def parse_seeds(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    """'3' -> 0, 1, 2; '0,5' or '7,' -> those."""
    try:
        numbers = [int(item) for item in text.split(",") if item.strip()]
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is no whole number or list of them; write 3 (seeds 0, 1, 2) or 0,5 or 7,"
        ) from None
    if "," not in text and numbers and numbers[0] > 0:
        return tuple(range(numbers[0]))
    if "," not in text or not numbers or min(numbers) < 0:
        raise click.BadParameter(f"'{text}' names no seed; write a count such as 3, or a list such as 0,5 or 7,")
    return tuple(dict.fromkeys(numbers))


@click.command(
    cls=Command,
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
@click.option("--suite", default="", metavar="NAME|FILE.toml", help="Matrix and protocol.  [default: the marked one]")
@click.option("--detectors", default="all", show_default=True, metavar="LIST", help="NAME[settings]@RECIPE.")
@click.option("--id", "id_sets", default="all", show_default=True, metavar="LIST", help="In-distribution sets.")
@click.option("--ood", "ood_sets", default="all", show_default=True, metavar="LIST", help="Out-of-distribution sets.")
@click.option("--backbone", default="", metavar="NAME", help="The network.  [default: the suite's]")
@click.option("--seeds", default="1", show_default=True, callback=parse_seeds, metavar="N|LIST", help="3: 0, 1, 2.")
@click.option(
    "--metrics", default="exact", show_default=True, metavar="NAMES", help="Compute beside: extended, lee2018."
)
@click.option(
    "--protocol",
    default="",
    metavar="defaults|val_ood|leave_one_out",
    help="How settings are chosen.  [default: suite's]",
)
@click.option("--checkpoint", default="", metavar="FILE", help="Your own trained weights for the backbone.")
@click.option("--epochs", default=0, type=click.IntRange(0), help="Train so many.  [default: the suite's]")
@click.option("--limit-train", default=0, type=click.IntRange(0), help="Train on so many images.  [default: all]")
@click.option("--precision", default="", metavar="auto|float32|bfloat16", help="Of training.  [default: the suite's]")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where networks run.")
@click.option("--threads", default=0, type=click.IntRange(0), help="CPU threads.  [default: all, at most 8]")
@click.option(
    "--engine", default="local", show_default=True, metavar="local|ray", help="This machine, or a Ray cluster."
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Processes on this machine.")
@click.option(
    "--ray-address", default="", metavar="HOST:PORT|local", help="The cluster.  [default: one that runs here]"
)
@click.option("--gpus", type=float, help="GPUs of a job on the cluster, or a share.  [default: the suite's, or 1]")
@data_dir_option
@results_option
@click.option("--name", default="", help="Name of the run.  [default: the suite's]")
@plugin_option
@click.option(
    "--rerun",
    default="missing",
    show_default=True,
    type=click.Choice(["missing", "failed", "all"]),
    help="What to do anew.",
)
@click.option("--skip-bad-images", is_flag=True, help="Leave out, and count, images that cannot be read.")
@click.option(
    "--cell-timeout", default=0.0, type=click.FloatRange(0), metavar="SECONDS", help="Give up detectors that hang."
)
@click.option("--store", default="", metavar="URL", help="A store that machines share: s3://BUCKET/FOLDER, gs://...")
@click.option("--add", is_flag=True, help="Keep the cells of earlier commands in the run's table.")
@click.option("--from", "from_run", default="", metavar="RUN", help="Do a run again from nothing, and compare.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@click.option("--quiet", "verbosity", flag_value="quiet", help="No progress, only the table.")
@click.option("--verbose", "verbosity", flag_value="verbose", help="A line a job.")
def run(from_run: str, dry_run: bool, verbosity: str | None, plugins: tuple[Path, ...], **options: Any) -> None:
    """Train, extract, score and compare: every detector on every pair of ID and OOD sets.

    What an earlier command has finished is not done again. With --from, a run is: into RUN-again, which has a store of
    its own, and every cell is held against the run's. Exit code 1 if a cell failed or did not come out again, 2 for a
    wrong option.
    """
    # Before torch is imported: OpenMP's threads spin at every barrier, and where other programs want the cores as well
    # that multiplies the time of small networks. perf/spin.py measures what spinning briefly costs and saves.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if from_run:
        repeat(click.get_current_context(), dry_run, verbosity or "", from_run=from_run, plugins=plugins, **options)
        return
    from oodbench.benchmark.api import prepare
    from oodbench.benchmark.cli.progress import watch
    from oodbench.benchmark.cli.text import dry_run_text, run_footer

    prepared = prepare(**options, plugins=plugins)
    if dry_run:
        click.echo(dry_run_text(prepared))
        return
    with watch(prepared.work.jobs, verbosity or "") as progress:
        done = prepared.start(progress)
    print_table(done)
    click.echo(run_footer(done))
    if any(record.status == "failed" for record in done.records):
        sys.exit(1)


def print_table(run_: Any) -> None:
    """Print a run's table as wide as the terminal."""
    from oodbench.benchmark.views.table_text import text_table

    width = shutil.get_terminal_size((140, 40)).columns
    click.echo(text_table(run_, width=width, colour=sys.stdout.isatty()))
