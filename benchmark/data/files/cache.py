"""Caches decoded images, file hashes and results on disk, so that each file is hashed and decoded once.

    cache/data/hashes.json             file -> stamp, hash (recomputed when the stamp differs)
    cache/data/checksums.json          subset of a split -> SHA-256 of its content
    cache/data/statistics.json         SHA-256 of two contents -> results such as the baselines of a pair
    cache/data/NAME-KEY.images.npy     uint8 (N, C, 32, 32), memory-mapped; with .labels.npy and .groups.npy
    cache/data/NAME-KEY.json           source files, reader and checksums; written last

A file's stamp is its inode, size, modification time and change time: programs can set the modification time, but the
system sets the change time whenever content, name or attributes change.
KEY is the SHA-256 of the source files' SHA-256, the reader with all its settings, the classes and the decoder's
version: a file that was moved or renamed is not decoded again, a file that was replaced is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.decode import DECODER_VERSION, NOTHING, Decoded, Reader
from oodbench.benchmark.data.files.listing import by_reason
from oodbench.benchmark.data.files.tree import LeftOut
from oodbench.benchmark.data.pictures.source import stamp_of
from oodbench.benchmark.errors import DataError, StoreError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.safe_read import read_json
from oodbench.benchmark.store.schema import DecodedSide, convert

logger = logging.getLogger(__name__)

MEMORIES = ("hashes.json", "checksums.json", "statistics.json")
"""Files of hashes and results."""

PARTS = ("images", "labels", "groups")
"""The arrays of a decoded split."""

RACY = 2.0
"""Seconds. A file changed more recently could change again with the same stamp, so its hash is not stored."""


class DecodedSplit(NamedTuple):
    """A decoded split without the images that could not be used."""

    images: ImageSet
    bad: tuple[str, ...]
    """Name and reason for every image that was left out."""
    modes: Mapping[str, int]
    """How the images were stored: Pillow's mode -> count."""
    left_out: tuple[LeftOut, ...] = ()
    """The images that were left out in any case, which none of `bad` is."""
    remarks: Mapping[str, int] = NOTHING
    """What was done with some images, as a clause -> their count."""


