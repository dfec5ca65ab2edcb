"""Where a run and its artifacts lie, and what is refused there before any work."""

from __future__ import annotations

import os
from pathlib import Path

from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store.atomic import unique_slug


def refuse_encoding(*paths: tuple[str, str | Path]) -> None:
    """Refuse paths that safetensors, which reads and writes weights, cannot open."""
    for option, path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"The path '{path}' of --{option} is not valid UTF-8, which files of weights need. Choose another path."
            ) from error


def store_folder(results: Path, name: str, own: bool) -> Path:
    """Where artifacts lie: in the results folder, or in the run's own, which then needs a name."""
    return results / "runs" / unique_slug(name) / "cache" if own else results / "cache"


def refuse_folders(results: Path, run_dir: Path, cache: Path) -> None:
    """Refuse folders that the run cannot use, before any work."""
    nearest = next(path for path in (results, *results.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "is not a folder" if not nearest.is_dir() else "is not writable"
        raise StoreError(
            f"The results folder '{results}' cannot be used: '{nearest}' {reason}. Choose another --results."
        )
    if (run_dir / "run.json").is_file():
        read_stored_run(run_dir)  # a run of a newer oodbench is refused
    if (run_dir / "cache").is_dir() and run_dir not in cache.parents:
        raise UserError(
            f"The run '{run_dir.name}' repeats another run and has a store of its own, so nothing else can run under "
            "its name. Choose another --name."
        )
