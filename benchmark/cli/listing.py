"""`bench list` and `bench show`: what is available, and what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option, results_option
from oodbench.benchmark.cli.runs import cell_card
from oodbench.benchmark.errors import visible

KINDS = ("detectors", "recipes", "datasets", "forms", "backbones", "figures", "suites", "references", "runs")


@click.command(
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
    from oodbench.benchmark.plugins.registry import registry

    for file in plugins:
        registry.load_file(file)
    if kind == "references":
        from oodbench.benchmark.papers.published import references

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


@click.command(
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
    from oodbench.benchmark.cli.cards import cards
    from oodbench.benchmark.plugins.registry import registry

    for file in plugins:
        registry.load_file(file)
    click.echo("\n\n".join(cards(name, data_dir, results)))