class DataCache:
    """The cache folder. Without a folder (`root` is None), everything is computed each time.

    With `hash_again`, every file is hashed once by this object, whatever hash is stored.
    """

    def __init__(self, root: Path | None, hash_again: bool = False) -> None:
        self.root, self.hash_again = root, hash_again
        self._hashed_again: set[tuple[str, str]] = set()
        """Names and stamps of the files that were."""
        self._memo: dict[str, dict[str, Any]] = {}
        self.just_read: dict[Path, Callable[[], Mapping[str, str]]] = {}
        """Of folders that were read just now: a function that returns the SHA-256 of some of their files, by path in
        the folder, so that these are not read again to be hashed."""

    def hash(self, path: Path, algorithm: str = "sha256") -> str:
        """Hash of a file's bytes or, for a folder, of its files' relative names and hashes, as hexadecimal digits."""
        stamp, newest = _stamp(path)

        def compute() -> str:
            if not path.is_dir():
                return file_hash(path, algorithm)
            known = self.just_read.pop(path, None)
            return _folder_hash(path, algorithm, known() if known and algorithm == "sha256" else {})

        return self.stamped(f"{algorithm} {path.absolute()}", stamp, newest, compute)

    def hash_in(self, path: Path, part: str, compute: Callable[[], str]) -> str:
        """The hash of a part of a file, which `part` determines, as long as the file stays as it is."""
        return self.stamped(f"{part} of {path.absolute()}", *_stamp(path), compute)

    def stamped(self, name: str, stamp: str, newest: float, compute: Callable[[], str]) -> str:
        """The hash stored under a name with a stamp, which changes when the content does; computed if there is none.

        `newest` is the time of the latest change, in seconds; a hash of what changed just now is not stored.
        """
        known = self._read("hashes.json").get(name)
        if self.hash_again and (name, stamp) not in self._hashed_again:
            known = None
        if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("hash"), str):
            return str(known["hash"])
        digest = compute()
        self._hashed_again.add((name, stamp))
        if time.time() - newest > RACY:
            self._remember("hashes.json", name, {"stamp": stamp, "hash": digest})
        return digest

    def checksum(self, name: str, compute: Callable[[], str]) -> str:
        """The checksum stored under a name that determines the content; computed and stored if it is missing."""
        known = self._read("checksums.json").get(name)
        if isinstance(known, str):
            return known
        computed = compute()
        self._remember("checksums.json", name, computed)
        return computed

    def result(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON object stored under a name that determines it; computed and stored if it is missing."""
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
        """The split that `reader` decodes from `sources` (name -> SHA-256); `read` is called if it is not cached."""
        identity = {"files": list(sources.values()), "reader": repr(reader), "decoder": DECODER_VERSION}
        key = hashlib.sha256(json.dumps({**identity, "classes": classes}, sort_keys=True).encode()).hexdigest()
        if self.root is None:
            return _decoded_split(label, read(), classes)
        stem = self.root / f"{slug(label)}-{key[:12]}"
        entry = self._load(stem, key, classes)
        if entry is None:
            with Locks(self.root).hold(stem.name, f"is decoding '{label}'"):
                entry = self._load(stem, key, classes)
                if entry is None:
                    if _side(stem).is_file():
                        logger.warning(f"'{stem}' is damaged: its source is decoded again.")
                    entry = _decoded_split(label, read(), classes)
                    self._save(stem, key, {**identity, "names": list(sources)}, entry)
                    entry = _load(stem, key, classes) or entry
        return entry

    def _load(self, stem: Path, key: str, classes: tuple[str, ...]) -> DecodedSplit | None:
        """A decoded split whose files match their checksums; they are hashed again only if they were modified."""
        entry, side = _load(stem, key, classes), _read_side(_side(stem))
        if entry is None or side is None:
            return None
        intact = all(part in PARTS and self.hash(_part(stem, part)) == sha for part, sha in side["sha256"].items())
        return entry if intact else None

    def _save(self, stem: Path, key: str, identity: Mapping[str, Any], entry: DecodedSplit) -> None:
        side: dict[str, Any] = {"key": key, "made_from": identity, "bad": entry.bad, "modes": dict(entry.modes)}
        if entry.left_out or entry.remarks:
            side.update({"left_out": entry.left_out, "remarks": dict(entry.remarks)})
        side.update({"images": len(entry.images), "checksum": entry.images.checksum, "sha256": {}})
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            _side(stem).unlink(missing_ok=True)
            for part in PARTS:
                array = getattr(entry.images, part)
                if array is not None:
                    path = _part(stem, part)
                    side["sha256"][part] = sha256 = _write_array(path, array)
                    stamped = {"stamp": _stamp(path)[0], "hash": sha256}
                    self._remember("hashes.json", f"sha256 {path.absolute()}", stamped)
            write_atomically(_side(stem), to_json(side))
        except OSError as error:
            raise StoreError(f"Cannot write '{stem}': {error.strerror or error}. Choose another --results.") from error

    def entries(self) -> list[tuple[Path, DecodedSide]]:
        """Every decoded split in the folder: the common stem of its files, and the content of its side file."""
        sides = sorted(self.root.glob("*-*.json")) if self.root is not None and self.root.is_dir() else []
        found = ((path.with_suffix(""), _read_side(path)) for path in sides)
        return [(stem, side) for stem, side in found if side is not None]

    def damaged(self, stem: Path, side: DecodedSide) -> list[Path]:
        """The array files of a decoded split that are missing or do not match their checksums."""
        stored = [(_part(stem, part), side["sha256"][part]) for part in PARTS if part in side["sha256"]]
        return [path for path, sha in stored if not path.is_file() or file_hash(path) != sha]

    def drop(self, stem: Path) -> None:
        """Remove a decoded split, so that it is decoded again when it is next loaded."""
        for path in (_side(stem), *(_part(stem, part) for part in PARTS)):
            path.unlink(missing_ok=True)

    def forget(self, path: Path) -> None:
        """Drop a file's stored hashes, so that it is hashed again."""
        for algorithm in ("sha256", "md5"):
            self._remember("hashes.json", f"{algorithm} {path.absolute()}", None)

    def tidy(self) -> None:
        """Remove temporary files of killed processes; those of a decoded split go when it is decoded again."""
        if self.root is None:
            return
        for name in MEMORIES:
            if left := list(self.root.glob(f".{name}.*{atomic.SUFFIX}")):
                with suppress(OSError, StoreError), Locks(self.root).hold(name):  # so that none is in use
                    for path in left:
                        path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._memo:
            self._memo[name] = _json(self.root / name) if self.root is not None else {}
        return self._memo[name]

    def _remember(self, name: str, key: str, value: Any) -> None:
        self._memo[name] = {**self._read(name), key: value}
        if self.root is not None:
            # A value that cannot be stored only has to be computed again.
            with suppress(OSError, StoreError), Locks(self.root).hold(name):
                self._memo[name] = {**_json(self.root / name), key: value}  # with what other processes added
                write_atomically(self.root / name, json.dumps(self._memo[name], indent=1, sort_keys=True) + "\n")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's bytes as hexadecimal digits. Raises `DataError` if it is not a regular file or not readable."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    if path.exists() and not path.is_file():
        raise DataError(f"'{path}' is not a regular file; expected a file of images. Remove it.")
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _decoded_split(label: str, decoded: Decoded, classes: tuple[str, ...]) -> DecodedSplit:
    """Remove the images that could not be used. Raises `DataError` if none is left."""
    bad = tuple(decoded.bad[row] for row in sorted(decoded.bad))
    left_out = tuple(decoded.left_out[row] for row in sorted(decoded.left_out))
    unused = sorted({*decoded.bad, *decoded.left_out})
    if len(unused) == len(decoded.images):
        why = f" The first: {bad[0] if bad else 'there is none'}." if bad or not left_out else ""
        why += f" Not used: {by_reason(left_out)}." if left_out else ""
        raise DataError(f"None of the {len(unused):,} images of '{label}' can be used.{why}")
    keep = np.delete(np.arange(len(decoded.images)), unused) if unused else slice(None)
    labels, groups = (None if a is None else a[keep] for a in (decoded.labels, decoded.groups))
    images = ImageSet(decoded.images[keep], labels, classes, groups)
    return DecodedSplit(images, bad, decoded.modes, left_out, decoded.remarks)


def _load(stem: Path, key: str, classes: tuple[str, ...]) -> DecodedSplit | None:
    """A decoded split whose files exist and have the right sizes, images memory-mapped; None otherwise."""
    side = _read_side(_side(stem))
    if side is None or side["key"] != key:
        return None
    try:
        # Copy-on-write, because torch does not accept read-only arrays; changes never reach the file.
        images = load_array(_part(stem, "images"), "c")
        labels, groups = (
            np.array(load_array(_part(stem, part))) if part in side["sha256"] else None for part in PARTS[1:]
        )
        decoded = ImageSet(images, labels, classes, groups)
    except (OSError, ValueError, DataError):
        return None
    if len(decoded) != side["images"]:
        return None
    left_out = tuple(LeftOut(*names) for names in side.get("left_out", ()))
    images_of = decoded.with_checksum(side["checksum"])
    return DecodedSplit(images_of, tuple(side["bad"]), side["modes"], left_out, side.get("remarks", NOTHING))


def _stamp(path: Path) -> tuple[str, float]:
    """A string that changes when a file or folder does, without reading contents, and the time of the latest change."""
    try:
        stats = [(".", path.stat())] if path.is_file() else [(str(p), p.stat()) for p in _files(path)]
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}.") from error
    newest = max((max(stat.st_mtime, stat.st_ctime) for _, stat in stats), default=0.0)
    if path.is_file():
        return stamp_of(stats[0][1]), newest
    text = "\n".join(f"{name} {stamp_of(stat)}" for name, stat in stats)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest(), newest


