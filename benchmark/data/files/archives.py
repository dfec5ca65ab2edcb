"""Reads zip and tar archives, and folders, through one interface: a list of members, read in stored order.

Nothing is extracted to disk, so no member can be written outside a folder. Names that try are refused nevertheless, as
are links that lead out of a folder or archive, duplicate names, and sizes that no data set has. Other links in
archives, devices and encrypted members are left out of a user's own images, and refused in other sets.
"""

from __future__ import annotations

import os
import platform
import stat
import tarfile
import threading
import zipfile
from array import array
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from tarfile import EmptyHeaderError, EOFHeaderError, HeaderError, ReadError, TarFile  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, ClassVar

from oodbench.benchmark.data.files.tree import (
    ENCRYPTED,
    IRREGULAR,
    LIMITS,
    LINK_IN_ARCHIVE,
    MAX_MEMBER,
    Folder,
    LeftOut,
    Limits,
    Member,
    Tree,
    checked,
    leave_out,
    system_file,
    too_large,
)
from oodbench.benchmark.data.pictures.source import DamagedImageError, stamp_of_file
from oodbench.benchmark.errors import DataError, OodbenchError, first_line
from oodbench.benchmark.store.safe_read import escapes_root

if TYPE_CHECKING:
    from typing_extensions import Self


MAX_NAME = 1 << 16
"""Bytes of a tar extension header (a long name, a timestamp), which tarfile reads into memory at its declared size."""

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Suffixes of tar archives."""


MAX_LINK = 1 << 12
"""Bytes of a link's target that are read."""


def open_tree(path: Path, limits: Limits = LIMITS, own: bool = False) -> Tree:
    """Open a folder, zip or tar. Raises `DataError` if it is damaged, exceeds a limit or is not safe to read.

    With `own`, what cannot be read is left out and noted, as among a user's own images; else it is an error.
    """
    try:
        if path.is_dir():
            return Folder(path, limits, own)
        return _Tar(path, limits, own) if path.name.lower().endswith(TAR) else _Zip(path, limits, own)
    except OodbenchError:
        raise
    except Exception as error:  # for damaged archives, anything from struct.error to LZMAError
        if path.is_dir():
            place = getattr(error, "filename", None) or path
            raise DataError(f"'{place}' cannot be read ({first_line(error)}). Check its permissions.") from error
        kind = "tar" if path.name.lower().endswith(TAR) else "zip"
        raise DataError(
            f"'{path}' cannot be read as a {kind} archive ({first_line(error)}): it is damaged or incomplete. Download "
            "it again."
        ) from error


def _stored_name(path: Path, name: str) -> str:
    """A member's name with '/' and without './', as some programs on Windows and `tar -C folder .` store them.

    Raises `DataError` if it leads out of the archive.
    """
    slashed = name.replace("\\", "/")
    if not PurePosixPath(slashed).parts or escapes_root(slashed):
        raise DataError(f"'{path}' contains '{name}', a path that leads out of it. Do not use this archive.")
    return "/".join(part for part in slashed.split("/") if part not in ("", "."))


def _refuse_leading_out(path: Path, name: str, folder: str, target: str) -> None:
    """Raise `DataError` for a link whose target, relative to `folder` in the archive, is not in the archive."""
    if target.startswith("/") or escapes_root(normpath(join(folder, target))):
        raise DataError(f"'{name}' in '{path}' is a link that leads out of it, to '{target}'. Pack the file itself.")


class _Zip:
    """A zip archive, in stored order."""

    def __init__(self, path: Path, limits: Limits, own: bool = False) -> None:
        self.path = path
        self.linked: Mapping[str, str] = {}
        self.left_out: list[LeftOut] = []
        self._infos: list[zipfile.ZipInfo] = []
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        members = []
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(("/", "\\")):
                    continue
                name = _stored_name(path, info.filename)
                if reason := system_file(name):
                    self.left_out.append(LeftOut(name, reason))
                elif info.flag_bits & 1:
                    problem = f"'{info.filename}' in '{path}' is encrypted. Pack it without a password."
                    leave_out(self.left_out, name, ENCRYPTED, own, problem)
                elif stat.S_ISLNK(info.external_attr >> 16):
                    problem = f"'{info.filename}' in '{path}' is a link. Pack the file itself."
                    leave_out(self.left_out, name, LINK_IN_ARCHIVE, own, problem)
                    with archive.open(info) as link:
                        target = link.read(MAX_LINK).decode(errors="replace")
                    _refuse_leading_out(path, info.filename, dirname(name), target)
                else:
                    self._infos.append(info)
                    members.append(Member(name, info.file_size))
        self.members = checked(path, members, limits)
        self.left_out.sort()

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

    def read_one(self, index: int) -> bytes:
        info = self._infos[index]
        try:
            return self._open().read(info)
        except Exception as error:  # including those of decompressors, such as zlib.error and LZMAError
            raise DamagedImageError(f"cannot be unpacked ({first_line(error)})") from error

    def stamp(self, index: int) -> str:
        info = self._infos[index]
        return f"{stamp_of_file(self.path)} at {info.header_offset}: {info.file_size} {info.CRC}"

    def _open(self) -> zipfile.ZipFile:
        """The archive, opened once in each process: one that was forked must not share its position."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            return self._opened[1]


class _Header(tarfile.TarInfo):
    """A tar header that is checked before tarfile acts on it."""

    max_bytes: ClassVar[int] = MAX_MEMBER
    checked = False

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        """Refuse what tarfile takes for the end of the archive, and leaves out with all that follows."""
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the block of zeros that marks the end
            raise
        except EmptyHeaderError as error:
            raise ReadError("it ends without the block of zeros that marks its end") from error
        except HeaderError as error:
            raise ReadError(f"{error} at byte {tarfile.offset:,}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Refuse sizes that would exhaust memory or, if negative, move the reader backwards.

        Every version of Python calls this for each header before it acts on it. Newer releases no longer call `frombuf`
        for headers of archives.
        """
        if not 0 <= self.size <= self.max_bytes:
            raise DataError(
                f"'{self.name}' in a tar archive declares {self.size:,} bytes, expected 0 to {self.max_bytes:,}. It "
                "was not read."
            )
        if self.type in EXTENSIONS and self.size > MAX_NAME:
            raise DataError(
                f"An extension header in a tar archive declares {self.size:,} bytes, more than the limit of "
                f"{MAX_NAME:,}. It was not read."
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"'{self.name}' in a tar archive is stored as a sparse file. Pack it without --sparse.")
        self.checked = True
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _compression(start: bytes) -> str:
    """How a tar archive that starts like this is compressed: 'gz', 'bz2', 'xz', or '' for not at all."""
    if start.startswith(b"\x1f\x8b"):
        return "gz"
    if start.startswith(b"BZh") and start[4:] == b"1AY&SY":
        return "bz2"
    return "xz" if start.startswith(b"\xfd7zXZ\x00") else ""


