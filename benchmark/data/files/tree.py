"""Folders of images, and what folders and archives share: members, limits, and which files are not members.

Files of operating systems and file managers are no members; they are listed in `left_out`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from oodbench.benchmark.data.pictures.source import read_file, stamp_of_file
from oodbench.benchmark.errors import DataError

MAX_MEMBER = 1 << 30
"""Bytes of one member."""

MAX_TOTAL = 1 << 40
"""Bytes of all members of an archive; ImageNet's training images have 1.5e11."""

MAX_MEMBERS = 5_000_000
"""Number of members."""

THUMBNAILS, RECYCLED, OF_MACOS, OF_THE_SYSTEM, HIDDEN = (
    "thumbnails",
    "in a recycle bin",
    "file information of macOS",
    "of the operating system",
    "hidden",
)
"""Why a file is left out."""

IRREGULAR, LINK_IN_ARCHIVE, ENCRYPTED = (
    "not a regular file",
    "a link in an archive",
    "encrypted",
)
"""Why a file is left out of a user's own images; it makes any other set an error, because there every file counts."""

SYSTEM = {
    "__macosx": OF_MACOS,
    "icon\r": OF_MACOS,
    "thumbs.db": THUMBNAILS,
    "ehthumbs.db": THUMBNAILS,
    "@eadir": THUMBNAILS,
    "@__thumb": THUMBNAILS,
    "#recycle": RECYCLED,
    "@recycle": RECYCLED,
    "$recycle.bin": RECYCLED,
    "desktop.ini": OF_THE_SYSTEM,
    "system volume information": OF_THE_SYSTEM,
    "lost+found": OF_THE_SYSTEM,
    "#snapshot": OF_THE_SYSTEM,
}
"""Files and folders, in lower case, that operating systems, file managers and network storage put among images."""


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


class LeftOut(NamedTuple):
    """A file that is not used, and why, in words that can follow its name."""

    name: str
    reason: str


class Tree(Protocol):
    """A folder or archive, whose members are files."""

    path: Path
    members: list[Member]
    left_out: list[LeftOut]
    """Files of the system, and links that lead nowhere; of a user's own images also what is no file that can be read,
    such as a socket. None of them is a member."""

    @property
    def linked(self) -> Mapping[str, str]:
        """Files that are reached through links: name -> path within the folder of the file itself."""
        ...

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, content) of the members with the given indices, in stored order."""
        ...

    def read_one(self, index: int) -> bytes:
        """The content of one member, found without reading others; several threads may call it at the same time.

        Raises `DamagedImageError` if it cannot be read.
        """
        ...

    def stamp(self, index: int) -> str:
        """A text that changes when the member's stored bytes do."""
        ...


def system_file(name: str) -> str:
    """Why a file belongs to the system and not to the images, by its path; empty if it does not."""
    for part in name.split("/"):
        if part.startswith("._"):
            return OF_MACOS
        if part.lower().startswith(".trash"):
            return RECYCLED
        if reason := SYSTEM.get(part.lower()) or (HIDDEN if part.startswith(".") and part not in (".", "..") else ""):
            return reason
    return ""


def leave_out(left_out: list[LeftOut], name: str, reason: str, own: bool, problem: str) -> None:
    """Note a file that cannot be used among a user's own images; raise `DataError` with the problem in other sets."""
    if not own:
        raise DataError(problem)
    left_out.append(LeftOut(name, reason))


def checked(path: Path, members: list[Member], limits: Limits) -> list[Member]:
    """Return the members, or raise `DataError` for duplicate names and sizes above the limits."""
    names: set[str] = set()
    for name, size in members:
        if name in names:
            raise DataError(f"'{path}' contains '{name}' twice. Pack it again with each file once.")
        if size > limits.member_bytes:
            raise DataError(
                f"'{name}' in '{path}' declares {size:,} bytes, more than the limit of {limits.member_bytes:,}. It was "
                "not read."
            )
        names.add(name)
    if len(members) > limits.members or sum(member.size for member in members) > limits.total_bytes:
        raise too_large(path, limits)
    return members


def too_large(path: Path, limits: Limits) -> DataError:
    """The error for a folder or archive above the limits."""
    return DataError(
        f"'{path}' declares more than {limits.members:,} files or {limits.total_bytes:,} bytes. It was not read."
    )


class Folder:
    """A folder, its files sorted by path. Links within it are followed.

    Files are as large as they are, so that only their number is limited. With `own`, what is not a regular file, such
    as a socket, is left out and noted.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS, own: bool = False) -> None:
        self.path, self._limits, self._own = path, limits, own
        self._root = os.path.realpath(path)
        self.left_out: list[LeftOut] = []
        self.linked: dict[str, str] = {}
        self.members = sorted(self._walk(path, "", (self._root,), count()))
        self.left_out.sort()

    def _walk(self, folder: Path, prefix: str, above: tuple[str, ...], counter: Iterator[int]) -> Iterator[Member]:
        """List a folder. `above`: the folders from the root to this one, without links."""
        with os.scandir(folder) as entries:
            for entry in entries:
                name, real = prefix + entry.name, f"{above[-1]}{os.sep}{entry.name}"
                if next(counter) > self._limits.members:  # links to folders full of links can make many files of few
                    raise too_large(self.path, self._limits)
                if reason := system_file(name):
                    self._leave_out(entry, name, reason)
                    continue
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if reason := self._useless(entry, real, above):
                        self.left_out.append(LeftOut(name, reason))
                        continue
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), name + "/", (*above, real), counter)
                elif entry.is_file():
                    if real != f"{self._root}{os.sep}{name.replace('/', os.sep)}":
                        self.linked[name] = Path(real).relative_to(self._root).as_posix()
                    yield Member(name, entry.stat().st_size)
                else:
                    problem = f"'{entry.path}' is not a regular file. Remove it: only images belong there."
                    leave_out(self.left_out, name, IRREGULAR, self._own, problem)

    def _leave_out(self, entry: os.DirEntry[str], name: str, reason: str) -> None:
        """Note a file, or every file in a folder."""
        if not entry.is_dir(follow_symlinks=False):
            self.left_out.append(LeftOut(name, reason))
            return
        for top, _, files in os.walk(entry.path):
            below = Path(top).relative_to(entry.path).as_posix()
            self.left_out += [LeftOut(str(PurePosixPath(name, below, file)), reason) for file in files]

    def _useless(self, link: os.DirEntry[str], target: str, above: tuple[str, ...]) -> str:
        """Why a link is not followed; empty if it is. Raises `DataError` for one that leads out of the folder."""
        if not Path(target).exists():
            return "a link to nothing"
        inside = Path(target).is_relative_to(self._root)
        if not (link.is_dir() or link.is_file()):
            if self._own and inside:
                return "a link to what is not a regular file"
            raise DataError(f"'{link.path}' is a link to '{target}', which is not a regular file. Remove it.")
        if not inside:
            raise DataError(
                f"'{link.path}' is a link that leads out of the folder, to '{target}'. Replace it by what it leads to."
            )
        return "a link to a folder that it is in" if target in above else ""

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, content), sorted by path."""
        for index in sorted(wanted):
            file = self.path / self.members[index].name
            try:
                yield index, file.read_bytes()
            except OSError as error:
                raise DataError(f"'{file}' cannot be read: {error.strerror}.") from error

    def read_one(self, index: int) -> bytes:
        """The content of one file."""
        return read_file(self.path / self.members[index].name)

    def stamp(self, index: int) -> str:
        """Inode, size and times of the file."""
        return stamp_of_file(self.path / self.members[index].name)