def _files(folder: Path) -> Sequence[Path]:
    """Its files, also those that links within it lead to, without those of the system: a viewer may make these."""
    return sorted(folder / member.name for member in open_tree(folder, own=True).members)


def _folder_hash(folder: Path, algorithm: str, known: Mapping[str, str]) -> str:
    names = ((path, path.relative_to(folder).as_posix()) for path in _files(folder))
    lines = [f"{name} {known.get(name) or file_hash(path, algorithm)}\n" for path, name in names]
    text = "".join(lines).encode(errors="surrogateescape")  # file names need not be valid UTF-8
    return hashlib.new(algorithm, text, usedforsecurity=False).hexdigest()


def _side(stem: Path) -> Path:
    return stem.with_name(stem.name + ".json")


def _part(stem: Path, part: str) -> Path:
    return stem.with_name(f"{stem.name}.{part}.npy")


def _write_array(path: Path, array: np.ndarray) -> str:
    """Write an array atomically and return the SHA-256 of its file."""
    with atomic.temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        atomic.flush(temporary)
        sha256 = file_hash(temporary)
        atomic.rename(temporary, path)
    return sha256


def _read_side(path: Path) -> DecodedSide | None:
    """The side file of a decoded split; None if it is absent or damaged."""
    try:
        return convert(read_json(path), DecodedSide)
    except (OSError, ValueError):
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
