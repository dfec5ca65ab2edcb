"""The file of a run bundle: a zip whose members are named by their content, and that is read without trust.

Equal contents give equal bytes: members are sorted and have neither times nor attributes. `bundle.json` lists the
SHA-256 of every other member. Names, numbers and sizes are checked before anything is unpacked, so that a file can
neither write elsewhere nor unpack to more than `Limits` allow.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from oodbench.benchmark.errors import UserError, first_line, visible
from oodbench.benchmark.store.safe_read import MAX_JSON

MANIFEST = "bundle.json"

RUN, BEST = "run.json", "best.json"

RECORDS, KEYS, SCORES, GROUPS, CLASSIFIED, WEIGHTS = FOLDERS = (
    *("records", "keys"),
    *("scores", "groups", "classified", "weights"),
)
"""Folders of members: documents are numbered, arrays and weights are named by their SHA-256."""

NAMES = re.compile(
    r"bundle\.json|run\.json|best\.json|(records|keys)/[0-9]{4}\.json|(scores|groups|classified)/[0-9a-f]{64}\.npy"
    r"|weights/[0-9a-f]{64}\.safetensors"
)

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member; a zip knows no earlier one."""

LEVEL = 9

END, END_LENGTH, LOCATOR = b"PK\x05\x06", 22, b"PK\x06\x07"
"""The record that ends a zip without a comment, its length, and what stands before it in a zip of 4 GiB or more."""

UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError)
"""What Python's zipfile raises for a damaged file."""

DIRECTORY = 1 << 24
"""Bytes of a zip's directory."""


class Limits(NamedTuple):
    """The most that is read of a bundle."""

    file: int = (1 << 32) - 1
    """Bytes of the file."""
    members: int = 40_000
    array: int = 1 << 28
    """Bytes of an array, unpacked."""
    document: int = MAX_JSON
    """Bytes of a JSON document, unpacked."""
    total: int = 1 << 31
    """Bytes of all members, unpacked, without weights, which are not compressed."""


LIMITS = Limits()


def member(folder: str, content: bytes) -> str:
    """The name of an array in a folder."""
    return f"{folder}/{hashlib.sha256(content).hexdigest()}.npy"


def write_zip(file: BinaryIO, members: Mapping[str, bytes | Path]) -> None:
    """Write members, given as bytes or as the files that hold them; the manifest comes first, the others by name."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        for name in sorted(members, key=lambda name: (name != MANIFEST, name)):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # whatever system writes it
            content = members[name]
            if isinstance(content, bytes):
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content, compresslevel=LEVEL)
                continue
            info.compress_type, info.file_size = zipfile.ZIP_STORED, content.stat().st_size
            with content.open("rb") as source, archive.open(info, "w") as target:
                while block := source.read(1 << 20):
                    target.write(block)


class Container:
    """A bundle's file, open for reading: names and sizes have been checked. Use it in a `with` statement.

    Raises `UserError`, one sentence that names the file, for anything that is wrong with it, now or when it is read.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        self.path, self.limits = path, limits
        try:
            self.archive = self._opened()
        except (*UNREADABLE, struct.error) as error:
            raise self.refused(f"it cannot be read as a zip file ({first_line(error).rstrip('.')})") from error
        try:
            self.members = self._checked()
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.archive.close()

    def refused(self, why: str) -> UserError:
        """The error for a bundle that is not accepted."""
        return UserError(f"'{self.path.name}' is not a run bundle that can be used: {visible(why)}.")

    def _opened(self) -> zipfile.ZipFile:
        size = self.path.stat().st_size
        if size > self.limits.file:
            raise self.refused(f"it has {size:,} bytes, more than the {self.limits.file:,} that are read")
        with self.path.open("rb") as file:
            file.seek(max(0, size - END_LENGTH - 20))
            end = file.read()
        if end[-END_LENGTH:][:4] != END:
            raise self.refused("it is not a zip file, is cut short, or has a comment")
        if end[:4] == LOCATOR:
            raise self.refused("it is a zip file of the 64-bit form, which bundles do not use")
        count, directory = struct.unpack("<HI", end[-END_LENGTH:][10:16])
        if count > self.limits.members or directory > DIRECTORY:
            raise self.refused(f"it lists {count:,} members, more than the {self.limits.members:,} that are read")
        return zipfile.ZipFile(self.path)

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in self.archive.infolist():
            name = info.filename
            if not NAMES.fullmatch(name) or info.orig_filename != name:
                raise self.refused(f"it has a member '{name[:80]}', which is no part of a bundle")
            if name in found:
                raise self.refused(f"it has two members '{name}'")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self.refused(f"'{name}' is encrypted, or compressed in a way that bundles do not use")
            if name.startswith(f"{WEIGHTS}/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise self.refused(f"'{name}' is compressed, which weights in bundles are not")
            else:
                total += info.file_size
                most = self.limits.document if name.endswith(".json") else self.limits.array
                if info.file_size > most:
                    raise self.refused(
                        f"'{name}' unpacks to {info.file_size:,} bytes, more than the {most:,} that are read"
                    )
            found[name] = info
        if total > self.limits.total:
            raise self.refused(f"it unpacks to {total:,} bytes, more than the {self.limits.total:,} that are read")
        if MANIFEST not in found:
            raise self.refused(f"it has no {MANIFEST}")
        return found

    def read(self, name: str, sha256: str = "") -> bytes:
        """The content of a member, which must have a SHA-256, if one is given."""
        if name not in self.members:
            raise self.refused(f"it lacks '{name}'")
        content = b"".join(self._blocks(name))
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise self.refused(f"'{name}' has been changed: its SHA-256 is not the one that {MANIFEST} lists")
        return content

    def copy(self, name: str, sha256: str, target: Path) -> None:
        """Write a member, which must have a SHA-256, to a file, block by block."""
        hasher = hashlib.sha256()
        with target.open("wb") as file:
            for block in self._blocks(name):
                hasher.update(block)
                file.write(block)
        if hasher.hexdigest() != sha256:
            raise self.refused(f"'{name}' has been changed: its SHA-256 is not the one that {MANIFEST} lists")

    def _blocks(self, name: str) -> Iterator[bytes]:
        info = self.members[name]
        left = info.file_size
        try:
            with self.archive.open(info) as source:
                while left >= 0 and (block := source.read(min(1 << 20, left + 1))):
                    left -= len(block)
                    yield block
        except UNREADABLE as error:
            raise self.refused(f"'{name}' cannot be unpacked ({first_line(error).rstrip('.')})") from error
        if left:
            raise self.refused(f"'{name}' does not have the size that the file states")
