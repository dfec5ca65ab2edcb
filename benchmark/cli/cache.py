"""`bench cache`: delete artifacts that no run uses."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, Group, results_option


@click.group(cls=Group, examples="bench cache prune --dry-run")
def cache() -> None:
    """Manage the cache of checkpoints, outputs and scores."""


@cache.command(
    cls=Command,
    examples="""
    bench cache prune --dry-run
    bench cache prune --results DIR
    """,
)
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, without deleting it.")
@results_option
def prune(dry_run: bool, results: Path) -> None:
    """Delete the artifacts that no run in the results folder uses.

    Artifacts in a shared store are not deleted. Interrupted trainings can be resumed for two weeks and are kept
    until then.
    """
    from oodbench.benchmark.records.prune import prune as prune_store

    freed, count = prune_store(results, dry_run)
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {count} files, {freed / 1e6:.1f} MB.")
