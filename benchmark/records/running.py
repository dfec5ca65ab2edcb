"""Marks the runs that processes are working on, so that a list of runs can say so.

cache/locks/running-RUN--HOST-PID-NUMBER.lock    held by each process that works on the run, as long as it does
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.locks import Locks

PREFIX, SEPARATOR = "running-", "--"

_numbers = itertools.count()


@contextmanager
def marked_running(locks: Locks, run_dir: Path) -> Iterator[None]:
    """Mark a run as being worked on by this process."""
    name = f"{PREFIX}{run_dir.name}{SEPARATOR}{platform.node()}-{os.getpid()}-{next(_numbers)}"
    lock = locks.attempt(name)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
        with suppress(OSError):
            (locks.root / f"{name}.lock").unlink(missing_ok=True)


def running(cache: Path) -> set[str]:
    """The names of the folders of runs that processes work on; marks that killed processes left are removed."""
    locks, found = Locks(cache), set()
    for path in sorted(locks.root.glob(f"{PREFIX}*.lock")):
        try:
            lock = locks.attempt(path.stem)
        except StoreError:  # a folder that only others may write to: unknown
            continue
        if lock is None:
            found.add(path.stem.removeprefix(PREFIX).rpartition(SEPARATOR)[0])
        else:
            lock.release()
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return found
