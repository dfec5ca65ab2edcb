"""A folder of content-addressed artifacts: equal inputs give the same key, and each key is computed once.

    cache/KIND/READABLE-NAME-0123456789ab.EXT        the artifact: safetensors, .npy or JSON, never a pickle
    cache/KIND/READABLE-NAME-0123456789ab.EXT.json   its side file: its full key, its SHA-256, and how it was made

An artifact is valid only with its side file, which is written after it. A file that fails its checksum is moved to
cache/damaged, logged, and computed again. Several processes may use one store at the same time (locks.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodbench.benchmark.errors import StoreError, first_line
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.safe_read import MAX_JSON, escapes_root, parse_json, read_bounded, read_json
from oodbench.benchmark.store.schema import SideFile, convert

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


KEY_SCHEMA = 1

SWAP = "store"
"""Name of the lock that is held while an artifact and its side file are replaced."""

UNFINISHED = "unfinished"
"""Name of the folder of snapshots of unfinished trainings."""

Stamp = tuple[int, int, int, int]
"""Inode, size, modification time and change time of a file. Programs can set the modification time; the system sets the
change time whenever content, name or attributes change."""


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Key:
    """Identifies an artifact by its inputs: two artifacts are the same if and only if kind and `content` are."""

    kind: str
    extension: str
    label: str
    """For readers: part of the file name, not of the identity."""
    content: Mapping[str, Any]
    """The inputs, as JSON values."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over kind, schema and content."""
        return digest({"kind": self.kind, "schema": KEY_SCHEMA, **self.content})

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.digest == other.digest

    @cached_property
    def path(self) -> str:
        """The artifact's path relative to the store."""
        return f"{self.kind}/{slug(self.label)}-{self.digest[:12]}{self.extension}"

    def of_rows(self, rows: tuple[int, int]) -> Key:
        """The key of a range of rows of this array, with the detector whose reductions they are."""
        own = {name: self.content[name] for name in ("detector",) if name in self.content}
        return Key("parts", self.extension, f"{self.label}-{self.kind}-{rows[0]}", {
            "of": self.digest, "rows": list(rows), **own,
        })  # fmt: skip


