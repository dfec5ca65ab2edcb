"""Finds the artifacts that others were computed from, by the keys in a store's side files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oodbench.benchmark.store.store import read_side_file


def side_files(cache: Path) -> dict[Path, dict[str, Any]]:
    """The content of every JSON file in a store, by path: side files, and by-products, which have no key."""
    return {path: read_side_file(path) for path in cache.rglob("*.json")} if cache.is_dir() else {}


def upstream_artifacts(cache: Path, sides: Mapping[Path, Mapping[str, Any]], roots: Iterable[str]) -> set[str]:
    """All artifacts that those at `roots` depend on, including these.

    `roots` and the result are paths relative to the store; `sides` are its side files. An artifact depends on those
    whose digests appear in its key.
    """
    paths = _by_path(cache, sides)
    by_digest = paths_by_digest(cache, sides)
    todo = [paths[path]["digest"] for path in roots if "digest" in paths.get(path, {})]
    used: set[str] = set()
    while todo:
        if (one := todo.pop()) in by_digest and by_digest[one] not in used:
            used.add(by_digest[one])
            todo.extend(strings(paths[by_digest[one]].get("key")))
    return used


def paths_by_digest(cache: Path, sides: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    """The path of every artifact in a store, relative to it, by the digest of its key. `sides`: its side files."""
    return {side["digest"]: path for path, side in _by_path(cache, sides).items() if "digest" in side}


def _by_path(cache: Path, sides: Mapping[Path, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Side files by the path of their artifact, relative to the store."""
    return {artifact_path(path).relative_to(cache).as_posix(): side for path, side in sides.items()}


def artifact_path(side: Path) -> Path:
    """The path of the artifact that a side file describes."""
    return side.with_name(side.name.removesuffix(".json"))


def strings(value: Any) -> Iterator[str]:
    """Every string inside nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
