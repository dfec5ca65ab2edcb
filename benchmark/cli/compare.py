"""`bench compare`: which detector is better, of a run or of several runs side by side."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.runs import read_runs
from oodbench.benchmark.records.paths import cache_of


@click.command(
    cls=Command,
    short_help="Test which detector is better, of one run or several.",
    examples="""
    bench compare digits
    bench compare digits --detectors msp,energy
    bench compare digits --metric tnr_at_tpr95 --resamples 5000
    bench compare small wide --detectors msp
    """,
)
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--detectors",
    default="",
    metavar="LIST",
    help="Detectors, as tables label them, or by the names that several rows share.  [default: all]",
)
@click.option(
    "--metric", default="auroc", show_default=True, metavar="NAME", help="Metric, as a column of records.csv."
)
@click.option(
    "--resamples",
    default=2000,
    show_default=True,
    type=int,
    metavar="N",
    help="Number of bootstrap resamples, for metrics other than AUROC and AUPR.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Seed of resamples and of simulated critical values.",
)
@data_dir_option
@results_option
@plugin_option
def compare(
    run_names: tuple[str, ...],
    detectors: str,
    metric: str,
    resamples: int,
    seed: int,
    data_dir: Path,
    results: Path,
    plugins: tuple[Path, ...],
) -> None:
    """Test every pair of detectors on the same images, and over all pairs of sets.

    RUN is a name or a folder. Scores are read from the store. The images, read from --data-dir, tell which of them are
    dependent, such as digits of one writer. A page with its numbers and plots is written to the folder 'compare' of the
    run.

    Several runs are compared on the pairs of sets that all of them have on the same images; rows that would have the
    same label are distinguished by what differs. Their page is in the results folder, in compare/RUN+RUN, and the marks
    of the best in their tables (bench table RUN RUN) are computed with it.
    """
    from oodbench.benchmark.comparisons.best_set import update_best
    from oodbench.benchmark.comparisons.compare import compare as compare_detectors
    from oodbench.benchmark.comparisons.scored_images import ImagesOfRuns, ScoredImages
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.plugins.specs import split_list
    from oodbench.benchmark.records.run import StoredRun
    from oodbench.benchmark.runner.run_data import adopt_folders
    from oodbench.benchmark.runner.run_view import view_of_run
    from oodbench.benchmark.views.comparison.page import compare_text, write_comparison

    for file in plugins:
        registry.load_file(file)

    def images_of(one: StoredRun) -> ScoredImages:
        return ScoredImages(Library(data_dir, cache_of(one.path, results) / "data", view=view_of_run(one.info)))

    run = read_runs(run_names, results)
    cache = cache_of((run.parts or (run,))[0].path, results)
    images = ImagesOfRuns({part.name: images_of(part) for part in run.parts}) if run.parts else images_of(run)
    for one in run.parts or (run,):
        adopt_folders(one.info)
    comparison = compare_detectors(run, cache, split_list(detectors), metric, resamples, seed, images)
    width = shutil.get_terminal_size((110, 40)).columns
    click.echo(compare_text(comparison, width, sys.stdout.isatty()))
    folder = run.path if run.parts else run.path / "compare"
    files = write_comparison(comparison, folder, run.path, shlex.join(["bench", "compare", *run_names]))
    if run.parts:
        update_best(run, cache, images)
    click.echo(f"Files: {folder} ({', '.join(path.name for path in files if path.suffix != '.svg')})")
