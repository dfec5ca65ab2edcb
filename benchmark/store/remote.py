"""Access to a folder at a URL through fsspec, with retries, for a store that several machines share.

Error messages never show what precedes an '@' or follows a '?' in the URL, because it may be credentials. For the same
reason no error is chained to one of a library, whose text may quote them.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote
from uuid import uuid4

from oodbench.benchmark.errors import StoreError, UserError, first_line
from oodbench.benchmark.store.safe_read import MAX_JSON

ATTEMPTS = 4
"""How often a request is attempted before it counts as failed."""

PAUSE = 0.5
"""Seconds before the second attempt; doubled before each further one."""

LISTING_HOLDS = 30.0
"""Seconds for which a name that is not in a folder's listing counts as absent."""

LISTING_SHARE = 20
"""The same as a multiple of the time the listing took, so that listing large folders takes at most 5% of the time."""

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"})
"""Protocols whose writes are atomic; elsewhere a file is written under a temporary name and moved."""

PERMANENT = (
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
)
"""Errors that are not retried."""

FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Error numbers of a full or read-only disk, which are not retried either."""

USERINFO = re.compile(r"(?<=://)(?:[^/@\s]*:[^@\s]*|[^/@\s]+)@")
"""Name and password in a URL. A password may contain a '/', as Amazon's do."""

QUERY = re.compile(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]*")

INSTALL = "pip install 'oodbench[remote]', and s3fs for s3://, gcsfs for gs://, adlfs for abfs://"

T = TypeVar("T")


class Remote:
    """A folder at a URL that fsspec supports. Paths are relative to it and use '/'.

    `pause` is the number of seconds before the second attempt of a request. All methods raise `StoreError` for a
    request that fails for good.
    """

    def __init__(self, url: str, pause: float = PAUSE) -> None:
        self.shown = without_secrets(url)
        """The URL without credentials, for messages."""
        self._pause = pause
        self._secrets = _secrets(url)
        self._fs, self._root = _open(url, self.shown)
        self._protocol = url.partition("://")[0]
        self._writes_atomically = self._protocol in OBJECT_STORES
        self._existing: set[str] = set()
        """Folders that need not be created."""
        self.threads = 16 if getattr(self._fs, "async_impl", False) else 1
        """How many requests may run concurrently."""

    def refuse_folder(self, folder: Path) -> None:
        """Raise `UserError` if the URL is `folder` itself: a file cannot be copied onto itself."""
        if self._protocol in ("file", "local") and Path(self._root).resolve() == folder.resolve():
            raise UserError(f"--store '{self.shown}' is the cache of the --results folder itself. Choose another URL.")

    def refuse_unwritable(self) -> None:
        """Raise `StoreError` unless a small file can be written and removed."""
        probe = f".oodbench-{uuid4().hex}"
        self.write(probe, b"Written to check that this folder is writable.\n")
        self.remove(probe)

    def names(self, folder: str) -> set[str]:
        """The names directly in a folder; empty if the folder does not exist."""

        def list_() -> list[str]:
            self._fs.invalidate_cache()  # fsspec's own: other machines write here too
            return list(self._fs.ls(self._at(folder), detail=False))

        return {path.rstrip("/").rpartition("/")[2] for path in self._try(f"list '{folder}' of", _or_none(list_)) or ()}

    def read(self, path: str) -> bytes | None:
        """The content of a small file, cut after `MAX_JSON` + 1 bytes; None if there is no such file."""
        end = MAX_JSON + 1
        content = self._try(f"read '{path}' of", _or_none(lambda: self._fs.cat_file(self._at(path), start=0, end=end)))
        return bytes(content) if content is not None else None

    def get(self, path: str, target: Path) -> bool:
        """Download a file to a local path; False if there is no such file."""

        def download() -> bool:
            self._fs.get_file(self._at(path), str(target))
            return True

        return self._try(f"fetch '{path}' from", _or_none(download)) or False

    def put(self, source: Path, path: str) -> None:
        """Upload a local file atomically: a reader gets either the old or the new one in full."""
        self._try(f"write '{path}' to", lambda: self._place(path, lambda at: self._fs.put_file(str(source), at)))

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, atomically as well."""
        self._try(f"write '{path}' to", lambda: self._place(path, lambda at: self._fs.pipe_file(at, content)))

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        self._try(f"remove '{path}' from", _or_none(lambda: self._fs.rm_file(self._at(path))))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _place(self, path: str, write: Callable[[str], object]) -> None:
        target = self._at(path)
        if self._writes_atomically:
            write(target)
            return
        folder, _, name = target.rpartition("/")
        if folder not in self._existing:
            self._fs.makedirs(folder, exist_ok=True)
            self._existing.add(folder)
        temporary = f"{folder}/.{name}.{uuid4().hex}.tmp"
        try:
            write(temporary)
            self._fs.mv(temporary, target)
        except BaseException:
            self._existing.discard(folder)  # it may have been removed
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def _try(self, what: str, action: Callable[[], T]) -> T:
        """Make a request, with retries; `what` describes it in the error, such as "fetch 'a.npy' from"."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                return action()
            except Exception as error:  # each protocol has its own kinds
                reason = self._reason(error)
                if isinstance(error, PERMANENT) or getattr(error, "errno", None) in FULL:
                    break
        raise StoreError(
            f"Cannot {what} the store '{self.shown}': {reason.rstrip('.')}. No finished work is lost: run the same "
            "command again when this is fixed, or with another --store."
        )

    def _reason(self, error: Exception) -> str:
        """The message of a library's error without anything that may be credentials."""
        text = without_secrets(getattr(error, "strerror", None) or first_line(error))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Listing(NamedTuple):
    names: set[str]
    until: float
    """Until when a name that is not listed counts as absent, by the clock."""


