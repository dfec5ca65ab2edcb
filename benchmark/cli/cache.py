"""`bench cache`: delete what no run uses, or what older versions of the code made."""

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
    bench cache prune --old --dry-run
    bench cache prune --results DIR
    """,
)
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, without deleting it.")
@click.option("--old", is_flag=True, help="Also delete what older versions of the code made and runs still use.")
@results_option
def prune(dry_run: bool, old: bool, results: Path) -> None:
    """Delete the artifacts that no run in the results folder uses.

    Outputs of networks in memory (RESULTS/outputs/NAME-HASH) that no run names are deleted as well, once they are an
    hour old.

    Artifacts that older versions of the code made can be used by no command any more. Runs that were made with them
    still refer to them: their tables stay with --old, but bench compare and bench verify then find no scores. Run the
    same command again instead, and a run refers to current ones.

    Artifacts in a shared store are not deleted. Interrupted trainings can be resumed for two weeks and are kept
    until then.
    """
    from oodbench.benchmark.records.prune import bytes_of, used_by_runs
    from oodbench.benchmark.records.prune import prune as prune_store
    from oodbench.benchmark.records.unused_outputs import files_of, unused_outputs
    from oodbench.benchmark.runner.older_versions import Changes
    from oodbench.benchmark.runner.outdated import outdated_artifacts

    store = results / "cache"
    outdated = outdated_artifacts(store)
    used, runs = used_by_runs(results, outdated)
    deleted = outdated if old else outdated.keys() - used
    of_older = _amount(len(deleted), "artifact", bytes_of(store, deleted))
    kept = _amount(len(used), "artifact", bytes_of(store, used))
    unused = {folder: sum(file.stat().st_size for file in files_of([folder])) for folder in unused_outputs(results)}
    freed, count = prune_store(results, dry_run, deleted)
    why = f", with {of_older} of older versions of the code ({Changes().joined(outdated.values())})" if deleted else ""
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {_amount(count, 'file', freed)}{why}.")
    for folder, size in unused.items():
        click.echo(f"  among them the outputs in {folder}, {size / 1e6:.1f} MB, which no run names")
    if used and not old:
        click.echo(
            f"Kept {kept} of older versions of the code, which {'runs use' if len(runs) > 1 else 'a run uses'}: "
            f"{', '.join(runs)}. Run {'them' if len(runs) > 1 else 'it'} again, or delete them with --old."
        )


def _amount(count: int, noun: str, size: int) -> str:
    return f"{count} {noun}{'s' * (count != 1)}, {size / 1e6:.1f} MB"
