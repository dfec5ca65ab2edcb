"""Compares the arrays that a user gave for a run with those in the files now, for `bench verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.outputs.data_sets import GivenDataset
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.outputs.digests import array_sha256
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.store.store import read_side


class GivenFiles:
    """Checks the arrays behind artifacts that were copied from a user's files; each is hashed once.

    Args:
        cache: The store with the artifacts.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._found: dict[str, str] = {}

    def problems(self, paths: Iterable[str]) -> Iterator[str]:
        """What is wrong with the files behind some artifacts, a clause for each; nothing where they are not there."""
        for path in paths:
            if path not in self._found:
                side = read_side(self.cache / path)
                key, given = side.get("key"), side.get("about", {}).get("given")
                self._found[path] = ""
                if isinstance(key, Mapping) and isinstance(given, Mapping):
                    self._found[path] = _problem(key, given)
            if self._found[path]:
                yield self._found[path]


def _problem(key: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    entry = registry.entries("dataset").get(str(given.get("set")))
    if entry is None or "array" not in key:
        return ""
    dataset = entry.load()()
    what = f"{given.get('what')} of '{plain_name(str(given.get('set')))}' ({given.get('split')})"
    try:
        found = _array(dataset, key, given)
        sha256 = "" if found is None else array_sha256(found)
    except (OodbenchError, OSError, KeyError, TypeError, ValueError):
        found, sha256 = None, ""
    if sha256 == key["array"]:
        return ""
    now = f"its SHA-256 is {sha256[:12]}, expected {str(key['array'])[:12]}" if sha256 else "it is not there any more"
    return f"{what}: the user's file has changed since the run: {now}"


def _array(dataset: GivenDataset, key: Mapping[str, Any], given: Mapping[str, Any]) -> np.ndarray | None:
    """The array in the user's files that an artifact was copied from."""
    arrays = dataset.arrays(str(given["split"]), int(given["place"]))
    if "method" in key:
        return arrays.scores[str(key["method"])][int(given["seed"])]
    found: np.ndarray | None = getattr(arrays, str(given["what"]))
    return found