class Listings:
    """Remembers which files a remote has, so that looking for many takes one request per folder."""

    def __init__(self, remote: Remote, clock: Callable[[], float] = time.monotonic) -> None:
        self._remote, self._clock = remote, clock
        self._known: dict[str, _Listing] = {}

    def hold(self, *paths: str) -> bool:
        """Whether all of the given paths, which are in one folder, exist."""
        folder = paths[0].rpartition("/")[0]
        names = {path.rpartition("/")[2] for path in paths}
        known = self._known.get(folder)
        if known is None or (not names <= known.names and self._clock() >= known.until):
            known = self._known[folder] = self._listed(folder)
        return names <= known.names

    def add(self, *paths: str) -> None:
        """Record that files exist, such as after writing them."""
        for folder, _, name in (path.rpartition("/") for path in paths):
            if folder in self._known:
                self._known[folder].names.add(name)

    def discard(self, path: str) -> None:
        """Record that a file does not exist."""
        folder, _, name = path.rpartition("/")
        if folder in self._known:
            self._known[folder].names.discard(name)

    def _listed(self, folder: str) -> _Listing:
        start = self._clock()
        names = self._remote.names(folder)
        end = self._clock()
        return _Listing(names, end + max(LISTING_HOLDS, LISTING_SHARE * (end - start)))


def without_secrets(text: str) -> str:
    """The text with name, password and everything after a '?' removed from its URLs."""
    return QUERY.sub(r"\1", USERINFO.sub("", text))


def _secrets(url: str) -> list[str]:
    """The parts of a URL that may be credentials, longest first."""
    userinfo = match[0][:-1] if (match := USERINFO.search(url)) else ""
    query = url.partition("?")[2]
    parts = [userinfo, *userinfo.split(":"), *(pair.partition("=")[2] for pair in query.split("&"))]
    return sorted({form for part in parts for form in (part, unquote(part)) if len(form) > 3}, key=len, reverse=True)


def _open(url: str, shown: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the folder's path in it. Raises `UserError` if the URL cannot be used."""
    protocol, colon, location = url.partition("://")
    if not colon or not protocol:
        raise UserError(f"--store '{shown}' is not a URL. Write PROTOCOL://LOCATION, such as s3://bucket/folder.")
    try:
        import fsspec
    except ImportError:
        raise UserError(f"--store '{shown}' needs the package fsspec, which is not installed: {INSTALL}.") from None
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise UserError(
            f"Unknown protocol '{protocol}' in --store '{shown}'. Use one that fsspec supports, such as s3, gs or file."
        ) from None
    except ImportError as error:
        reason = without_secrets(first_line(error)).rstrip(".")
        raise UserError(f"--store '{shown}' needs a package that is not installed ({reason}): {INSTALL}.") from None
    problem = ""
    try:
        fs, root = fsspec.core.url_to_fs(url.partition("?")[0])
        root = str(root).rstrip("/")
        if not root.strip("/"):
            problem = "it contains no bucket or folder"
        elif USERINFO.search(url) and USERINFO.search(f"://{root.lstrip('/')}"):
            problem = (
                f"{protocol}:// does not support a name or password in the URL; configure them as its package requires"
            )
    except Exception as error:  # a package may raise anything
        problem = type(error).__name__ if _secrets(url) else without_secrets(first_line(error)).rstrip(".")
    if problem or not location:
        raise UserError(f"--store '{shown}' cannot be used: {problem or 'it contains no location'}.")
    return fs, root


def _or_none(action: Callable[[], T]) -> Callable[[], T | None]:
    """The action with `FileNotFoundError` turned into None."""

    def attempt() -> T | None:
        try:
            return action()
        except FileNotFoundError:
            return None

    return attempt
