"""`bench check`: check that plug-ins keep the contract."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, data_dir_option, plugin_option


@click.command(
    cls=Command,
    short_help="Check that plug-ins keep the contract.",
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
    """Check that the named plug-ins keep the contract; 'all' checks every one.

    Prints one line per check. Exit code 1 if a check fails.
    """
    from oodbench.benchmark.plugins.networks.places import load_plugin
    from oodbench.benchmark.verify.plugin_checks import run_checks

    for file in plugins:
        load_plugin(file)
    failed = 0
    for result in run_checks(names, data_dir):
        failed += result.status == "failed"
        reason = f": {result.reason}" if result.reason else ""
        click.echo(f"{result.status:7}  {result.kind} {result.name}: {result.check}{reason}")
    if failed:
        click.echo(f"{failed} checks failed.", err=True)
        sys.exit(1)
