"""`bench list` and `bench show`: list what is available, and describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.runs import cell_card, export_scores
from oodbench.benchmark.errors import visible

KINDS = ("detectors", "recipes", "datasets", "forms", "backbones", "figures", "suites", "references", "runs")


@click.command(
    "list",
    cls=Command,
    short_help="List detectors, data sets, suites, runs and other things by kind.",
    examples="""
    bench list
    bench list datasets
    bench list runs --results results
    bench list detectors --plugin my_detector.py
    """,
)
@click.argument("kind", type=click.Choice(KINDS), default="detectors", metavar="[KIND]")
@results_option
@plugin_option
def list_(kind: str, results: Path, plugins: tuple[Path, ...]) -> None:
    """List what is available of a kind; by default, detectors.

    KIND is detectors, recipes, datasets, forms (corruptions and other transforms of a data set), backbones, figures
    (papers whose figures 'bench figures' draws), suites, references (published numbers for 'bench table --against') or
    runs. Of runs, the last one first, it shows the suite, the ID sets, the number of detectors, the cells done, failed,
    skipped and missing, when the last command was started, the size of the run's folder, and whether the run is
    complete, unfinished, running or broken.
    """
    from oodbench.benchmark.plugins.registry import registry

    for file in plugins:
        registry.load_file(file)
    if kind == "runs":
        from oodbench.benchmark.cli.run_list import runs_text

        click.echo(runs_text(results))
        return
    if kind == "references":
        from oodbench.benchmark.papers.published import references

        rows = list(references().items())
    else:
        rows = [(entry.name, _description(entry)) for entry in registry.entries(kind.removesuffix("s")).values()]
    if not rows:
        click.echo(f"No {kind} yet.")
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(visible(f"{name:{width}}  {text}".rstrip()))


def _description(entry: Any) -> str:
    """A plug-in's title. One that is not built in is imported, to show its origin or why it is unavailable."""
    if entry.origin.startswith(("oodbench.", "built-in")):
        return str(entry.title)
    reason = entry.reason()
    if reason:
        return f"unavailable: {reason}"
    title = entry.title or getattr(entry.load(), "title", "")
    return f"{title} ({entry.origin})".strip()


@click.command(
    cls=Command,
    short_help="Describe a detector, recipe, data set, backbone, suite or run.",
    examples="""
    bench show energy
    bench show digits
    bench show cross_entropy
    bench show RUN --cell digits/greek/energy
    bench show RUN --cell digits/greek/energy --scores scores.csv --sort score
    """,
)
@click.argument("name")
@click.option(
    "--cell",
    default="",
    metavar="ID/OOD/DETECTOR[/SEED]",
    help="Describe one cell of the run NAME. '*' matches any ID set, OOD set or detector.",
)
@click.option(
    "--scores",
    default="",
    metavar="FILE.csv",
    help="Write the score of every image, with its name, of that cell, or of all cells of the run NAME; - prints it.",
)
@click.option(
    "--sort",
    default="stored",
    show_default=True,
    type=click.Choice(["stored", "score"]),
    help="Order of the images with --scores: as stored, or the highest score first.",
)
@data_dir_option
@results_option
@plugin_option
def show(
    name: str, cell: str, scores: str, sort: str, data_dir: Path, results: Path, plugins: tuple[Path, ...]
) -> None:
    """Describe a detector, recipe, data set, form, backbone, suite or run: paper, settings, needs, origin.

    If several things have the same name, all are shown. With --scores, the scores of a run's images are written. With
    --cell, one cell of a run is shown in full, from its
    numbers back to the images and weights they were computed from.
    """
    if cell and not scores:
        click.echo(cell_card(name, cell, results))
        return
    from oodbench.benchmark.cli.cards import cards
    from oodbench.benchmark.plugins.networks.places import load_plugin

    for file in plugins:
        load_plugin(file)
    if scores:
        export_scores(name, cell, sort, scores, data_dir, results)
        return
    click.echo("\n\n".join(cards(name, data_dir, results)))
