"""Examines one artifact of a store, for `bench verify`: its bytes, its side file and its key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.safe_read import is_file
from oodbench.benchmark.store.store import digest, read_side


class Artifact(NamedTuple):
    """The result of examining an artifact."""

    problem: str = ""
    """What is wrong with it; empty for an undamaged artifact."""
    sha256: str = ""
    bytes: int = 0
    digest: str = ""
    """Digest of its key."""
    key: Mapping[str, Any] = {}
    """What it was computed from, as its side file says."""


def examine(path: Path) -> Artifact:
    """Hash an artifact and compare it with its side file."""
    if not is_file(path):
        return Artifact("missing")
    side = read_side(path)
    sha256, size = file_sha256(path), path.stat().st_size
    if not isinstance(side.get("sha256"), str) or not isinstance(side.get("key"), dict):
        return Artifact("damaged: its side file is missing or cannot be read", sha256, size)
    if digest(side["key"]) != side.get("digest") or side["digest"][:12] not in path.name:
        return Artifact("damaged: its side file has another key", sha256, size)
    if sha256 != side["sha256"]:
        return Artifact(f"damaged: its SHA-256 is {sha256[:12]}, expected {side['sha256'][:12]}", sha256, size)
    return Artifact("", sha256, size, side["digest"], side["key"])
