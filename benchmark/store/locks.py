"""Several processes on one results folder: who is at work on what.

    cache/locks/job-DIGEST.lock       held while a process does a job
    cache/locks/process-*.lock        held by each process that runs jobs, as long as it runs
    cache/locks/NAME.lock             held for moments, around what must not be done by two at once

The system frees a lock when its process ends, however it ends, so that a file left behind keeps nobody waiting.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import SUFFIX

logger = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks, such as NFS without its lock daemon."""

LOCKS = "locks"
"""The name of their folder."""

PASS = ".pass-"
"""How folders begin that a forward pass fills."""

DATA = "data"
"""The folder of decoded images, which commands that run no jobs write into."""

_numbers = itertools.count()


class Lock:
    """A lock that is held; without a file where the file system has none."""

    def __init__(self, held: FileLock | None) -> None:
        self._held = held

    def release(self) -> None:
        """Let the next process have it."""
        if self._held is not None:
            self._held.release()


class Locks:
    """The locks below one folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / LOCKS
        self._warned = False

    def attempt(self, name: str) -> Lock | None:
        """The lock of that name, or None if another process holds it. Raises `StoreError` where none can be made."""
        lock = FileLock(self._path(name))
        try:
            atomic.make_folder(self.root)
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in UNSUPPORTED:
                return self._without()
            raise StoreError(
                f"Cannot lock '{self._path(name)}': {error.strerror or error}. Choose a writable folder with --results."
            ) from error
        return Lock(lock)

    @contextmanager
    def hold(self, name: str, waits_for: str = "") -> Iterator[None]:
        """Hold the lock of that name; `waits_for` says in the line about waiting what another process is doing."""
        lock = self.attempt(name)
        if lock is None and waits_for:
            logger.info(f"Waiting for another process, which {waits_for}.")
        while lock is None:
            time.sleep(POLL if waits_for else POLL / 10)
            lock = self.attempt(name)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def present(self, *folders: Path) -> Iterator[None]:
        """Be known to be at work. Who comes when nobody else is removes what killed processes left in the folders."""
        name = f"process-{platform.node()}-{os.getpid()}-{next(_numbers)}"
        with self.hold("store"):
            if not self.others():
                self._sweep(folders)
            lock = self.attempt(name)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def others(self) -> list[str]:
        """The processes at work now, as 'process-HOST-PID-NUMBER'; marks of those that are gone are removed."""
        alive = []
        for path in sorted(self.root.glob("process-*.lock")):
            if (lock := self.attempt(path.stem)) is None:
                alive.append(path.stem)
            else:
                lock.release()
                path.unlink(missing_ok=True)
        return alive

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.lock"

    def _without(self) -> Lock:
        if not self._warned:
            self._warned = True
            logger.warning(
                f"'{self.root}' is on a file system without locks: let one process at a time use the folder."
            )
        return Lock(None)

    def _sweep(self, folders: tuple[Path, ...]) -> None:
        """Nobody is at work: no temporary file is in use, and nobody waits at the lock of a job."""
        if self._warned:  # without locks nobody can be seen
            return
        left = [path for folder in folders for path in folder.rglob(f".*{SUFFIX}") if path.parent.name != DATA]
        for path in [*self.root.glob("job-*.lock"), *left]:
            path.unlink(missing_ok=True)
        for folder in folders:
            for path in folder.glob(f"{PASS}*"):
                shutil.rmtree(path, ignore_errors=True)
