"""Unpacks a bundle into a results folder of its own, which `read_run`, tables, plots and comparisons accept.

    DIR/runs/NAME/    run.json, cells/*.json, best.json and bundle.json
    DIR/cache/        scores with their side files, and weights if the bundle has them

Only members that `bundle.json` lists with their SHA-256 are read, and only files with names of a fixed form written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.safe_read import parse_json
from oodbench.benchmark.store.store import digest, side_path
from oodbench.benchmark.verify.bundles.container import (
    BEST,
    CLASSIFIED,
    GROUPS,
    KEYS,
    LIMITS,
    MANIFEST,
    RECORDS,
    RUN,
    SCORES,
    WEIGHTS,
    Container,
    Limits,
)
from oodbench.benchmark.verify.bundles.contents import Contents, read_contents
from oodbench.benchmark.verify.bundles.images import SummarisedImages, read_npy

ARTIFACT = re.compile(r"(scores|checkpoint)/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""The path of an artifact in a store, of the kinds that bundles have."""

CELL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,239}\.json")
"""The name of a record's file."""

OF_KIND = {"scores": SCORES, "checkpoint": WEIGHTS}


@dataclass(frozen=True)
class Unpacked:
    """A bundle in a folder."""

    results: Path
    run_dir: Path
    contents: Contents
    sha256: str
    """Of `bundle.json`, which lists the SHA-256 of everything else: the same for equal bundles."""
    keys: Mapping[str, Mapping[str, Any]]
    """Path of an artifact behind the cells -> its key; of most, the bundle does not have the artifact itself."""
    hashes: Mapping[str, str]
    """Path of such an artifact -> its SHA-256."""
    groups: Mapping[str, NDArray[Any]]
    """Member -> the groups of images in it."""
    classified: Mapping[str, SummarisedImages]
    """Member -> how a classifier did."""

    @property
    def cache(self) -> Path:
        """The store with the scores."""
        return self.results / "cache"


def unpack(file: Path, folder: Path, limits: Limits = LIMITS) -> Unpacked:
    """Unpack a bundle into a folder, which is made.

    Raises `UserError`, one sentence, if the file is not a bundle, is damaged, or unpacks to more than the limits.
    """
    if not file.is_file():
        raise UserError(f"There is no file '{file}'. 'bench bundle RUN -o FILE' writes one.")
    with Container(file, limits) as container:
        contents, sha256 = read_contents(container)
        return _Unpacking(container, contents, folder).done(sha256)


class _Unpacking:
    """The unpacking of one file."""

    def __init__(self, container: Container, contents: Contents, folder: Path) -> None:
        self.container, self.contents, self.folder = container, contents, folder
        self.run_dir = folder / "runs" / unique_slug(contents.name)

    def done(self, sha256: str) -> Unpacked:
        (self.run_dir / "cells").mkdir(parents=True)
        for name in (RUN, BEST):
            if name in self.contents.members:
                (self.run_dir / name).write_bytes(self.read(name))
        (self.run_dir / MANIFEST).write_bytes(self.container.read(MANIFEST))
        for name, record in self.documents(RECORDS):
            if not CELL.fullmatch(name):
                raise self.container.refused(f"'{name[:80]}' is no name of a record's file")
            (self.run_dir / "cells" / name).write_text(json.dumps(record), encoding="utf-8", errors="backslashreplace")
        keys, hashes = {}, {}
        for path, one in self.documents(KEYS):
            keys[path], hashes[path] = self.key(path, one)
        self.artifacts(keys, hashes)
        arrays = {
            name: self.array(name) for name in self.contents.members if name.startswith((f"{GROUPS}/", CLASSIFIED))
        }
        return Unpacked(
            self.folder,
            self.run_dir,
            self.contents,
            sha256,
            keys,
            hashes,
            {name: array for name, array in arrays.items() if name.startswith(GROUPS)},
            {name: self.summary(name, array) for name, array in arrays.items() if name.startswith(CLASSIFIED)},
        )

    def read(self, name: str) -> bytes:
        return self.container.read(name, self.contents.members[name])

    def documents(self, folder: str) -> Iterator[tuple[str, Any]]:
        """The documents in numbered members, by name."""
        found: set[str] = set()
        for name in sorted(member for member in self.contents.members if member.startswith(f"{folder}/")):
            try:
                documents = parse_json(self.read(name))
            except ValueError as error:
                raise self.container.refused(f"'{name}' cannot be read as JSON ({error})") from error
            if not isinstance(documents, dict):
                raise self.container.refused(f"'{name}' is not a JSON object")
            if twice := found & {*documents}:
                raise self.container.refused(f"it has '{min(twice)[:80]}' twice")
            found |= {*documents}
            yield from documents.items()

    def key(self, path: str, known: Any) -> tuple[Mapping[str, Any], str]:
        """The key of an artifact and its SHA-256."""
        if (
            not isinstance(known, dict)
            or not isinstance(known.get("key"), dict)
            or not isinstance(known.get("sha256"), str)
        ):
            raise self.container.refused(f"the key of '{path[:80]}' is damaged")
        if digest(known["key"])[:12] not in path:
            raise self.container.refused(f"the key of '{path[:80]}' is that of another artifact")
        return known["key"], known["sha256"]

    def artifacts(self, keys: Mapping[str, Mapping[str, Any]], hashes: Mapping[str, str]) -> None:
        """Write the artifacts into the store, with side files."""
        for path, name in self.contents.artifacts.items():
            kind = path.partition("/")[0]
            if not ARTIFACT.fullmatch(path) or not name.startswith(f"{OF_KIND[kind]}/"):
                raise self.container.refused(f"'{path[:80]}' is no path of scores or weights")
            if path not in keys:
                raise self.container.refused(f"it has no key for '{path}'")
            target = self.folder / "cache" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.container.copy(name, self.contents.members[name], target)
            side = {"key": keys[path], "digest": digest(keys[path]), "sha256": hashes[path], "about": {}}
            side_path(target).write_text(json.dumps(side), encoding="utf-8")

    def array(self, name: str) -> NDArray[Any]:
        try:
            return read_npy(self.read(name))
        except ValueError as error:
            raise self.container.refused(f"'{name}': {error}") from error

    def summary(self, name: str, array: NDArray[np.generic]) -> SummarisedImages:
        try:
            return SummarisedImages.of_array(array)
        except ValueError as error:
            raise self.container.refused(f"'{name}': {error}") from error
