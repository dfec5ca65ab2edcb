"""A folder at a URL, by fsspec: what a store that several machines share needs of it.

Requests that fail are tried again; one that fails for good is told in a sentence. No sentence shows what stands before
an '@' or after a '?' in the URL, and no error is chained to one of a library, whose text may quote them: they may be
credentials.
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
"""Times that a request is made before it counts as failed."""

PAUSE = 0.5
"""Seconds before the second attempt; twice as long before each further one."""

LISTING_HOLDS = 30.0
"""Seconds for which a folder's listing is believed when a name is not in it."""

LISTING_SHARE = 20
"""And so many times as long as the listing took, so that listing large folders takes no more than 5% of the time."""

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"})
"""Protocols whose objects appear whole; elsewhere a file is written under a temporary name and moved."""

LASTING = (
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
)
"""Failures that another attempt does not mend."""

FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""And what a disk says that does not change its mind."""

USERINFO = re.compile(r"(?<=://)(?:[^/@\s]*:[^@\s]*|[^/@\s]+)@")
"""Name and password in a URL. A password may hold a '/', as Amazon's do."""

QUERY = re.compile(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]*")

INSTALL = "pip install 'oodbench[remote]', and s3fs for s3://, gcsfs for gs://, adlfs for abfs://"

T = TypeVar("T")


class Remote:
    """A folder at a URL that fsspec knows. Paths are relative to it, with '/'."""

    def __init__(self, url: str) -> None:
        self.shown = without_secrets(url)
        """The URL as it may be shown."""
        self._secrets = _secrets(url)
        self._fs, self._root = _opened(url, self.shown)
        self._protocol = url.partition("://")[0]
        self._appears_whole = self._protocol in OBJECT_STORES
        self._made: set[str] = set()
        self.threads = 16 if getattr(self._fs, "async_impl", False) else 1
        """How many requests may be made at once."""

    def refuse_folder(self, folder: Path) -> None:
        """Raise `UserError` if it is that very folder: a file cannot be copied onto itself."""
        if self._protocol in ("file", "local") and Path(self._root).resolve() == folder.resolve():
            raise UserError(f"--store '{self.shown}' is the folder of --results itself. Choose another place.")

    def refuse_unwritable(self) -> None:
        """Write a small object and remove it. Raises `StoreError` if that fails."""
        probe = f".oodbench-{uuid4().hex}"
        self.write(probe, b"Written to see whether this can be written to.\n")
        self.remove(probe)

    def names(self, folder: str) -> set[str]:
        """The names of what lies directly in a folder; none if there is no such folder."""

        def list_() -> list[str]:
            self._fs.invalidate_cache()  # of fsspec: other machines write here too
            return list(self._fs.ls(self._at(folder), detail=False))

        return {path.rstrip("/").rpartition("/")[2] for path in self._try(f"list '{folder}' of", _or_none(list_)) or ()}

    def read(self, path: str) -> bytes | None:
        """The content of a small file; None if it is not there."""
        end = MAX_JSON + 1
        content = self._try(f"read '{path}' of", _or_none(lambda: self._fs.cat_file(self._at(path), start=0, end=end)))
        return bytes(content) if content is not None else None

    def get(self, path: str, target: Path) -> bool:
        """Download a file to a local path; False if it is not there."""

        def download() -> bool:
            self._fs.get_file(self._at(path), str(target))
            return True

        return self._try(f"fetch '{path}' from", _or_none(download)) or False

    def put(self, source: Path, path: str) -> None:
        """Upload a local file: whoever reads finds the old one or the new one, whole."""
        self._try(f"write '{path}' to", lambda: self._place(path, lambda at: self._fs.put_file(str(source), at)))

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, likewise."""
        self._try(f"write '{path}' to", lambda: self._place(path, lambda at: self._fs.pipe_file(at, content)))

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        self._try(f"remove '{path}' from", _or_none(lambda: self._fs.rm_file(self._at(path))))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _place(self, path: str, write: Callable[[str], object]) -> None:
        target = self._at(path)
        if self._appears_whole:
            write(target)
            return
        folder, _, name = target.rpartition("/")
        if folder not in self._made:
            self._fs.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        temporary = f"{folder}/.{name}.{uuid4().hex}.tmp"
        try:
            write(temporary)
            self._fs.mv(temporary, target)
        except BaseException:
            self._made.discard(folder)  # somebody may have removed it
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def _try(self, what: str, action: Callable[[], T]) -> T:
        """Make a request, again where it fails; raise `StoreError` in the end."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                return action()
            except Exception as error:  # of as many kinds as there are protocols
                reason = self._told(error)
                if isinstance(error, LASTING) or getattr(error, "errno", None) in FULL:
                    break
        raise StoreError(
            f"Cannot {what} the store '{self.shown}': {reason.rstrip('.')}. Nothing that is finished is lost: run the "
            "same command again when this is mended, or with another --store."
        )

    def _told(self, error: Exception) -> str:
        """What a library says, without what may be credentials."""
        text = without_secrets(getattr(error, "strerror", None) or first_line(error))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Listing(NamedTuple):
    names: set[str]
    until: float
    """When a name that is not in it is to be looked for again."""