class _Tar:
    """A tar archive, compressed or not, in stored order. It is read sequentially, because seeking in gzip is slow."""

    def __init__(self, path: Path, limits: Limits, own: bool = False) -> None:
        self.path, self._limits, self._own = path, limits, own
        self._header = type("_Header", (_Header,), {"max_bytes": limits.member_bytes})
        self.linked: Mapping[str, str] = {}
        self._offsets = array("q")
        left_out: list[LeftOut] = []
        with self._opened() as archive:
            members = []
            for name, info in self._files(archive, left_out):
                members.append(Member(name, info.size))
                self._offsets.append(info.offset_data)
        self.members, self.left_out = checked(path, members, limits), sorted(left_out)

    def _opened(self) -> tarfile.TarFile:
        """The archive. Its compression is stated, because otherwise an error says only that none of them fits."""
        with self.path.open("rb") as file:
            compression = _compression(file.read(10))
        mode: Any = f"r:{compression}"
        return tarfile.open(self.path, mode, tarinfo=self._header)

    def _files(self, archive: tarfile.TarFile, left_out: list[LeftOut]) -> Iterator[tuple[str, tarfile.TarInfo]]:
        total = 0
        limits = self._limits
        opened: Any = archive
        for count, member in enumerate(archive):
            if not getattr(member, "checked", False):
                raise DataError(
                    f"'{self.path}' was not read, because Python {platform.python_version()} reads the headers of tar "
                    "archives in a way that oodbench cannot check. Unpack it, and give the folder."
                )
            total += max(0, member.size)
            if not 0 <= member.size <= limits.member_bytes:  # an extension header may override the size
                raise DataError(f"'{member.name}' in '{self.path}' declares {member.size:,} bytes. It was not read.")
            if total > limits.total_bytes or count >= limits.members:  # checked before the next header is read
                raise too_large(self.path, limits)
            opened.members = []  # tarfile keeps every member, about 1 kB each
            if member.isdir():
                continue
            name = _stored_name(self.path, member.name)
            if reason := system_file(name):
                left_out.append(LeftOut(name, reason))
                continue
            if not member.isreg() or member.issparse():
                problem = f"'{member.name}' in '{self.path}' is a link or device. Pack the file itself."
                is_link = member.issym() or member.islnk()
                leave_out(left_out, name, LINK_IN_ARCHIVE if is_link else IRREGULAR, self._own, problem)
                if is_link:
                    folder = dirname(name) if member.issym() else ""
                    _refuse_leading_out(self.path, member.name, folder, member.linkname)
                continue
            yield name, member

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        try:
            with self._opened() as archive:
                for index, (_, member) in enumerate(self._files(archive, [])):
                    if index in wanted and (file := archive.extractfile(member)) is not None:
                        yield index, file.read()
        except OodbenchError:
            raise
        except Exception as error:  # including those of decompressors, such as zlib.error and LZMAError
            raise DataError(
                f"'{self.path}' is damaged or incomplete ({first_line(error)}). Download it again."
            ) from error

    def read_one(self, index: int) -> bytes:
        """The content of one member of an archive that is not compressed."""
        size = self.members[index].size
        try:
            with self.path.open("rb") as file:
                file.seek(self._offsets[index])
                content = file.read(size)
        except OSError as error:
            raise DamagedImageError(f"cannot be read ({error.strerror or error})") from error
        if len(content) < size:
            raise DamagedImageError("is cut short, as is its archive")
        return content

    def stamp(self, index: int) -> str:
        return f"{stamp_of_file(self.path)} at {self._offsets[index]}: {self.members[index].size}"
