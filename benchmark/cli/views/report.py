"""`bench report`: one page in a file, to read, sort and search a run's results in a browser."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from oodbench.benchmark.cli.base import PATH, Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.streams import note

IMAGES = 24
"""Pictures in each list of mistakes, by default."""


@click.command(
    cls=Command,
    short_help="Write a run's results as one page for the browser.",
    examples="""
    bench report digits
    bench report digits -o report.html
    bench report small wide --title "Small and wide"
    bench report private --images 0
    """,
)
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out", "-o", type=PATH, metavar="FILE", help="File to write.  [default: report.html, in the run's folder]"
)
@click.option(
    "--images",
    default=IMAGES,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Pictures in each list of mistakes; 0 shows neither images nor their names.",
)
@click.option("--title", default="", metavar="TEXT", help="Title of the page.  [default: the names of the runs]")
@click.option(
    "--names", type=PATH, metavar="FILE.toml", help="Names of rows and sets, and citations, in place of ours."
)
@data_dir_option
@results_option
@plugin_option
def report(
    run_names: tuple[str, ...],
    out: Path | None,
    images: int,
    title: str,
    names: Path | None,
    data_dir: Path,
    results: Path,
    plugins: tuple[Path, ...],
) -> None:
    """Write one HTML file with a run's tables, curves and mistakes, and print its path.

    RUN is a name or a folder; several runs are shown side by side. The file opens from disk and needs no network. It is
    made from records and stored scores, without torch; the images whose mistakes it shows are read from --data-dir.
    """
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.records.paths import run_dir
    from oodbench.benchmark.records.run import read_stored_run
    from oodbench.benchmark.runner.write_report import report as write

    for file in plugins:
        registry.load_file(file)
    runs = [read_stored_run(run_dir(results, name)) for name in run_names]
    line = ["bench", "report", *run_names, *(["--images", str(images)] if images != IMAGES else [])]
    line += ["--names", str(names)] if names else []
    made: dict[str, Any] = {
        "data_dir": data_dir,
        "images": images,
        "title": title,
        "names": names,
        "command": shlex.join(line),
    }
    path = write(runs, out, results=results, **made)
    click.echo(str(path))
    for run in runs:
        for sentence in run.unfinished:
            note(sentence)
