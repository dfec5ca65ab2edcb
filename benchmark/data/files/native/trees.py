"""Pictures in a folder, zip or tar, by number. A compressed tar, in which one cannot seek, is unpacked once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.tree import Tree
from oodbench.benchmark.data.pictures.source import refuse_large, stamp_of_file
from oodbench.benchmark.errors import DataError, StoreError, first_line
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import slug, to_json
from oodbench.benchmark.store.locks import Locks

MAX_UNPACKED = 1 << 36
"""Bytes that a compressed tar may unpack to."""

PIECE = 1 << 20
"""Bytes unpacked at a time."""


class TreePictures:
    """Members of a folder, zip or uncompressed tar, in a given order."""

    def __init__(
        self,
        tree: Tree,
        positions: Sequence[int],
        labels: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
        place: Path | None = None,
    ) -> None:
        """`positions`: of the pictures among the members; `place`: the file in messages, if it is not the tree's."""
        self.place, self.labels, self.groups = place or tree.path, labels, groups
        self.names = [tree.members[position].name for position in positions]
        self._tree, self._positions = tree, positions

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """The stamp of each member."""
        return [self._tree.stamp(self._positions[row]) for row in rows]

    def read(self, row: int) -> bytes:
        """One member's content."""
        position = self._positions[row]
        refuse_large(self._tree.members[position].size)
        return self._tree.read_one(position)


def seekable(path: Path, root: Path | None) -> Path:
    """The path of a folder or archive in which one can seek: `path`, or a compressed tar's content.

    It is unpacked into the folder of cached data or, without one, into a temporary folder that goes with the process.
    """
    opener = _opener(path)
    if opener is None:
        return path
    stamp = hashlib.sha256(f"{path.absolute()} {stamp_of_file(path)}".encode(errors="surrogateescape")).hexdigest()
    folder = root or Path(tempfile.mkdtemp(prefix="oodbench-"))
    if root is None:
        weakref.finalize(seekable, shutil.rmtree, folder, ignore_errors=True)
    unpacked = folder / f"{slug(path.name)}-{stamp[:12]}.unpacked.tar"
    with Locks(folder).hold(unpacked.name, f"is unpacking '{path}'"):
        if not unpacked.is_file():
            _unpack(path, opener, unpacked)
    return unpacked


def tree_at(path: Path, root: Path | None) -> Tree:
    """A folder or archive, opened so that one can seek in it."""
    return open_tree(seekable(path, root))


def _opener(path: Path) -> str | None:
    """The module that unpacks a compressed tar; None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(6)
    known = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma"}
    return next((module for magic, module in known.items() if start.startswith(magic)), None)


def _unpack(path: Path, module: str, target: Path) -> None:
    import importlib

    try:
        with atomic.temporary_beside(target) as temporary:
            total = 0
            with importlib.import_module(module).open(path) as packed, temporary.open("wb") as file:
                while piece := packed.read(PIECE):
                    total += len(piece)
                    if total > MAX_UNPACKED:
                        raise DataError(f"'{path}' unpacks to more than {MAX_UNPACKED:,} bytes. It was not read.")
                    file.write(piece)
            atomic.flush(temporary)
            atomic.rename(temporary, target)
        # So that 'bench cache prune' keeps it while the archive exists.
        side = target.with_name(target.name.removesuffix(".unpacked.tar") + ".json")
        atomic.write(side, to_json({"kind": "unpacked", "made_from": {"names": [str(path)]}}).encode())
    except (EOFError, ValueError, ArithmeticError) as error:
        raise DataError(f"'{path}' is damaged or incomplete ({first_line(error)}). Download it again.") from error
    except OSError as error:
        if error.errno is None:  # gzip's BadGzipFile
            raise DataError(f"'{path}' is damaged or incomplete ({first_line(error)}). Download it again.") from error
        raise StoreError(f"Cannot write '{target}': {error.strerror}. Choose another --results.") from error
