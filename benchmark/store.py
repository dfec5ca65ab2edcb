"""Content-addressed artifacts: the same inputs give the same key, and a key's file is made once.

    cache/KIND/READABLE-NAME-0123456789ab.EXT        the artifact: safetensors, .npy or JSON, never a pickle
    cache/KIND/READABLE-NAME-0123456789ab.EXT.json   its full key, its SHA-256, and how it was made

An artifact counts only with its side file, which is written after it. A file that fails its checksum is moved to
cache/damaged, said, and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodbench.benchmark.arrays import load_array
from oodbench.benchmark.errors import StoreError, UserError, first_line
from oodbench.benchmark.records import read_record, slug, to_json, write_atomically
from oodbench.benchmark.shapes import Side
from oodbench.benchmark.untrusted import leads_out, misfit, read_json

if TYPE_CHECKING:
    from torch import Tensor

KEY_SCHEMA = 1


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Key:
    """What an artifact is made from. Two artifacts are the same if and only if their `content` is."""

    kind: str
    extension: str
    label: str
    """For people: part of the file name, not of the identity."""
    content: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over kind, schema and content."""
        return digest({"kind": self.kind, "schema": KEY_SCHEMA, **self.content})

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.digest == other.digest

    @property
    def path(self) -> str:
        """Where it lies, relative to the store."""
        return f"{self.kind}/{slug(self.label)}-{self.digest[:12]}{self.extension}"


class Store:
    """A folder of artifacts. `say` is told, in a sentence, about every damaged file."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root = root
        self.say = say
        self._verified: set[Path] = set()

    def find(self, key: Key) -> Path | None:
        """The artifact's path if it is there, whole, and of this very key; None otherwise."""
        path = self.root / key.path
        if path in self._verified and path.is_file():
            return path
        side = self._side(path)
        if not path.is_file() or side is None:
            return None
        if side.get("digest") != key.digest or side.get("sha256") != _sha256(path):
            self._set_aside(path)
            return None
        self._verified.add(path)
        return path

    def key_of(self, path: str) -> Key | None:
        """The key of the artifact at a path relative to the store, from its side file; None if it has none."""
        if leads_out(path):
            return None
        known = (self._side(self.root / path) or {}).get("key")
        content = dict(known) if isinstance(known, dict) else {}
        kind, schema, name = content.pop("kind", None), content.pop("schema", None), Path(path)
        key = Key(str(kind), name.suffix, name.stem.rpartition("-")[0], content)
        return key if schema == KEY_SCHEMA and key.path == path else None

    def about(self, key: Key) -> dict[str, Any]:
        """How an artifact was made: seconds, environment, and what its maker added."""
        about: dict[str, Any] = (self._side(self.root / key.path) or {}).get("about", {})
        return about

    def save(self, key: Key, write: Callable[[Path], None], about: Mapping[str, Any]) -> Path:
        """Let `write` fill a temporary file, then make it the artifact; the side file follows last."""
        path = self.root / key.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
            os.close(handle)
            temporary = Path(name)
            try:
                write(temporary)
                _flush(temporary)
                checksum = _sha256(temporary)
                temporary.chmod(0o644)
                _side_path(path).unlink(missing_ok=True)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another --results.") from error
        side = {"key": {"kind": key.kind, "schema": KEY_SCHEMA, **key.content}, "digest": key.digest}
        write_atomically(_side_path(path), to_json({**side, "sha256": checksum, "about": dict(about)}))
        self._verified.add(path)
        return path

    def extra(self, key: Key, suffix: str) -> Path:
        """The path of a by-product for people beside an artifact, such as a loss curve or a picture."""
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
        except Exception as error:  # of many kinds, depending on what the header happens to say
            raise _unreadable(path, error) from error

    def save_tensors(self, key: Key, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
        """Store weights as safetensors."""
        from safetensors.torch import save

        # Cloned, because tied weights share memory, which the format refuses.
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return self.save(key, lambda path: _write(path, save(whole)), about)

    def set_aside(self, key: Key) -> Path:
        """Move an artifact that is whole and yet of no use to `damaged`; return where it lies now."""
        return self._move_away(self.root / key.path)

    def require(self, key: Key) -> Path:
        """The artifact's path; an error if it is not there."""
        path = self.find(key)
        if path is None:
            raise StoreError(f"'{key.path}' is gone from the store. Run the same command again to make it anew.")
        return path

    def _side(self, path: Path) -> dict[str, Any] | None:
        side = _side_path(path)
        return _read_side(side) if side.is_file() else None

    def _set_aside(self, path: Path) -> None:
        target = self._move_away(path)
        self.say(f"'{path}' does not match its checksum: moved to '{target}', to be made again.")

    def _move_away(self, path: Path) -> Path:
        self._verified.discard(path)
        folder = self.root / "damaged"
        try:
            folder.mkdir(exist_ok=True)
            target = next(t for n in range(10_000) if not (t := folder / f"{path.name}.{n}").exists())
            path.replace(target)
            _side_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"'{path}' is damaged and cannot be moved away: {error.strerror}. Remove it.") from error
        return target


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _side_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _unreadable(path: Path, error: Exception) -> StoreError:
    """An artifact that matches its checksum and is none all the same: nobody but a forger writes that."""
    return StoreError(f"'{path}' cannot be read: {first_line(error)}. Remove it and run the same command again.")