class Store:
    """A folder of artifacts. Damaged files are set aside and logged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.locks = Locks(root)
        self._verified: dict[Path, Stamp] = {}

    def find(self, key: Key) -> Path | None:
        """The artifact's path if it exists, is undamaged and has exactly this key; None otherwise."""
        path = self.root / key.path
        stamp = _stamp(path)
        if stamp is None or self._side(path) is None:
            return None
        if self._verified.get(path) != stamp:
            if not self._matches(path, key) and not self._matches_now(path, key):
                return None
            self._verified[path] = stamp
        return path

    def has(self, key: Key, now: bool = False) -> bool:
        """Whether the artifact exists, without downloading it from a remote store.

        With `now`, a remote store is asked again even if it lacked the artifact a moment ago.
        """
        return self.find(key) is not None

    def _matches_now(self, path: Path, key: Key) -> bool:
        """Compare again while no other process replaces the artifact, and set it aside if it is damaged."""
        with self.locks.hold(SWAP):
            if _stamp(path) is None or self._side(path) is None:
                return False
            if self._matches(path, key):
                return True
            self._set_aside(path)
            return False

    def _matches(self, path: Path, key: Key) -> bool:
        side = self._side(path) or {}
        try:
            return side.get("digest") == key.digest and side.get("sha256") == file_sha256(path)
        except FileNotFoundError:
            return False

    def key_of(self, path: str) -> Key | None:
        """The key of the artifact at a path relative to the store, from its side file; None if it has no valid one."""
        if escapes_root(path):
            return None
        known = (self._side(self.root / path) or {}).get("key")
        content = dict(known) if isinstance(known, dict) else {}
        kind, schema, name = content.pop("kind", None), content.pop("schema", None), Path(path)
        key = Key(str(kind), name.suffix, name.stem.rpartition("-")[0], content)
        return key if schema == KEY_SCHEMA and key.path == path else None

    def side(self, key: Key) -> dict[str, Any]:
        """An artifact's side file: `key`, `digest`, `sha256` and `about`; empty if it has no valid one."""
        return self._side(self.root / key.path) or {}

    def about(self, key: Key) -> dict[str, Any]:
        """How an artifact was made: seconds, environment and facts specific to its kind."""
        about: dict[str, Any] = self.side(key).get("about", {})
        return about

    def save(self, key: Key, write: Callable[[Path], None], about: Mapping[str, Any]) -> Path:
        """Have `write` fill a temporary file, then turn it into the artifact and write the side file.

        Raises `StoreError` if the store is not writable.
        """
        path = self.root / key.path
        try:
            with atomic.temporary_beside(path) as temporary:
                write(temporary)
                atomic.flush(temporary)
                side = {"key": {"kind": key.kind, "schema": KEY_SCHEMA, **key.content}, "digest": key.digest}
                self._install(temporary, path, {**side, "sha256": file_sha256(temporary), "about": dict(about)})
        except OSError as error:
            raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another --results.") from error
        return path

    def _install(self, temporary: Path, path: Path, side: Mapping[str, Any]) -> None:
        content = to_json(dict(side))
        with self.locks.hold(SWAP):  # a reader would consider a new artifact with the old side file damaged
            side_path(path).unlink(missing_ok=True)
            atomic.rename(temporary, path)
            write_atomically(side_path(path), content)
            if (stamp := _stamp(path)) is not None:
                self._verified[path] = stamp

    def extra(self, key: Key, suffix: str) -> Path:
        """The path beside an artifact for a by-product that is only looked at, such as a loss curve or a picture."""
        path = self.root / key.path
        return path.with_name(path.name.removesuffix(key.extension) + suffix)

    def load_array(self, key: Key) -> np.ndarray:
        """A stored array, memory-mapped read-only."""
        path = self.require(key)
        try:
            return load_array(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def save_array(self, key: Key, array: np.ndarray, about: Mapping[str, Any]) -> Path:
        """Store an array as .npy."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)

        return self.save(key, write, about)

    def load_json(self, key: Key) -> dict[str, Any]:
        """A stored JSON object."""
        path = self.require(key)
        try:
            value: dict[str, Any] = dict(read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise _unreadable(path, error) from error
        return value

    def save_json(self, key: Key, value: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
        """Store a JSON object."""
        return self.save(key, lambda path: _write(path, to_json(dict(value)).encode()), about)

    def load_tensors(self, key: Key) -> dict[str, Tensor]:
        """Stored weights, on the CPU."""
        from safetensors.torch import load_file

        path = self.require(key)
        try:
            return load_file(path)
        except Exception as error:  # the kind depends on how the header is damaged
            raise _unreadable(path, error) from error

    def save_tensors(self, key: Key, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
        """Store weights as safetensors."""
        from safetensors.torch import save

        # Cloned, because tied weights share memory, which safetensors rejects.
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return self.save(key, lambda path: _write(path, save(copies)), about)

    def remove(self, key: Key) -> None:
        """Delete an artifact if it exists."""
        path = self.root / key.path
        with suppress(OSError):
            for file in (side_path(path), path):
                file.unlink(missing_ok=True)
        self._verified.pop(path, None)

    def set_aside(self, key: Key) -> Path:
        """Move an artifact that is undamaged but unusable to `damaged`; return its new path."""
        return self._move_away(self.root / key.path)

    def require(self, key: Key) -> Path:
        """The artifact's path. Raises `StoreError` if it does not exist."""
        path = self.find(key)
        if path is None:
            path = self.root / key.path
            with self.locks.hold(SWAP):  # another process may have been replacing it
                exists = self._matches(path, key)
            if not exists:
                raise StoreError(f"'{key.path}' is missing from the store. Run the same command again to recompute it.")
        return path

    # Overridden by a store that several machines share (shared.py); without effect for a single machine.

    def share(self, keys: Iterable[Key]) -> None:
        """Upload artifacts that other machines cannot find yet."""

    def bring(self, keys: Iterable[Key]) -> None:
        """Download all artifacts that the local folder lacks."""

    def bring_unfinished(self, path: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Replace the snapshot of a training at `path` by another machine's, if `is_wanted` accepts its facts."""

    def share_unfinished(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Upload a snapshot unless the last upload is too recent; `facts` let other machines decide to use it."""

    def drop_unfinished(self, path: Path) -> None:
        """Remove the snapshot of a training."""
        path.unlink(missing_ok=True)

    @contextmanager
    def in_use(self, run_dir: Path) -> Iterator[None]:
        """Mark this process as working on a run here; first remove what killed processes left."""
        with self.locks.present(self.root, run_dir):
            for path in (self.root / UNFINISHED).glob("*.safetensors"):
                # A snapshot beside a finished checkpoint is left if the process was killed just after the training.
                if self._side(self.root / "checkpoint" / path.name) is not None:
                    path.unlink(missing_ok=True)
            yield

    def _side(self, path: Path) -> dict[str, Any] | None:
        side = side_path(path)
        return read_side_file(side) if side.is_file() else None

    def _set_aside(self, path: Path) -> None:
        target = self._move_away(path)
        logger.warning(f"'{path}' does not match its checksum. It was moved to '{target}' and is computed again.")

    def _move_away(self, path: Path) -> Path:
        self._verified.pop(path, None)
        folder = self.root / "damaged"
        try:
            folder.mkdir(exist_ok=True)
            target = next(t for n in range(10_000) if not (t := folder / f"{path.name}.{n}").exists())
            path.replace(target)
            side_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"'{path}' is damaged and cannot be moved away: {error.strerror}. Remove it.") from error
        return target


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def side_path(path: Path) -> Path:
    """The path of an artifact's side file."""
    return path.with_name(path.name + ".json")


def _unreadable(path: Path, error: Exception) -> StoreError:
    """An error for an artifact whose checksum is right but whose content is not: it was forged."""
    return StoreError(f"'{path}' cannot be read: {first_line(error)}. Remove it and run the same command again.")


def read_side(artifact: Path) -> dict[str, Any]:
    """The content of an artifact's side file; empty if it has no valid one."""
    return read_side_file(side_path(artifact))


def read_side_file(path: Path) -> dict[str, Any]:
    """The content of a side file; empty if it is damaged, so that its artifact counts as damaged too."""
    try:
        return parse_side(read_bounded(path, MAX_JSON))
    except (OSError, ValueError):
        return {}


def parse_side(content: bytes) -> dict[str, Any]:
    """Parse and validate a side file; empty if it is invalid."""
    try:
        side: dict[str, Any] = parse_json(content)
        convert(side, SideFile)
    except ValueError:
        return {}
    return side


def _stamp(path: Path) -> Stamp | None:
    """None if the file does not exist."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
