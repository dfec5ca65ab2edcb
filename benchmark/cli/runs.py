"""Commands that check a finished run: `bench verify`, `bench show RUN --cell`, `bench run --from`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oodbench.benchmark.cli.base import Command, data_dir_option, long_flag, plugin_option, results_option
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.store.user_path import user_path

if TYPE_CHECKING:
    from oodbench.benchmark.records.run import StoredRun


@click.command(
    cls=Command,
    short_help="Verify a run's numbers and files.",
    examples="""
    bench verify digits
    bench verify results/runs/digits
    bench verify lee2018-small --data-dir DIR
    bench verify digits.bundle.zip
    """,
)
@click.argument("run_name", metavar="RUN|FILE")
@data_dir_option
@results_option
@plugin_option
def verify(run_name: str, data_dir: Path, results: Path, plugins: tuple[Path, ...]) -> None:
    """Recompute a run's metrics and tables from its stored scores, and verify the checksums of all files behind them.

    RUN is a name or a folder. FILE is what 'bench bundle' wrote, which is checked by itself. Prints every problem and
    changes nothing. Exit code 1 if there is one.
    """
    from oodbench.benchmark.cli.board.bundle import check_bundle
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.store.safe_read import is_file
    from oodbench.benchmark.verify.run import verify as verify_run

    for file in plugins:
        registry.load_file(file)
    if is_file(user_path(run_name)) and user_path(run_name).name != "run.json":
        check_bundle(user_path(run_name))
        return
    verification = verify_run(run_dir(results, run_name), results, data_dir)
    for problem in verification.problems:
        click.echo(problem)
    click.echo(f"{run_name}: {verification.summary()}")
    if verification.problems:
        sys.exit(1)


def read_runs(names: Sequence[str], results: Path) -> StoredRun:
    """A run, or several side by side, given by names or folders."""
    from oodbench.benchmark.records.beside import runs_beside
    from oodbench.benchmark.records.run import read_stored_run

    folders = [run_dir(results, name) for name in names]
    return read_stored_run(folders[0]) if len(folders) == 1 else runs_beside(folders, results)


def cell_card(run_name: str, selector: str, results: Path) -> str:
    """The text of `bench show RUN --cell`."""
    from oodbench.benchmark.records.cell_names import find_cell
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.views.cell import cell_text

    folder = run_dir(results, run_name)
    return cell_text(find_cell(read_stored_run(folder).records, selector), cache_of(folder, results))


def export_scores(run_name: str, selector: str, order: str, file: str, data_dir: Path, results: Path) -> None:
    """`bench show RUN --scores FILE.csv`: write the score of every image of one cell, or of all."""
    from oodbench.benchmark.comparisons.image_scores import ImageScores, save_scores, write_scores
    from oodbench.benchmark.comparisons.scored_images import ScoredImages
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.records.cell_names import find_cell
    from oodbench.benchmark.records.record import OK
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.runner.run_data import adopt_folders
    from oodbench.benchmark.runner.run_view import view_of_run

    folder = run_dir(results, run_name)
    stored, cache = read_stored_run(folder), cache_of(folder, results)
    records = [find_cell(stored.records, selector)] if selector else stored.records
    if not any(record.status == OK for record in records):
        raise UserError(f"'{selector or run_name}' has no scores: {records[0].reason if records else 'no cells'}.")
    adopt_folders(stored.info)
    scores = ImageScores(cache, ScoredImages(Library(data_dir, cache / "data", view=view_of_run(stored.info))))
    if file == "-":
        write_scores(sys.stdout, scores, records, order)
    else:
        click.echo(f"{save_scores(user_path(file), scores, records, order):,} scores: {file}")
    for name, why in scores.without.items():
        click.echo(f"No names and labels of '{name}', {why}.", err=True)


WHERE = (
    *("from_run", "device", "threads", "engine", "jobs", "ray_address", "gpus"),
    *("data_dir", "results", "name", "plugins", "pixel_cache"),
)
"""Options of `bench run` that can be combined with --from: where and how to run, not what."""


def _written(context: click.Context, name: str) -> str:
    """How the user gave an option: as a flag, or as an environment variable."""
    option = next(parameter for parameter in context.command.params if parameter.name == name)
    if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
        return f"the environment variable {option.envvar}"
    return long_flag(option)


def repeat(context: click.Context, dry_run: bool, verbosity: str, **options: Any) -> None:
    """`bench run --from`: repeat a run from scratch, and print for each cell whether the result is the same."""
    from oodbench.benchmark.cli.progress import watch
    from oodbench.benchmark.cli.text import dry_run_text
    from oodbench.benchmark.verify.repeat import DIFFERENT, prepare_repetition

    given = {name for name in options if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    if other := sorted(_written(context, name) for name in given - set(WHERE)):
        raise UserError(f"--from repeats a run with its own options, so leave out {' and '.join(other)}.")
    chosen = {name: options[name] for name in WHERE if name in given}
    repetition = prepare_repetition(chosen.pop("from_run"), **chosen)
    for prepared in repetition.commands():
        if dry_run:
            click.echo(dry_run_text(prepared))
            continue
        with watch(prepared.work.jobs, verbosity, prepared.standing()) as progress:
            prepared.start(progress)
    if dry_run:
        return
    outcome = repetition.compare()
    click.echo("\n".join(outcome.lines()))
    if any(cell.verdict == DIFFERENT for cell in outcome.cells):
        sys.exit(1)
