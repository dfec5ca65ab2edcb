"""`bench leaderboard`: a static site from run bundles."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from oodbench.benchmark.cli.base import PATH, Command


@click.command(
    cls=Command,
    short_help="Make a leaderboard of run bundles that verify.",
    examples="""
    bench leaderboard bundles -o site
    bench leaderboard bundles -o site --title "OOD detection on photographs"
    """,
)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("-o", "--output", "out", required=True, type=PATH, metavar="SITE", help="The folder to write.")
@click.option("--title", default="", metavar="TEXT", help="Title of the pages.  [default: Leaderboard]")
@click.option("--no-reports", is_flag=True, help="Without a report of every bundle, the page of 'bench report'.")
def leaderboard(folder: Path, out: Path, title: str, no_reports: bool) -> None:
    """Make a static site of the bundles in DIR, the files that end in .zip, as 'bench bundle' writes them.

    Every metric, interval and mark is computed again from the scores. A bundle that does not verify, or has other
    images under the name of a set than the others, is refused: standard output and the page say why, the others are
    shown, and the exit code is 1. Rows are in one table only where suite, protocol, ID set and images are the same.
    SITE is replaced if it is a leaderboard; its pages open from disk.
    """
    from oodbench.benchmark.verify.board.site import write_leaderboard

    site = write_leaderboard(folder, out, title=title, reports=not no_reports, said=click.echo)
    count = len(site.entries)
    rows = sum(len(board.rows) for board in site.boards)
    click.echo(
        f"{site.folder / 'index.html'}: {len(site.boards)} boards, {rows} rows of {count} bundles; "
        f"{len(site.refused)} refused."
    )
    if site.refused:
        sys.exit(1)
