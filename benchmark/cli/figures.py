"""`bench figures`: redraw the figures of a paper."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option


@click.command(
    cls=Command,
    short_help="Redraw the figures of a paper.",
    examples="""
    bench list figures
    bench figures NAME
    bench figures NAME --figures 1,3 --data-dir data
    bench figures NAME --figures 4 --from my_run
    """,
)
@click.argument("name")
@click.option("--figures", "panels", default="", metavar="LIST", help="Figure numbers, such as 1,3.  [default: all]")
@click.option(
    "--from",
    "run_name",
    default="",
    metavar="RUN",
    help="Run to take results from.  [default: one of the paper's suites]",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), metavar="N", help="Seed of toy experiments."
)
@data_dir_option
@results_option
@plugin_option
def figures(
    name: str, panels: str, run_name: str, seed: int, data_dir: Path, results: Path, plugins: tuple[Path, ...]
) -> None:
    """Draw a paper's figures as PNG and SVG, with a page of captions, in the folder figures/NAME of --results.

    A figure that cannot be drawn is skipped, with the reason. Exit code 2 if you asked for it with --figures.
    """
    from oodbench.benchmark.papers.draw import figure_request
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.plugins.specs import split_list

    for file in plugins:
        registry.load_file(file)
    request = figure_request(
        name,
        panels=split_list(panels),
        run_name=run_name,
        seed=seed,
        data_dir=data_dir,
        results=results,
    )
    for absence in request.skipped:
        click.echo(f"skipped: {absence.what}: {absence.reason}", err=True)
    for path in request.draw():
        click.echo(str(path))
