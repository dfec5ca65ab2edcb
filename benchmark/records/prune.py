"""What may be deleted from a store: the files that no run's cells were made from and that no process may still want."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import read_record
from oodbench.benchmark.store.lineage import side_files, upstream_artifacts
from oodbench.benchmark.store.locks import LOCKS, PASS, Locks
from oodbench.benchmark.store.store import SWAP, UNFINISHED, read_side_file

logger = logging.getLogger(__name__)

KEPT_DAYS = 14
"""For so long after its last snapshot a training that was stopped can go on."""


def prune(results: Path, dry_run: bool = False) -> tuple[int, int]:
    """Delete every file of a results folder's cache that no run's cells were made from; return bytes and files.

    Decoded images stay as long as the files that they came from are where they were, and so do, which is logged,
    stopped trainings whose last snapshot is at most `KEPT_DAYS` old.

    What a run uses is what its records name, and whatever is named in the keys of those, up to the checkpoints.
    Raises `UserError`, and deletes nothing, if there is no such folder, a process is at work there, or a record cannot
    be read: it would seem to use nothing.
    """
    if not results.is_dir():
        raise UserError(f"There is no results folder '{results}'. Give the one to prune with --results.")
    cache = results / "cache"
    if not cache.is_dir():
        return 0, 0
    locks = Locks(cache)
    with nullcontext() if dry_run else locks.hold(SWAP):  # nobody begins to work meanwhile
        if others := locks.others():
            raise UserError(f"Nothing was deleted, because {', '.join(others)} is at work in '{cache}'. Wait for it.")
        gone = _unused(results, cache)
        freed = sum(path.stat().st_size for path in gone)
        if not dry_run:
            _delete(gone, cache)
    return freed, len(gone)


def _unused(results: Path, cache: Path) -> list[Path]:
    """The files that nothing keeps."""
    roots = [path for record in (results / "runs").glob("*/cells/*.json") for path in _artifacts_of(record)]
    used = upstream_artifacts(cache, side_files(cache), roots)
    stems = {str((cache / path).with_suffix("")) + "." for path in used}
    stems |= _decoded_stems(cache / "data")
    files = [p for p in cache.rglob("*") if p.is_file() and p.parent.name != LOCKS]
    resumable = _resumable(cache / UNFINISHED)
    return [p for p in files if p not in resumable and not any(str(p).startswith(stem) for stem in stems)]


def _resumable(folder: Path) -> set[Path]:
    """Snapshots of trainings that may still be taken up."""
    # A clock that was set back makes a snapshot seem to be of the future, which is no reason to delete it.
    kept = {p for p in folder.glob("*.safetensors") if time.time() - p.stat().st_mtime <= KEPT_DAYS * 86400}
    for path in sorted(kept):
        logger.info(
            f"Kept '{path}': a stopped training, which can be taken up for {KEPT_DAYS} days after its last snapshot."
        )
    return kept


def _delete(files: list[Path], cache: Path) -> None:
    """Delete files, and what killed passes have left of their folders."""
    for path in files:
        path.unlink(missing_ok=True)
    for folder in cache.glob(f"{PASS}*"):
        folder.rmdir()


def _decoded_stems(folder: Path) -> set[str]:
    """How the names begin of decoded images whose source is still there, and of the memory of hashes."""
    sides = {path: read_side_file(path).get("made_from", {}) for path in folder.glob("*.json")}
    kept = [path for path, made in sides.items() if not made or all(Path(name).exists() for name in made["names"])]
    return {str(path.with_suffix("")) + "." for path in kept}


def _artifacts_of(record: Path) -> list[str]:
    try:
        return list(read_record(record).artifacts.values())
    except (UserError, AttributeError) as error:
        raise UserError(
            f"Nothing was deleted, because the record '{record}' cannot be read and what it uses is not known: {error}"
        ) from error