class Listings:
    """The names in a remote's folders, so that asking for many takes one request a folder."""

    def __init__(self, remote: Remote, clock: Callable[[], float] = time.monotonic) -> None:
        self._remote, self._clock = remote, clock
        self._known: dict[str, _Listing] = {}

    def hold(self, *paths: str) -> bool:
        """Whether there are files at all of some paths in one folder."""
        folder = paths[0].rpartition("/")[0]
        names = {path.rpartition("/")[2] for path in paths}
        known = self._known.get(folder)
        if known is None or (not names <= known.names and self._clock() >= known.until):
            known = self._known[folder] = self._listed(folder)
        return names <= known.names

    def add(self, *paths: str) -> None:
        """Know of files that have just been written or seen."""
        for folder, _, name in (path.rpartition("/") for path in paths):
            if folder in self._known:
                self._known[folder].names.add(name)

    def discard(self, path: str) -> None:
        """Know that a file is not there."""
        folder, _, name = path.rpartition("/")
        if folder in self._known:
            self._known[folder].names.discard(name)

    def _listed(self, folder: str) -> _Listing:
        began = self._clock()
        names = self._remote.names(folder)
        ended = self._clock()
        return _Listing(names, ended + max(LISTING_HOLDS, LISTING_SHARE * (ended - began)))


def without_secrets(text: str) -> str:
    """Text whose URLs show neither name and password nor what follows a '?'."""
    return QUERY.sub(r"\1", USERINFO.sub("", text))


def _secrets(url: str) -> list[str]:
    """The parts of a URL that may be credentials, the longest first."""
    userinfo = match[0][:-1] if (match := USERINFO.search(url)) else ""
    query = url.partition("?")[2]
    parts = [userinfo, *userinfo.split(":"), *(pair.partition("=")[2] for pair in query.split("&"))]
    return sorted({form for part in parts for form in (part, unquote(part)) if len(form) > 3}, key=len, reverse=True)


def _opened(url: str, shown: str) -> tuple[Any, str]:
    """The file system of a URL and the folder's path in it. Raises `UserError` for one that cannot be used."""
    protocol, colon, place = url.partition("://")
    if not colon or not protocol:
        raise UserError(f"--store '{shown}' is no URL. Write PROTOCOL://PLACE, such as s3://bucket/folder.")
    try:
        import fsspec
    except ImportError:
        raise UserError(f"--store '{shown}' needs the package fsspec, which is not installed: {INSTALL}.") from None
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise UserError(
            f"Unknown protocol '{protocol}' in --store '{shown}'. Use one that fsspec knows, such as s3, gs or file."
        ) from None
    except ImportError as error:
        told = without_secrets(first_line(error)).rstrip(".")
        raise UserError(f"--store '{shown}' needs a package that is not installed ({told}): {INSTALL}.") from None
    problem = ""
    try:
        fs, root = fsspec.core.url_to_fs(url.partition("?")[0])
        root = str(root).rstrip("/")
        if not root.strip("/"):
            problem = "it names no bucket or folder"
        elif USERINFO.search(url) and USERINFO.search(f"://{root.lstrip('/')}"):
            problem = f"{protocol}:// takes no name or password in the URL; give them as its package wants them"
    except Exception as error:  # a package may refuse a URL with anything
        problem = type(error).__name__ if _secrets(url) else without_secrets(first_line(error)).rstrip(".")
    if problem or not place:
        raise UserError(f"--store '{shown}' cannot be used: {problem or 'it names no place'}.")
    return fs, root


def _or_none(action: Callable[[], T]) -> Callable[[], T | None]:
    """The same, with None in place of a file that is not there."""

    def asked() -> T | None:
        try:
            return action()
        except FileNotFoundError:
            return None

    return asked
