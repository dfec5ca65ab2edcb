"""Deletes what neither the cells of any run nor an unfinished training depend on: artifacts, outputs of networks."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from pathlib import Path

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import read_record
from oodbench.benchmark.records.unused_outputs import files_of, unused_outputs
from oodbench.benchmark.store.lineage import side_files, upstream_artifacts
from oodbench.benchmark.store.locks import LOCKS, PASS, Locks
from oodbench.benchmark.store.store import SWAP, UNFINISHED, read_side_file

logger = logging.getLogger(__name__)

KEPT_DAYS = 14
"""How long after its last snapshot an interrupted training can be resumed."""


def prune(results: Path, dry_run: bool = False, also: Collection[str] = ()) -> tuple[int, int]:
    """Delete every file that no run of a results folder depends on; return the bytes and number of files.

    These are files of its cache, and outputs of networks in memory that no run names (`unused_outputs`).

    `also`: artifacts to delete even if a run depends on them, as paths relative to the cache.

    A run depends on the artifacts that its records name, and on those in their keys, down to the checkpoints. Decoded
    images are kept while their source files exist, and interrupted trainings, which are logged, for `KEPT_DAYS` after
    their last snapshot.

    Raises `UserError`, without deleting anything, if the folder does not exist, if a process is working there, or if a
    record cannot be read, because the files that it depends on are unknown.
    """
    if not results.is_dir():
        raise UserError(f"The results folder '{results}' does not exist. Choose the one to prune with --results.")
    cache = results / "cache"
    if not cache.is_dir():
        return _prune_outputs(results, dry_run)
    locks = Locks(cache)
    with nullcontext() if dry_run else locks.hold(SWAP):  # so that no process starts meanwhile
        if others := locks.others():
            raise UserError(f"Nothing was deleted, because {', '.join(others)} is working in '{cache}'. Wait for it.")
        unused = _unused(results, cache, also)
        size = sum(path.stat().st_size for path in unused)
        if not dry_run:
            _delete(unused, cache)
        outputs_size, outputs = _prune_outputs(results, dry_run)
    return size + outputs_size, len(unused) + outputs


def _prune_outputs(results: Path, dry_run: bool) -> tuple[int, int]:
    """Delete the outputs of networks in memory that no run names; return the bytes and number of files."""
    folders = unused_outputs(results)
    sizes = [path.stat().st_size for path in files_of(folders)]
    for folder in [] if dry_run else folders:
        shutil.rmtree(folder)
    return sum(sizes), len(sizes)


def _unused(results: Path, cache: Path, also: Collection[str]) -> list[Path]:
    """The files that may be deleted."""
    roots = {path for paths in _artifacts_by_run(results).values() for path in paths} - set(also)
    used = upstream_artifacts(cache, side_files(cache), roots) - set(also)
    stems = {str((cache / path).with_suffix("")) + "." for path in used}
    stems |= _decoded_stems(cache / "data")
    files = [p for p in cache.rglob("*") if p.is_file() and p.parent.name != LOCKS]
    resumable = _resumable(cache / UNFINISHED)
    return [p for p in files if p not in resumable and not any(str(p).startswith(stem) for stem in stems)]


def used_by_runs(results: Path, artifacts: Collection[str]) -> tuple[set[str], list[str]]:
    """Those of some artifacts, as paths relative to the cache, that runs depend on, and the names of these runs.

    Raises `UserError` if a record cannot be read.
    """
    cache = results / "cache"
    sides = side_files(cache)
    used: set[str] = set()
    names = []
    for name, roots in _artifacts_by_run(results).items():
        if found := upstream_artifacts(cache, sides, roots) & set(artifacts):
            used |= found
            names.append(name)
    return used, names


def bytes_of(cache: Path, artifacts: Iterable[str]) -> int:
    """The bytes of artifacts with their side files and by-products; `artifacts` are paths relative to the cache."""
    files = {
        file for path in artifacts for file in (cache / path).parent.glob(f"{Path(path).stem}.*") if file.is_file()
    }
    return sum(file.stat().st_size for file in files)


def _artifacts_by_run(results: Path) -> dict[str, set[str]]:
    """The artifacts that the records of each run name, by the name of the run's folder."""
    found: dict[str, set[str]] = {}
    for record in sorted((results / "runs").glob("*/cells/*.json")):
        found.setdefault(record.parents[1].name, set()).update(_artifacts_of(record))
    return found


def _resumable(folder: Path) -> set[Path]:
    """Snapshots of trainings that may still be resumed."""
    # A snapshot from the future, because the clock was set back, is kept as well.
    kept = {p for p in folder.glob("*.safetensors") if time.time() - p.stat().st_mtime <= KEPT_DAYS * 86400}
    for path in sorted(kept):
        logger.info(f"Kept '{path}': an interrupted training, resumable for {KEPT_DAYS} days after its last snapshot.")
    return kept


def _delete(files: list[Path], cache: Path) -> None:
    """Delete files, and the empty folders that killed forward passes left."""
    for path in files:
        path.unlink(missing_ok=True)
    for folder in cache.glob(f"{PASS}*"):
        folder.rmdir()


def _decoded_stems(folder: Path) -> set[str]:
    """Prefixes of the paths of decoded or indexed images whose source files still exist, and of remembered hashes."""
    # Decoded pixels of pictures go with the index that they were decoded by.
    files = [path for path in folder.glob("*.json") if not path.name.endswith(".pixels.json")]
    sides = {path: read_side_file(path).get("made_from", {}) for path in files}
    kept = [path for path, made in sides.items() if not made or all(Path(name).exists() for name in made["names"])]
    return {str(path.with_suffix("")) + "." for path in kept}


def _artifacts_of(record: Path) -> list[str]:
    try:
        return list(read_record(record).artifacts.values())
    except (UserError, AttributeError) as error:
        raise UserError(
            f"Nothing was deleted, because the record '{record}' cannot be read and its files are unknown: {error}"
        ) from error
