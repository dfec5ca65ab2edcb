"""Declares a record's provenance, which `runner.provenance` collects, and checks one that was read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from oodbench.benchmark.store.safe_read import escapes_root
from oodbench.benchmark.store.schema import Count, Number, convert


class Commit(TypedDict):
    """A commit of this project's repository."""

    id: str
    dirty: bool


class Made(TypedDict, total=False):
    """When, by which software and on which machine the numbers were computed; the fields that are read."""

    written: str
    version: str
    commit: Commit | None


class UsedImagesNames(TypedDict):
    """Fields that every used set has."""

    use: str
    set: str
    part: str
    images: Count
    sha256: str


class UsedImages(UsedImagesNames, total=False):
    """A set that was used in training, fitting, tuning or scoring."""

    limit: Count
    groups: str


class UsedArtifactNames(TypedDict):
    """Fields that every artifact has."""

    kind: str
    path: str
    key: str
    sha256: str


class UsedArtifact(UsedArtifactNames, total=False):
    """A file that the scores depend on, and how it was computed."""

    seconds: Number
    written: str
    version: str
    device: str
    threads: Count
    block: Count
    peak_memory: Count
    peak_device_memory: Count | None
    commit: Commit | None
    chosen: Mapping[str, Any]
    """Of a fit: the settings that a rule chose, by name."""
    attempt: Count
    """Of a checkpoint: which attempt of its training it is of, if earlier ones diverged; from 2."""
    diverged: Sequence[str]
    """Why the earlier ones did, as clauses."""


class ResolvedPlugin(TypedDict):
    """A plug-in with all its settings."""

    name: str
    settings: Mapping[str, Any]
    version: str


class Resolved(TypedDict, total=False):
    """What was computed, besides data; stages have their version."""

    detector: ResolvedPlugin
    recipe: ResolvedPlugin
    backbone: ResolvedPlugin
    schedule: Mapping[str, Any]


class CellKey(TypedDict, total=False):
    """The content of a cell's key, as far as it is read."""

    intervals: str
    extended: list[str] | None
    stability: list[str] | None


class Provenance(TypedDict, total=False):
    """The inputs of a cell."""

    made: Made
    needs: list[str]
    data: list[UsedImages]
    resolved: Resolved
    artifacts: list[UsedArtifact]
    key: CellKey


def check_provenance(value: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a provenance has not these fields and types, or names a path outside the store."""
    found = convert(value, Provenance)
    for artifact in found.get("artifacts", ()):
        if escapes_root(artifact["path"]):
            raise ValueError(f"'{artifact['path']}' is outside the cache")
