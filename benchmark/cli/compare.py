"""`bench compare`: which of a run's detectors is better."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.records.paths import cache_of, run_dir


@click.command(
    cls=Command,
    short_help="Test which of a run's detectors is better.",
    examples="""
    bench compare digits
    bench compare digits --detectors msp,energy
    bench compare digits --metric tnr_at_tpr95 --resamples 5000
    """,
)
@click.argument("run_name", metavar="RUN")
@click.option(
    "--detectors", default="", metavar="LIST", help="Detectors, as the run's tables label them.  [default: all]"
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
    run_name: str,
    detectors: str,
    metric: str,
    resamples: int,
    seed: int,
    data_dir: Path,
    results: Path,
    plugins: tuple[Path, ...],
) -> None:
    """Test every pair of a run's detectors on the same images, and over all pairs of sets.

    RUN is a name or a folder. Scores are read from the store. The images, read from --data-dir, tell which of them are
    dependent, such as digits of one writer. A page with its numbers and plots is written to the folder 'compare' of the
    run.
    """
    from oodbench.benchmark.comparisons.compare import compare as compare_detectors
    from oodbench.benchmark.comparisons.scored_images import ScoredImages
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.plugins.specs import split_list
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.runner.run_view import view_in
    from oodbench.benchmark.verify.data_sets import adopt_folders
    from oodbench.benchmark.views.comparison.page import compare_text, write_comparison

    for file in plugins:
        registry.load_file(file)
    folder = run_dir(results, run_name)
    cache = cache_of(folder, results)
    images = ScoredImages(Library(data_dir, cache / "data", view=view_in(folder)))
    stored = read_stored_run(folder)
    adopt_folders(stored.info)
    comparison = compare_detectors(stored, cache, split_list(detectors), metric, resamples, seed, images)
    width = shutil.get_terminal_size((110, 40)).columns
    click.echo(compare_text(comparison, width, sys.stdout.isatty()))
    files = write_comparison(comparison, folder / "compare")
    click.echo(f"Files: {folder / 'compare'} ({', '.join(path.name for path in files if path.suffix != '.svg')})")
