"""Reads zip archives, tar archives and folders through one interface: a list of members, read in stored order.

Nothing is extracted to disk, so no member can be written outside a folder. Names that try are refused nevertheless, as
are links, encrypted members, duplicate names, and sizes that no data set of small images has.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.store.safe_read import escapes_root

if TYPE_CHECKING:
    from typing_extensions import Self


MAX_MEMBER = 1 << 30
"""Bytes of one member."""

MAX_TOTAL = 1 << 36
"""Bytes of all members."""

MAX_MEMBERS = 5_000_000
"""Number of members."""

MAX_NAME = 1 << 16
"""Bytes of a tar extension header (a long name, a timestamp), which tarfile reads into memory at its declared size."""

TAR = (".tar", ".tar.gz", ".tgz")

IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""Files of file managers, which are left out like names that begin with a dot."""


class Limits(NamedTuple):
    """What an archive may declare; more is refused before anything is decompressed."""

    member_bytes: int = MAX_MEMBER
    total_bytes: int = MAX_TOTAL
    members: int = MAX_MEMBERS


LIMITS = Limits()


class Member(NamedTuple):
    """A file in a folder or archive: its path with '/' and its size in bytes."""

    name: str
    size: int


class Tree(Protocol):
    """A folder or archive, whose members are files."""

    path: Path
    members: list[Member]

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, content) of the members with the given indices, in stored order."""
        ...


def open_tree(path: Path, limits: Limits = LIMITS) -> Tree:
    """Open a folder, zip or tar. Raises `DataError` if it is damaged, exceeds a limit or is not safe to read."""
    try:
        if path.is_dir():
            return _Folder(path, limits)
        return _Tar(path, limits) if path.name.lower().endswith(TAR) else _Zip(path, limits)
    except OodbenchError:
        raise
    except Exception as error:  # for damaged archives, anything from struct.error to LZMAError
        kind = "tar" if path.name.lower().endswith(TAR) else "zip"
        raise DataError(
            f"'{path}' cannot be read as a {kind} archive ({first_line(error)}): it is damaged or incomplete. Download "
            "it again."
        ) from error


def _checked(path: Path, members: list[Member], limits: Limits) -> list[Member]:
    """Return the members, or raise `DataError` for unsafe paths, duplicate names and sizes above the limits."""
    names: set[str] = set()
    for name, size in members:
        if not PurePosixPath(name).parts or escapes_root(name):
            raise DataError(f"'{path}' contains '{name}', a path that leads out of it. Do not use this archive.")
        if name in names:
            raise DataError(f"'{path}' contains '{name}' twice. Pack it again with each file once.")
        if size > limits.member_bytes:
            raise DataError(
                f"'{name}' in '{path}' declares {size:,} bytes, more than the limit of {limits.member_bytes:,}. It was "
                "not read."
            )
        names.add(name)
    if len(members) > limits.members or sum(member.size for member in members) > limits.total_bytes:
        raise _too_large(path, limits)
    return members


def _too_large(path: Path, limits: Limits) -> DataError:
    return DataError(
        f"'{path}' declares more than {limits.members:,} files or {limits.total_bytes:,} bytes. It was not read."
    )


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part != "..") or part in IGNORED for part in PurePosixPath(name).parts)


class _Folder:
    """A folder, its files sorted by path."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.members = _checked(path, sorted(self._walk(path, "")), limits)

    def _walk(self, folder: Path, prefix: str) -> Iterator[Member]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_symlink():
                    raise DataError(f"'{entry.path}' is a link. Replace it by the file itself.")
                if _hidden(name):
                    continue
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), name + "/")
                elif entry.is_file():
                    yield Member(name, entry.stat().st_size)
                else:
                    raise DataError(f"'{entry.path}' is not a regular file. Remove it: only images belong there.")

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        for index in sorted(wanted):
            file = self.path / self.members[index].name
            try:
                yield index, file.read_bytes()
            except OSError as error:
                raise DataError(f"'{file}' cannot be read: {error.strerror}.") from error


class _Zip:
    """A zip archive, in stored order."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self._infos = [i for i in archive.infolist() if not i.is_dir() and not _hidden(i.filename)]
        for info in self._infos:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"'{info.filename}' in '{path}' is a link. Pack the file itself.")
            if info.flag_bits & 1:
                raise DataError(f"'{info.filename}' in '{path}' is encrypted. Pack it without a password.")
        self.members = _checked(path, [Member(i.filename, i.file_size) for i in self._infos], limits)

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for index in sorted(wanted):
                try:
                    yield index, archive.read(self._infos[index])
                except Exception as error:  # including those of decompressors, such as zlib.error and LZMAError
                    raise DataError(
                        f"'{self.members[index].name}' in '{self.path}' cannot be unpacked ({first_line(error)}): the "
                        "archive is damaged. Download it again."
                    ) from error


class _Header(tarfile.TarInfo):
    """A tar header that is checked before tarfile acts on it."""

    max_bytes: ClassVar[int] = MAX_MEMBER

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: Any, errors: str) -> Self:
        """Refuse sizes that would exhaust memory or, if negative, move the reader backwards."""
        info = super().frombuf(buf, encoding, errors)
        if not 0 <= info.size <= cls.max_bytes:
            raise DataError(
                f"'{info.name}' in a tar archive declares {info.size:,} bytes, expected 0 to {cls.max_bytes:,}. It was "
                "not read."
            )
        if info.type in EXTENSIONS and info.size > MAX_NAME:
            raise DataError(
                f"An extension header in a tar archive declares {info.size:,} bytes, more than the limit of "
                f"{MAX_NAME:,}. It was not read."
            )
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"'{info.name}' in a tar archive is stored as a sparse file. Pack it without --sparse.")
        return info


EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Tar:
    """A tar archive, compressed or not, in stored order. It is read sequentially, because seeking in gzip is slow."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self._limits = path, limits
        self._header = type("_Header", (_Header,), {"max_bytes": limits.member_bytes})
        with tarfile.open(path, tarinfo=self._header) as archive:
            members = [Member(_without_dot(m.name), m.size) for m in self._files(archive)]
        self.members = _checked(path, members, limits)

    def _files(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        total = 0
        limits = self._limits
        opened: Any = archive
        for count, member in enumerate(archive):
            total += max(0, member.size)
            if not 0 <= member.size <= limits.member_bytes:  # an extension header may override the size
                raise DataError(f"'{member.name}' in '{self.path}' declares {member.size:,} bytes. It was not read.")
            if total > limits.total_bytes or count >= limits.members:  # checked before the next header is read
                raise _too_large(self.path, limits)
            opened.members = []  # tarfile keeps every member, about 1 kB each
            if member.isdir() or _hidden(_without_dot(member.name)):
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"'{member.name}' in '{self.path}' is a link or device. Pack the file itself.")
            yield member

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        try:
            with tarfile.open(self.path, tarinfo=self._header) as archive:
                for index, member in enumerate(self._files(archive)):
                    if index in wanted and (file := archive.extractfile(member)) is not None:
                        yield index, file.read()
        except OodbenchError:
            raise
        except Exception as error:  # including those of decompressors, such as zlib.error and LZMAError
            raise DataError(
                f"'{self.path}' is damaged or incomplete ({first_line(error)}). Download it again."
            ) from error


def _without_dot(name: str) -> str:
    """'./a/b' -> 'a/b': `tar -C folder .` stores names with the leading dot."""
    return name.removeprefix("./")
