"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from oodbench.benchmark.cli_compare import compare
from oodbench.benchmark.cli_data import data
from oodbench.benchmark.cli_figures import figures
from oodbench.benchmark.cli_runs import cell_card, repeat, verify
from oodbench.benchmark.command import CONTEXT, Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.errors import visible
from oodbench.benchmark.records import cache_of, run_dir


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


@main.command(
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
    from oodbench.benchmark.display import dry_run_text, run_footer, watch

    prepared = prepare(**options, plugins=plugins, say=lambda text: click.echo(visible(text), err=True))
    if dry_run:
        click.echo(dry_run_text(prepared))
        return
    with watch(prepared.work.jobs, verbosity or "") as progress:
        done = prepared.start(progress)
    _print_table(done)
    click.echo(run_footer(done))
    if any(record.status == "failed" for record in done.records):
        sys.exit(1)


def _print_table(run_: Any) -> None:
    from oodbench.benchmark.views.tables import text_table

    width = shutil.get_terminal_size((140, 40)).columns
    click.echo(text_table(run_, width=width, colour=sys.stdout.isatty()))


KINDS = ("detectors", "recipes", "datasets", "forms", "backbones", "figures", "suites", "references", "runs")


@main.command(
    "list",
    cls=Command,
    examples="""
    bench list detectors
    bench list runs --results results
    bench list detectors --plugin my_detector.py
    """,
)
@click.argument("kind", type=click.Choice(KINDS), default="detectors")
@results_option
@plugin_option
def list_(kind: str, results: Path, plugins: tuple[Path, ...]) -> None:
    """List detectors, recipes, datasets, forms, backbones, figures, suites, references or runs."""
    from oodbench.benchmark.registry import registry

    for file in plugins:
        registry.load_file(file)
    if kind == "references":
        from oodbench.benchmark.reference import references

        rows = list(references().items())
    elif kind == "runs":
        rows = [(p.parent.name, "") for p in sorted((results / "runs").glob("*/run.json"))]
    else:
        rows = [(entry.name, _listing(entry)) for entry in registry.entries(kind.removesuffix("s")).values()]
    if not rows:
        click.echo(f"No {kind} yet.")
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(visible(f"{name:{width}}  {text}".rstrip()))


def _listing(entry: Any) -> str:
    """Title, origin of what is not built in, and for those whether they can be used: a stranger's file is imported."""
    if entry.origin.startswith(("oodbench.", "built-in")):
        return str(entry.title)
    reason = entry.reason()
    if reason:
        return f"unavailable: {reason}"
    title = entry.title or getattr(entry.load(), "title", "")
    return f"{title} ({entry.origin})".strip()


@main.command(
    cls=Command,
    examples="""
    bench show energy
    bench show digits
    bench show cross_entropy
    bench show RUN --cell digits/greek/energy
    """,
)
@click.argument("name")
@click.option("--cell", default="", metavar="ID/OOD/DETECTOR[/SEED]", help="One cell of a run, in full.")
@data_dir_option
@results_option
@plugin_option
def show(name: str, cell: str, data_dir: Path, results: Path, plugins: tuple[Path, ...]) -> None:
    """Print the card of a detector, recipe, data set, backbone, suite, or run.

    Where one name stands for several things, all are shown. With --cell: a run's cell, from its numbers back to the
    images and weights; '*' stands for any part.
    """
    if cell:
        click.echo(cell_card(name, cell, results))
        return
    from oodbench.benchmark.cards import cards
    from oodbench.benchmark.registry import registry

    for file in plugins:
        registry.load_file(file)
    click.echo("\n\n".join(cards(name, data_dir, results)))


@main.command(
    cls=Command,
    examples="""
    bench table digits
    bench table digits --format md
    bench table results/runs/digits --format tex > table.tex
    bench table lee2018 --against lee2018
    bench table lee2018 --metrics lee2018
    bench table digits --metrics extended
    """,
)
@click.argument("run_name", metavar="RUN")
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["text", "md", "tex", "csv"]))
@click.option("--against", default="", metavar="NAME|FILE.csv", help="Published numbers to hold beside the run's.")
@click.option("--metrics", default="exact", show_default=True, metavar="NAME", help="Show these beside.")
@results_option
def table(run_name: str, form: str, against: str, metrics: str, results: Path) -> None:
    """Rebuild a run's tables from its records and print one. RUN is a name or a folder."""
    from oodbench.benchmark.records import read_run
    from oodbench.benchmark.views import tables

    run_ = read_run(run_dir(results, run_name))
    tables.write_tables(run_)
    if against or metrics != "exact":
        from oodbench.benchmark.display import beside_text

        width = shutil.get_terminal_size((110, 40)).columns
        click.echo(beside_text(run_, against, metrics, form, width), nl=False)
    elif form == "text":
        _print_table(run_)
    else:
        writer = {"md": tables.table_markdown, "tex": tables.table_latex, "csv": tables.table_csv}[form]
        click.echo(writer(run_), nl=False)


@main.command(
    cls=Command,
    examples="""
    bench plot digits
    bench plot results/runs/digits
    """,
)
@click.argument("run_name", metavar="RUN")
@results_option
def plot(run_name: str, results: Path) -> None:
    """Redraw a run's plots from its records and stored scores. RUN is a name or a folder."""
    from oodbench.benchmark.records import read_run
    from oodbench.benchmark.views import plots

    folder = run_dir(results, run_name)
    for path in plots.draw(read_run(folder), cache_of(folder, results)):
        click.echo(str(path))


@main.command(
    cls=Command,
    examples="""
    bench check energy
    bench check my_detector --plugin my_detector.py
    bench check all
    """,
)
@click.argument("names", nargs=-1, required=True)
@data_dir_option
@plugin_option
def check(names: Sequence[str], data_dir: Path, plugins: tuple[Path, ...]) -> None:
    """Run the contract checks over plug-ins by name, or 'all'. Exit code 1 if one fails."""
    from oodbench.benchmark.checks import run_checks
    from oodbench.benchmark.registry import registry

    for file in plugins:
        registry.load_file(file)
    failed = 0
    for result in run_checks(names, data_dir):
        failed += result.status == "failed"
        click.echo(
            f"{result.status:7}  {result.kind} {result.name}: {result.check}"
            + (f": {result.reason}" if result.reason else "")
        )
    if failed:
        click.echo(f"{failed} checks failed.", err=True)
        sys.exit(1)


@main.group(context_settings=CONTEXT)
def cache() -> None:
    """Look after the store of checkpoints, outputs and scores."""


@cache.command(cls=Command, examples="bench cache prune --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would go, and keep it.")
@results_option
def prune(dry_run: bool, results: Path) -> None:
    """Delete the artifacts that no run in the results folder uses; what lies in a shared store stays.

    Trainings that were stopped in the last two weeks are kept, so that they can be taken up.
    """
    from oodbench.benchmark.pruning import prune as prune_store

    freed, count = prune_store(results, dry_run, click.echo)
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {count} files, {freed / 1e6:.1f} MB.")


main.add_command(compare)
main.add_command(data)
main.add_command(figures)
main.add_command(verify)

if __name__ == "__main__":
    main()
