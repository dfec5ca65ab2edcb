"""Zip, tar and folders of files as one thing: a list of members, read in stored order without unpacking anything.

Nothing is written to disk, so a member cannot climb out; a name that tries to is refused all the same, as are links,
encrypted members, names that occur twice, and sizes that no data set of small images has.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.store.safe_read import escapes_root

if TYPE_CHECKING:
    from typing_extensions import Self


MAX_MEMBER = 1 << 30

MAX_TOTAL = 1 << 36

MAX_MEMBERS = 5_000_000
"""Bytes of a member, of all, and members; what declares more is refused before anything is unpacked."""

MAX_NAME = 1 << 16
"""Bytes of a tar header's extension (a long name, a time): tarfile reads them whole, whatever they declare."""

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
    except OodbenchError:
        raise
    except Exception as error:  # a damaged archive makes both readers raise anything from struct.error to LZMAError
        kind = "tar" if path.name.lower().endswith(TAR) else "zip"
        raise DataError(
            f"'{path}' cannot be read as a {kind} archive ({first_line(error)}): it is damaged or not whole. Get it "
            "again."
        ) from error


def _checked(path: Path, members: list[Member]) -> list[Member]:
    """Refuse members that no honest archive of images has."""
    seen: set[str] = set()
    for name, size in members:
        if not PurePosixPath(name).parts or escapes_root(name):
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
                elif entry.is_file():
                    yield Member(name, entry.stat().st_size)
                else:
                    raise DataError(f"'{entry.path}' is no plain file; put only images there.")

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
                except Exception as error:  # also of what decompresses: zlib.error, LZMAError
                    raise DataError(
                        f"'{self.members[index].name}' in '{self.path}' cannot be unpacked ({first_line(error)}): the "
                        "archive is damaged. Get it again."
                    ) from error


class _Header(tarfile.TarInfo):
    """A tar header that is looked at before tarfile acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: Any, errors: str) -> Self:
        """Refuse sizes that would fill the memory or lead backwards."""
        made = super().frombuf(buf, encoding, errors)
        if made.size < 0 or made.size > MAX_MEMBER:
            raise DataError(f"'{made.name}' in a tar declares {made.size:,} bytes, more than {MAX_MEMBER:,}: not read.")
        if made.type in EXTENSIONS and made.size > MAX_NAME:
            raise DataError(f"a header in a tar declares {made.size:,} bytes, more than {MAX_NAME:,}: not read.")
        if made.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"'{made.name}' in a tar is stored with holes; pack the file itself.")
        return made


EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Tar:
    """A tar archive, compressed or not, in stored order; read from front to back, because seeking in gzip is slow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path, tarinfo=_Header) as archive:
            self.members = _checked(path, [Member(_plain(m.name), m.size) for m in self._files(archive)])

    def _files(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        total = 0
        kept: Any = archive
        for count, member in enumerate(archive):
            total += max(0, member.size)
            if not 0 <= member.size <= MAX_MEMBER:  # an extension may say otherwise than the header
                raise DataError(f"'{member.name}' in '{self.path}' declares {member.size:,} bytes: not read.")
            if total > MAX_TOTAL or count >= MAX_MEMBERS:  # before the next header is sought behind it
                raise DataError(f"'{self.path}' declares more than {MAX_MEMBERS:,} files or {MAX_TOTAL:,} bytes.")
            kept.members = []  # which tarfile would never drop, at a thousand bytes each
            if member.isdir() or _hidden(_plain(member.name)):
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"'{member.name}' in '{self.path}' is a link or device; pack the file itself.")
            yield member

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        try:
            with tarfile.open(self.path, tarinfo=_Header) as archive:
                for index, member in enumerate(self._files(archive)):
                    if index in wanted and (file := archive.extractfile(member)) is not None:
                        yield index, file.read()
        except OodbenchError:
            raise
        except Exception as error:  # also of what decompresses: zlib.error, LZMAError
            raise DataError(f"'{self.path}' is damaged or not whole ({first_line(error)}). Get it again.") from error


def _plain(name: str) -> str:
    """'./a/b' -> 'a/b', as `tar -C folder .` packs it."""
    return name.removeprefix("./")
