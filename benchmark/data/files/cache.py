"""Decoded pixels on disk, so that a file is decoded once; and the hashes of files, so that they are hashed once.

    cache/data/hashes.json             file -> size, time of change, hash (computed anew when those differ)
    cache/data/checksums.json          what was cut out of a split -> its content's SHA-256
    cache/data/statistics.json         two contents' SHA-256 -> the pixel statistic that tells them apart
    cache/data/NAME-KEY.images.npy     uint8 (N, 3, 32, 32), memory-mapped; beside it .labels.npy, .groups.npy
    cache/data/NAME-KEY.json           what it was made from and its checksums; written last

KEY is the SHA-256 of the source files' SHA-256, the reader with all its settings, and the decoder's version: a file
that was moved or renamed is not decoded again, and one that was exchanged is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark.data.files.decode import DECODER_VERSION, Decoded, Reader
from oodbench.benchmark.errors import DataError, StoreError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.safe_read import read_json, type_error
from oodbench.benchmark.store.schema import DecodedSide

logger = logging.getLogger(__name__)

MEMORIES = ("hashes.json", "checksums.json", "statistics.json")
"""What is remembered of files and contents."""

PARTS = ("images", "labels", "groups")
"""The arrays of a decoded split."""

RACY = 2.0
"""Seconds: a file younger than that may change again within one tick of its clock, so its hash is not kept."""


class DecodedSplit(NamedTuple):
    """A decoded split: its images without the bad ones, and what is known of them."""

    images: ImageSet
    bad: tuple[str, ...]
    """Name and reason of every image that was left out."""
    modes: Mapping[str, int]


class DataCache:
    """The folder of decoded pixels; with no folder, everything is computed each time."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._memo: dict[str, dict[str, Any]] = {}

    def hash(self, path: Path, algorithm: str = "sha256") -> str:
        """Of a file's bytes; of a folder, over the relative names and hashes of its files."""
        stamp, newest = _stamp(path)
        name = f"{algorithm} {path.absolute()}"
        known = self._read("hashes.json").get(name)
        if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("hash"), str):
            return str(known["hash"])
        found = _folder_hash(path, algorithm) if path.is_dir() else file_hash(path, algorithm)
        if time.time() - newest > RACY:
            self._remember("hashes.json", name, {"stamp": stamp, "hash": found})
        return found

    def checksum(self, name: str, compute: Callable[[], str]) -> str:
        """A content's checksum by a name that determines the content; computed where it is not known yet."""
        known = self._read("checksums.json").get(name)
        if isinstance(known, str):
            return known
        found = compute()
        self._remember("checksums.json", name, found)
        return found

    def result(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was computed, as JSON, from contents that `name` determines; computed where it is not known yet."""
        known = self._read("statistics.json").get(name)
        if not isinstance(known, dict):
            known = compute()
            self._remember("statistics.json", name, known)
        return dict(known)

    def find(
        self,
        label: str,
        sources: Mapping[str, str],
        reader: Reader,
        classes: tuple[str, ...],
        read: Callable[[], Decoded],
    ) -> DecodedSplit:
        """The split that `reader` makes of files with these SHA-256 (by name), decoded now if it is not there."""
        identity = {"files": list(sources.values()), "reader": repr(reader), "decoder": DECODER_VERSION}
        key = hashlib.sha256(json.dumps({**identity, "classes": classes}, sort_keys=True).encode()).hexdigest()
        if self.root is None:
            return _decoded_split(read(), classes)
        stem = self.root / f"{slug(label)}-{key[:12]}"
        entry = self._load(stem, key, classes)
        if entry is None:
            with Locks(self.root).hold(stem.name, f"is decoding '{label}'"):
                entry = self._load(stem, key, classes)
                if entry is None:
                    if _side(stem).is_file():
                        logger.warning(f"'{stem}' is not what was written: its source is decoded again.")
                    entry = _decoded_split(read(), classes)
                    self._save(stem, key, {**identity, "names": list(sources)}, entry)
                    entry = _load(stem, key, classes) or entry
        return entry

    def _load(self, stem: Path, key: str, classes: tuple[str, ...]) -> DecodedSplit | None:
        """A decoded split whose files are what was written; they are read only where they have changed since."""
        entry = _load(stem, key, classes)
        if entry is None:
            return None
        written = _json(_side(stem))["sha256"]
        whole = all(part in PARTS and self.hash(_part(stem, part)) == sha for part, sha in written.items())
        return entry if whole else None

    def _save(self, stem: Path, key: str, identity: Mapping[str, Any], entry: DecodedSplit) -> None:
        side: dict[str, Any] = {"key": key, "made_from": identity, "bad": entry.bad, "modes": dict(entry.modes)}
        side.update({"images": len(entry.images), "checksum": entry.images.checksum, "sha256": {}})
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            _side(stem).unlink(missing_ok=True)
            for part in PARTS:
                array = getattr(entry.images, part)
                if array is not None:
                    path = _part(stem, part)
                    side["sha256"][part] = found = _write_array(path, array)
                    self._remember(
                        "hashes.json", f"sha256 {path.absolute()}", {"stamp": _stamp(path)[0], "hash": found}
                    )
            write_atomically(_side(stem), to_json(side))
        except OSError as error:
            raise StoreError(f"Cannot write '{stem}': {error.strerror or error}. Choose another --results.") from error

    def entries(self) -> list[tuple[Path, dict[str, Any]]]:
        """Every decoded split in the folder: its files' common beginning and its side file."""
        sides = sorted(self.root.glob("*-*.json")) if self.root is not None and self.root.is_dir() else []
        found = ((side, _json(side)) for side in sides)
        return [(side.with_suffix(""), content) for side, content in found if not type_error(content, DecodedSide)]

    def damaged(self, stem: Path, side: Mapping[str, Any]) -> list[Path]:
        """The arrays of a decoded split that are not what was written."""
        known = [(_part(stem, part), side["sha256"][part]) for part in PARTS if part in side["sha256"]]
        return [path for path, sha in known if not path.is_file() or file_hash(path) != sha]

    def drop(self, stem: Path) -> None:
        """Remove a decoded split; it is decoded again when wanted."""
        for path in (_side(stem), *(_part(stem, part) for part in PARTS)):
            path.unlink(missing_ok=True)

    def forget(self, path: Path) -> None:
        """Hash a file anew when next asked."""
        for algorithm in ("sha256", "md5"):
            self._remember("hashes.json", f"{algorithm} {path.absolute()}", None)

    def tidy(self) -> None:
        """Remove what processes that were killed left beside the memories; who decodes a split again tidies there."""
        if self.root is None:
            return
        for name in MEMORIES:
            if left := list(self.root.glob(f".{name}.*{atomic.SUFFIX}")):
                with suppress(OSError, StoreError), Locks(self.root).hold(name):  # nobody is writing one now
                    for path in left:
                        path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._memo:
            self._memo[name] = _json(self.root / name) if self.root is not None else {}
        return self._memo[name]

    def _remember(self, name: str, key: str, value: Any) -> None:
        self._memo[name] = {**self._read(name), key: value}
        if self.root is not None:
            # A memory that cannot be kept costs time, nothing else.
            with suppress(OSError, StoreError), Locks(self.root).hold(name):
                self._memo[name] = {**_json(self.root / name), key: value}  # what another process added since
                write_atomically(self.root / name, json.dumps(self._memo[name], indent=1, sort_keys=True) + "\n")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """A file's hash as hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    if path.exists() and not path.is_file():
        raise DataError(f"'{path}' is no plain file, expected one of images. Remove it.")
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _decoded_split(decoded: Decoded, classes: tuple[str, ...]) -> DecodedSplit:
    """Leave the bad images out."""
    bad = tuple(decoded.bad[row] for row in sorted(decoded.bad))
    if len(bad) == len(decoded.images):
        raise DataError(f"not one of {len(bad):,} images can be used; the first: {bad[0] if bad else 'there is none'}.")
    keep = np.delete(np.arange(len(decoded.images)), sorted(decoded.bad)) if bad else slice(None)
    labels, groups = (None if a is None else a[keep] for a in (decoded.labels, decoded.groups))
    return DecodedSplit(ImageSet(decoded.images[keep], labels, classes, groups), bad, decoded.modes)


def _load(stem: Path, key: str, classes: tuple[str, ...]) -> DecodedSplit | None:
    """A decoded split that is there and whole by its sizes; memory-mapped, so that only what is used is read."""
    side = _json(_side(stem))
    if side.get("key") != key or type_error(side, DecodedSide):
        return None
    try:
        # Copy-on-write: torch takes no read-only array, and what is written never reaches the file.
        images = load_array(_part(stem, "images"), "c")
        labels, groups = (
            np.array(load_array(_part(stem, part))) if part in side["sha256"] else None for part in PARTS[1:]
        )
        found = ImageSet(images, labels, classes, groups)
    except (OSError, ValueError, DataError):
        return None
    if len(found) != side["images"]:
        return None
    return DecodedSplit(found.with_checksum(side["checksum"]), tuple(side["bad"]), side["modes"])


def _stamp(path: Path) -> tuple[str, float]:
    """What changes when a file or folder does, without reading it; and the time of the latest change."""
    try:
        stats = [(".", path.stat())] if path.is_file() else [(str(p), p.stat()) for p in _files(path)]
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from error
    text = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    newest = max((stat.st_mtime for _, stat in stats), default=0.0)
    if path.is_file():
        return f"{stats[0][1].st_size} {stats[0][1].st_mtime_ns}", newest
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest(), newest


def _files(folder: Path) -> Sequence[Path]:
    return sorted(Path(top) / name for top, _, names in os.walk(folder) for name in names)


def _folder_hash(folder: Path, algorithm: str) -> str:
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path, algorithm)}\n" for path in _files(folder)]
    text = "".join(lines).encode(errors="surrogateescape")  # names that are no valid text are bytes all the same
    return hashlib.new(algorithm, text, usedforsecurity=False).hexdigest()


def _side(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


def _part(stem: Path, part: str) -> Path:
    return stem.with_name(f"{stem.name}.{part}.npy")


def _write_array(path: Path, array: np.ndarray) -> str:
    """Write an array as a whole file; return the file's SHA-256."""
    with atomic.temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        atomic.flush(temporary)
        found = file_hash(temporary)
        atomic.rename(temporary, path)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
