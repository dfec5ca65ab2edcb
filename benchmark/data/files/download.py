"""Downloads files with resume, mirrors and verification: a file has its final name only if it is complete and correct.

A file is downloaded as NAME.part, which no data set reads, and renamed when size and checksum are those of the card. An
interrupted download resumes where it stopped (HTTP Range), from another mirror if necessary, because the checksum
covers the whole file. torchvision's helper is not used: it writes to the final name, cannot resume, and falls back from
https to http without saying so.
"""

from __future__ import annotations

import errno
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.data.files.cache import file_hash
from oodbench.benchmark.data.files.file_source import File
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.store import atomic

BLOCK = 1 << 18
"""Bytes read from the connection at a time."""

TIMEOUT = 30.0
"""Seconds without data after which a connection counts as broken."""

ATTEMPTS = 5
"""Consecutive attempts without progress after which a mirror is given up."""

PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""

AGENT = "oodbench (https://pypi.org/project/oodbench)"

DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Errors of the local disk, for which another attempt is useless."""

MAX_DOWNLOAD = 1 << 38
"""Bytes accepted for a file of unknown size."""

Progress = Callable[[int, int], None]
"""Called with the bytes downloaded so far and in total (0: unknown)."""


class Limits(NamedTuple):
    """How long and how much to download."""

    attempts: int = ATTEMPTS
    pause: float = PAUSE
    max_bytes: int = MAX_DOWNLOAD


LIMITS = Limits()


class _MirrorError(Exception):
    """A mirror cannot provide the file. The text is the reason."""


def fetch(file: File, data_dir: Path, progress: Progress = lambda done, total: None, limits: Limits = LIMITS) -> Path:
    """Download a file into the data folder and return its path. Raises `DataError` with each mirror's failure."""
    target = data_dir / file.names[0]
    if not file.urls:
        raise DataError(f"'{target.name}' cannot be downloaded: it has no URL. Put it into '{data_dir}' by hand.")
    if target.is_file() and not _difference(file, target):
        return target
    part = target.with_name(target.name + ".part")
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part):
            for url in file.urls:
                try:
                    _Download(file, url, part, progress, limits).run()
                except _MirrorError as error:
                    reasons.append(f"{url}: {error}")
                else:
                    atomic.flush(part)
                    atomic.rename(part, target)
                    return target
    except OSError as error:
        raise DataError(
            f"'{target}' cannot be written: {error.strerror or error}. Choose another --data-dir."
        ) from error
    raise DataError(
        f"'{target.name}' could not be downloaded ({'; '.join(reasons)}). Run the same command later to resume, or get "
        f"the file elsewhere and put it at '{target}'."
    )


@dataclass(frozen=True)
class _Download:
    """The download of one file from one mirror."""

    file: File
    url: str
    part: Path
    progress: Progress
    limits: Limits

    def run(self) -> None:
        """Complete and verify the partial file; if its earlier content was wrong, download all of it once."""
        for resumed in (self._size() > 0, False):
            self._complete()
            difference = _difference(self.file, self.part)
            if not difference:
                return
            self.part.write_bytes(b"")
            if not resumed:
                raise _MirrorError(difference)

    def _size(self) -> int:
        return self.part.stat().st_size

    def _complete(self) -> None:
        """Append to the partial file until it is complete, trying again as long as data arrives."""
        failures = 0
        while True:
            before = self._size()
            try:
                return self._request()
            except urllib.error.HTTPError as error:
                reason = f"the server answers {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 429):
                    raise _MirrorError(reason) from error
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK:
                    raise
                reason = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
            failures = 0 if self._size() > before else failures + 1
            if failures >= self.limits.attempts:
                raise _MirrorError(reason)
            time.sleep(self.limits.pause * 2 ** max(0, failures - 1))

    def _request(self) -> None:
        """Make one request, from the end of the partial file on.

        Raises what urllib raises, and `http.client.IncompleteRead` if the body is cut short.
        """
        size, have = self.file.size, self._size()
        if size and have == size:
            return
        if size and have > size:
            self.part.write_bytes(b"")
            have = 0
        headers = {"User-Agent": AGENT, **({"Range": f"bytes={have}-"} if have else {})}
        try:
            response = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            self.part.write_bytes(b"")  # the partial file is longer than the server's: start over
            return self._request()
        with response:
            self._receive(response, have)

    def _receive(self, response: http.client.HTTPResponse, have: int) -> None:
        """Write a response's body to the partial file."""
        size = self.file.size
        if have and not _continues(response, have):
            have = 0  # the server ignores Range and sends the whole file
        total = have + int(response.headers.get("Content-Length") or 0)
        if size and total not in (have, size):
            raise _MirrorError(f"it offers {total:,} bytes, expected {size:,}")
        most = size or self.limits.max_bytes
        with self.part.open("r+b") as out:
            out.truncate(have)
            out.seek(have)
            while block := response.read(BLOCK):
                out.write(block)
                have += len(block)
                if have > most:
                    raise _MirrorError(f"it sends more than {most:,} bytes")
                self.progress(have, size or total)
            out.flush()
        if have < total:
            raise http.client.IncompleteRead(b"", total - have)


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    return response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _difference(file: File, path: Path) -> str:
    """How a downloaded file differs from the card; empty if it does not."""
    if file.size and path.stat().st_size != file.size:
        return f"it sent {path.stat().st_size:,} bytes, expected {file.size:,}"
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected and (found := file_hash(path, algorithm)) != expected:
            return f"its {algorithm.upper()} is {found[:16]}..., expected {expected[:16]}..."
    return ""


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Lock the partial file against other processes; the lock is released when the process ends, however it ends."""
    with part.open("ab") as locked:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            yield
            return
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"Another process is downloading '{part.name}'. Wait for it or stop it.") from None
        yield
    with suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()
