"""Marks the runs that processes are working on, so that a list of runs can say so.

cache/locks/running-RUN--HOST-PID-NUMBER.lock    held by each process that works on the run, as long as it does
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.locks import Locks

PREFIX, SEPARATOR = "running-", "--"


def marked_running(locks: Locks, run_dir: Path) -> AbstractContextManager[None]:
    """Mark a run as being worked on by this process."""
    return locks.marked(f"{PREFIX}{run_dir.name}{SEPARATOR}")


def running(cache: Path) -> set[str]:
    """The names of the folders of runs that processes work on; marks that killed processes left are removed."""
    locks, found = Locks(cache), set()
    for path in sorted(locks.root.glob(f"{PREFIX}*.lock")):
        try:
            if locks.is_marked(path):
                found.add(path.stem.removeprefix(PREFIX).rpartition(SEPARATOR)[0])
        except StoreError:  # a folder that only others may write to: unknown
            continue
    return found