def _read_side(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty if it is damaged, which makes its artifact count as damaged too."""
    try:
        side = read_json(path)
    except (OSError, ValueError):
        return {}
    return side if isinstance(side, dict) and not misfit(side, Side) else {}


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def prune(results: Path, dry_run: bool = False) -> tuple[int, int]:
    """Delete every file of a results folder's cache that no run's cells were made from; return bytes and files.

    Decoded images stay as long as the files that they came from are where they were.

    What a run uses is what its records name, and whatever is named in the keys of those, up to the checkpoints.
    Raises `UserError`, and deletes nothing, if there is no such folder or a record cannot be read: it would seem to use
    nothing.
    """
    if not results.is_dir():
        raise UserError(f"There is no results folder '{results}'. Give the one to prune with --results.")
    cache = results / "cache"
    sides = {path: _read_side(path) for path in cache.rglob("*.json")} if cache.is_dir() else {}
    by_digest = {side["digest"]: (path, side) for path, side in sides.items() if "digest" in side}
    roots = [path for record in (results / "runs").glob("*/cells/*.json") for path in _artifacts_of(record)]
    todo = [
        side["digest"] for path, side in sides.items() if _artifact_path(path).relative_to(cache).as_posix() in roots
    ]
    used: set[str] = set()
    while todo:
        if (one := todo.pop()) in by_digest and one not in used:
            used.add(one)
            todo.extend(_words(by_digest[one][1].get("key")))
    stems = {str(_artifact_path(by_digest[one][0]).with_suffix("")) + "." for one in used}
    stems |= _decoded_stems(cache / "data")
    gone = [p for p in cache.rglob("*") if p.is_file() and not any(str(p).startswith(stem) for stem in stems)]
    freed = sum(path.stat().st_size for path in gone)
    for path in [] if dry_run else gone:
        path.unlink()
    return freed, len(gone)


def _decoded_stems(folder: Path) -> set[str]:
    """How the names begin of decoded images whose source is still there, and of the memory of hashes."""
    sides = {path: _read_side(path).get("made_from", {}) for path in folder.glob("*.json")}
    kept = [path for path, made in sides.items() if not made or all(Path(name).exists() for name in made["names"])]
    return {str(path.with_suffix("")) + "." for path in kept}


def _artifact_path(side: Path) -> Path:
    return side.with_name(side.name.removesuffix(".json"))


def _artifacts_of(record: Path) -> list[str]:
    try:
        return list(read_record(record).artifacts.values())
    except (UserError, AttributeError) as error:
        raise UserError(
            f"Nothing was deleted, because the record '{record}' cannot be read and what it uses is not known: {error}"
        ) from error


def _words(value: Any) -> Iterator[str]:
    """Every string inside nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
