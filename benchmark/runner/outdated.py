"""Finds the artifacts of a store that no current version of the code can reach: other versions are in their keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from oodbench.benchmark.runner.code_versions import CURRENT, has_changed, plugins_in
from oodbench.benchmark.runner.older_versions import Changes
from oodbench.benchmark.store.lineage import artifact_path, side_files, strings

_has_changed = cache(has_changed)


def outdated_artifacts(store: Path) -> dict[str, Changes]:
    """The artifacts of a store, by path relative to it, that other versions of the code made, and what has changed.

    An artifact is outdated if its key, or that of an artifact that it was made from, has the version of a stage or
    plug-in that is not the current one. A plug-in that is unknown to this process, such as one of a `--plugin` file,
    says nothing.
    """
    sides = {artifact_path(path).relative_to(store).as_posix(): side for path, side in side_files(store).items()}
    keys = {side["digest"]: side["key"] for side in sides.values() if isinstance(side.get("key"), Mapping)}
    known: dict[str, Changes] = {}

    def changes(digest: str) -> Changes:
        if digest not in known:
            known[digest] = Changes()  # keys that lead to themselves are forged
            others = [changes(text) for text in strings(keys[digest]) if text in keys]
            known[digest] = _own_changes(keys[digest]).joined(others)
        return known[digest]

    found = {path: changes(side["digest"]) for path, side in sides.items() if side.get("digest") in keys}
    return {path: changed for path, changed in found.items() if changed != Changes()}


def _own_changes(key: Mapping[str, Any]) -> Changes:
    """What has changed since a key was made, apart from the artifacts that it names."""
    versions = {f"{name} {key[name]} -> {now}" for name, now in CURRENT.items() if name in key and key[name] != now}
    plugins = {name for kind, name, version in plugins_in(key) if _has_changed(kind, name, version)}
    return Changes(frozenset(versions), frozenset(plugins))
