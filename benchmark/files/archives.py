"""Zip, tar and folders of files as one thing: a list of members, read in stored order without unpacking anything.

Nothing is written to disk, so a member cannot climb out; a name that tries to is refused all the same, as are links,
encrypted members, names that occur twice, and sizes that no data set of small images has.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, Protocol

from oodbench.benchmark.errors import DataError, first_line

MAX_MEMBER = 1 << 32
MAX_TOTAL = 1 << 36
MAX_MEMBERS = 5_000_000
"""Bytes of a member, of all, and members; what declares more is refused before anything is unpacked."""
TAR = (".tar", ".tar.gz", ".tgz")
IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""What file managers leave behind; names that begin with a dot are left out too."""


class Member(NamedTuple):
    """A file inside: its path with '/' and its size in bytes."""

    name: str
    size: int


class Tree(Protocol):
    """A folder or archive."""

    path: Path
    members: list[Member]

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, content) of the wanted members in stored order."""
        ...


def open_tree(path: Path) -> Tree:
    """Open a folder, a zip or a tar. Raises `DataError` where that cannot be done safely."""
    try:
        if path.is_dir():
            return _Folder(path)
        return _Tar(path) if path.name.lower().endswith(TAR) else _Zip(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        kind = "tar" if path.name.lower().endswith(TAR) else "zip"
        raise DataError(
            f"'{path}' cannot be read as a {kind} archive ({first_line(error)}): it is damaged or not whole. Get it "
            "again."
        ) from error


def _checked(path: Path, members: list[Member]) -> list[Member]:
    """Refuse members that no honest archive of images has."""
    seen: set[str] = set()
    for name, size in members:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or PureWindowsPath(name).drive or "\\" in name:
            raise DataError(f"'{path}' holds '{name}', a path that leads out of it. Do not use this archive.")
        if name in seen:
            raise DataError(f"'{path}' holds '{name}' twice. Pack it again, each file once.")
        if size > MAX_MEMBER:
            raise DataError(f"'{name}' in '{path}' declares {size:,} bytes, more than {MAX_MEMBER:,}: not read.")
        seen.add(name)
    if len(members) > MAX_MEMBERS or sum(member.size for member in members) > MAX_TOTAL:
        raise DataError(f"'{path}' declares more than {MAX_MEMBERS:,} files or {MAX_TOTAL:,} bytes: not read.")
    return members


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part != "..") or part in IGNORED for part in PurePosixPath(name).parts)


class _Folder:
    """A folder, its files sorted by path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = _checked(path, sorted(self._walk(path, "")))

    def _walk(self, folder: Path, prefix: str) -> Iterator[Member]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_symlink():
                    raise DataError(f"'{entry.path}' is a link; put the file itself there.")
                if _hidden(name):
                    continue
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), name + "/")
                else:
                    yield Member(name, entry.stat().st_size)

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        for index in sorted(wanted):
            file = self.path / self.members[index].name
            try:
                yield index, file.read_bytes()
            except OSError as error:
                raise DataError(f"'{file}' cannot be read: {error.strerror}.") from error


class _Zip:
    """A zip archive, in stored order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self._infos = [i for i in archive.infolist() if not i.is_dir() and not _hidden(i.filename)]
        for info in self._infos:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"'{info.filename}' in '{path}' is a link; pack the file itself.")
            if info.flag_bits & 1:
                raise DataError(f"'{info.filename}' in '{path}' is encrypted; pack it without a password.")
        self.members = _checked(path, [Member(i.filename, i.file_size) for i in self._infos])

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for index in sorted(wanted):
                try:
                    yield index, archive.read(self._infos[index])
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
                    raise DataError(
                        f"'{self.members[index].name}' in '{self.path}' cannot be unpacked ({first_line(error)}): the "
                        "archive is damaged. Get it again."
                    ) from error


class _Tar:
    """A tar archive, compressed or not, in stored order; read from front to back, because seeking in gzip is slow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path) as archive:
            self.members = _checked(path, [Member(_plain(m.name), m.size) for m in self._files(archive)])

    def _files(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in archive:
            if member.isdir() or _hidden(_plain(member.name)):
                continue
            if not member.isreg():
                raise DataError(f"'{member.name}' in '{self.path}' is a link or device; pack the file itself.")
            if member.size > MAX_MEMBER:  # before the next header is sought behind it
                raise DataError(f"'{member.name}' in '{self.path}' declares {member.size:,} bytes: not read.")
            yield member

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        try:
            with tarfile.open(self.path) as archive:
                for index, member in enumerate(self._files(archive)):
                    if index in wanted and (file := archive.extractfile(member)) is not None:
                        yield index, file.read()
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise DataError(f"'{self.path}' is damaged or not whole ({first_line(error)}). Get it again.") from error


def _plain(name: str) -> str:
    """'./a/b' -> 'a/b', as `tar -C folder .` packs it."""
    return name.removeprefix("./")
