"""Lets several processes share one results folder: each locks what it is working on.

    cache/locks/job-DIGEST.lock       held while a process does a job
    cache/locks/process-*.lock        held by each process that runs jobs, as long as it runs
    cache/locks/NAME.lock             held for moments, around steps that only one process may do at a time

The operating system frees a lock when its process ends for any reason, so a lock file left behind blocks nobody.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import SUFFIX

logger = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two attempts to get a lock that another process holds."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks, such as NFS without its lock daemon."""

LOCKS = "locks"
"""Name of the folder of lock files."""

PASS = ".pass-"
"""Prefix of the temporary folders that a forward pass fills."""

DATA = "data"
"""Name of the folder of decoded images, which commands that run no jobs also write to."""

_numbers = itertools.count()


class Lock:
    """A lock that is held; without a file if the file system does not support locks."""

    def __init__(self, file_lock: FileLock | None) -> None:
        self._file_lock = file_lock

    def release(self) -> None:
        """Release the lock to the next process."""
        if self._file_lock is not None:
            self._file_lock.release()


class Locks:
    """The locks of one folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / LOCKS
        self._warned = False

    def attempt(self, name: str) -> Lock | None:
        """Get the named lock, or None if another process holds it. Raises `StoreError` if it cannot be created."""
        try:
            return self._acquire(name, blocking=False)
        except Timeout:
            return None

    @contextmanager
    def hold(self, name: str, activity: str = "") -> Iterator[None]:
        """Hold the named lock, waiting for it if necessary.

        `activity`, such as "is decoding 'digits'", describes the other process in the message about waiting; without
        it nothing is logged.
        """
        lock = self.attempt(name)
        if lock is None:
            if activity:
                logger.info(f"Waiting for another process, which {activity}.")
            lock = self._acquire(name, blocking=True, poll=POLL if activity else POLL / 10)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def present(self, *folders: Path) -> Iterator[None]:
        """Mark this process as working here. The first one removes what killed processes left in `folders`."""
        with ExitStack() as stack:
            with self.hold("store"):
                if not self.others():
                    self._sweep(folders)
                stack.enter_context(self.marked("process-"))
            yield

    def others(self) -> list[str]:
        """The processes working here, as 'process-HOST-PID-NUMBER'; marks of processes that ended are removed."""
        return [path.stem for path in sorted(self.root.glob("process-*.lock")) if self.is_marked(path)]

    @contextmanager
    def marked(self, prefix: str) -> Iterator[None]:
        """Hold a lock named PREFIX and HOST-PID-NUMBER of this process, for others to see; remove it at the end."""
        name = f"{prefix}{platform.node()}-{os.getpid()}-{next(_numbers)}"
        lock = self.attempt(name)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def is_marked(self, path: Path) -> bool:
        """Whether a process holds the lock of a file that `marked` made; one that a killed process left is removed."""
        if (lock := self.attempt(path.stem)) is None:
            return True
        lock.release()
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return False

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.lock"

    def _acquire(self, name: str, blocking: bool, poll: float = POLL) -> Lock:
        """Raises `Timeout` if the lock is held by another process and `blocking` is False."""
        lock = FileLock(self._path(name))
        try:
            atomic.make_folder(self.root)
            lock.acquire(blocking=blocking, poll_interval=poll)
        except Timeout:
            raise
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in UNSUPPORTED:
                return self._unlocked()
            raise StoreError(
                f"Cannot lock '{self._path(name)}': {error.strerror or error}. Choose a writable folder with --results."
            ) from error
        return Lock(lock)

    def _unlocked(self) -> Lock:
        if not self._warned:
            self._warned = True
            logger.warning(
                f"'{self.root}' is on a file system without locks: let only one process at a time use this folder."
            )
        return Lock(None)

    def _sweep(self, folders: tuple[Path, ...]) -> None:
        """Delete leftovers. No other process works here, so no temporary file is in use and no job is waited for."""
        if self._warned:  # without locks, other processes are invisible
            return
        left = [path for folder in folders for path in folder.rglob(f".*{SUFFIX}") if path.parent.name != DATA]
        for path in [*self.root.glob("job-*.lock"), *left]:
            path.unlink(missing_ok=True)
        for folder in folders:
            for path in folder.glob(f"{PASS}*"):
                shutil.rmtree(path, ignore_errors=True)
