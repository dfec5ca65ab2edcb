"""`bench cache`: what no run uses any more is deleted."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import CONTEXT, Command, results_option


@click.group(context_settings=CONTEXT)
def cache() -> None:
    """Look after the store of checkpoints, outputs and scores."""


@cache.command(cls=Command, examples="bench cache prune --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would go, and keep it.")
@results_option
def prune(dry_run: bool, results: Path) -> None:
    """Delete the artifacts that no run in the results folder uses; what lies in a shared store stays.

    Trainings that were stopped in the last two weeks are kept, so that they can be taken up.
    """
    from oodbench.benchmark.records.prune import prune as prune_store

    freed, count = prune_store(results, dry_run)
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {count} files, {freed / 1e6:.1f} MB.")
