"""Downloads that are whole and right, or not there.

A file arrives as NAME.part, which no data set reads; it gets its name when its size and checksum are those of the card.
An interrupted download goes on where it stopped (HTTP Range), with another mirror if need be: the checksum is over the
whole. torchvision's helper writes to the final name, cannot go on, and falls back from https to http in silence.
"""

from __future__ import annotations

import errno
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oodbench.benchmark.data.files.cache import file_hash
from oodbench.benchmark.data.files.file_source import File
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.store import atomic

BLOCK = 1 << 18

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""

ATTEMPTS = 5
"""Times in a row that a mirror may fail without a byte of progress."""

PAUSE = 1.0
"""Seconds before the second attempt; twice as long before each further one."""

AGENT = "oodbench (https://pypi.org/project/oodbench)"

DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What the disk says, not the connection."""

MAX_DOWNLOAD = 1 << 38
"""Bytes that a file of unknown size may have."""

Progress = Callable[[int, int], None]
"""Told the bytes that are there and the bytes in all (0: unknown)."""


class _GivenUpError(Exception):
    """A mirror cannot give the file; the text is the reason."""


def fetch(file: File, data_dir: Path, progress: Progress = lambda done, total: None) -> Path:
    """Download one file into the data folder and return where it is. `DataError` tells why each mirror failed."""
    target = data_dir / file.names[0]
    if not file.urls:
        raise DataError(
            f"'{target.name}' has no address that it could be downloaded from. Put it into '{data_dir}' by hand."
        )
    if target.is_file() and not _difference(file, target):
        return target
    part = target.with_name(target.name + ".part")
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            for url in file.urls:
                try:
                    _whole(file, url, part, progress)
                except _GivenUpError as error:
                    reasons.append(f"{url}: {error}")
                else:
                    _take(part, target)
                    return target
    except OSError as error:
        raise DataError(
            f"'{target}' cannot be written: {error.strerror or error}. Choose another --data-dir."
        ) from error
    raise DataError(
        f"'{target.name}' could not be downloaded ({'; '.join(reasons)}). Run the same command later, which goes on "
        f"from what has arrived, or get the file elsewhere and put it at '{target}'."
    )


def _whole(file: File, url: str, part: Path, progress: Progress) -> None:
    """Bring the partial file to its end and check it; once anew if what had been there before was wrong."""
    for resumed in (part.stat().st_size > 0, False):
        _to_the_end(url, part, file.size, progress)
        wrong = _difference(file, part)
        if not wrong:
            return
        part.write_bytes(b"")
        if not resumed:
            raise _GivenUpError(wrong)


def _to_the_end(url: str, part: Path, size: int, progress: Progress) -> None:
    """Append to the partial file until the server says that it is all; patient as long as something arrives."""
    failures = 0
    while True:
        before = part.stat().st_size
        try:
            return _append(url, part, size, progress)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                raise _GivenUpError(reason) from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK:
                raise
            reason = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
        failures = 0 if part.stat().st_size > before else failures + 1
        if failures >= ATTEMPTS:
            raise _GivenUpError(reason)
        time.sleep(PAUSE * 2 ** max(0, failures - 1))


def _append(url: str, part: Path, size: int, progress: Progress) -> None:
    """One request, from where the partial file ends. Raises what urllib raises, and where the body is cut short."""
    have = part.stat().st_size
    if size and have == size:
        return
    if size and have > size:
        part.write_bytes(b"")
        have = 0
    headers = {"User-Agent": AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        part.write_bytes(b"")  # more is here than there: begin anew
        return _append(url, part, size, progress)
    with response:
        if have and not _continues(response, have):
            have = 0  # the server ignores Range and sends everything
        total = have + int(response.headers.get("Content-Length") or 0)
        if size and total not in (have, size):
            raise _GivenUpError(f"it offers {total:,} bytes, expected {size:,}")
        with part.open("r+b") as out:
            out.truncate(have)
            out.seek(have)
            while block := response.read(BLOCK):
                out.write(block)
                have += len(block)
                if have > (size or MAX_DOWNLOAD):
                    raise _GivenUpError(f"it sends more than {size or MAX_DOWNLOAD:,} bytes")
                progress(have, size or total)
            out.flush()
        if have < total:
            raise http.client.IncompleteRead(b"", total - have)


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    return response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _difference(file: File, path: Path) -> str:
    """How a file differs from the card; empty if it does not."""
    if file.size and path.stat().st_size != file.size:
        return f"it gives {path.stat().st_size:,} bytes, expected {file.size:,}"
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected and (found := file_hash(path, algorithm)) != expected:
            return f"its {algorithm.upper()} is {found[:16]}..., expected {expected[:16]}..."
    return ""


def _take(part: Path, target: Path) -> None:
    """Give the finished file its name, after it is on the disk."""
    atomic.flush(part)
    atomic.rename(part, target)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the partial file, so that two processes do not write into it at once; freed when the process ends."""
    with part.open("ab") as held:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"Another process is downloading '{part.name}'. Wait for it, or end it.") from None
        yield
    with suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()
