"""`bench figures`: the figures of a paper, drawn anew."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option


@click.command(
    cls=Command,
    examples="""
    bench list figures
    bench figures NAME
    bench figures NAME --figures 1,3 --data-dir data
    bench figures NAME --figures 4 --from my_run
    """,
)
@click.argument("name")
@click.option("--figures", "panels", default="", metavar="LIST", help="Numbers, such as 1,3.  [default: all]")
@click.option(
    "--from", "run_name", default="", metavar="RUN", help="A run.  [default: the first of the paper's suites]"
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the toy experiments.")
@data_dir_option
@results_option
@plugin_option
def figures(
    name: str, panels: str, run_name: str, seed: int, data_dir: Path, results: Path, plugins: tuple[Path, ...]
) -> None:
    """Draw a paper's figures as PNG and SVG, with a page of captions, into RESULTS/figures/NAME.

    A figure that cannot be drawn is skipped with the reason; exit code 2 if it was asked for.
    """
    from oodbench.benchmark.papers.draw import figure_request
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.plugins.specs import split_list

    for file in plugins:
        registry.load_file(file)
    asked = figure_request(
        name,
        panels=split_list(panels),
        run_name=run_name,
        seed=seed,
        data_dir=data_dir,
        results=results,
    )
    for absence in asked.skipped:
        click.echo(f"skipped: {absence.what}: {absence.reason}", err=True)
    for path in asked.draw():
        click.echo(str(path))
