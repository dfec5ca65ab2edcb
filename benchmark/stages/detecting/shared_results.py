"""`SharedResults`: what several detectors compute from the same training images, computed once.

`Batch.once` asks for it. Results stay in memory, within a limit, and are stored where they took long
(`stored_results`). They are in no other key: they have the bits that every detector would compute alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from oodbench.benchmark.plugins.inputs import Batch
from oodbench.benchmark.stages.detecting.set_arrays import Parts
from oodbench.benchmark.stages.detecting.stored_results import Stored, StoredResults, tensor_identity

LIMIT, HELD = 2**28, 64
"""Bytes of results that stay in memory, and their number. With 2,048 features and 1,000 classes a covariance has 34 MB,
and the class means have 16 MB."""

SHARED = frozenset({"logits", "features", "labels"})
"""The inputs that are the same for every detector; what is computed from others is not kept."""


class SharedResults:
    """Results of functions of sets of images; beyond the limit, those that were not used for longest are dropped."""

    def __init__(self, limit: int = LIMIT, stored: StoredResults | None = None) -> None:
        self.limit, self.stored = limit, stored
        self.reads_store = True
        """Whether what is stored is used; not by a run that computes everything again."""
        self.saved = 0.0
        """Seconds that it took to compute the results that were found here since this was set to 0."""
        self._held: dict[tuple[Any, ...], _Result] = {}

    def of(self, images: str, size: int, parts: Parts, owner: str) -> Callable[..., Any]:
        """What `Batch.once` of a set calls.

        Args:
            images: Identifies the set with its logits, features and labels.
            size: Number of images.
            parts: The inputs that the detector declares, as functions of rows. A result computed from others is not
                for this detector: reading it raises `UndeclaredInputError`, as if it were computed.
            owner: Name of the detector, for error messages.
        """

        def once(function: Callable[..., Any], *settings: Any) -> Any:
            key = (images, size, function, *map(_identity, settings))
            try:
                hash(key)
            except TypeError:  # a setting such as a list
                return function(Batch(size, parts, owner), *settings)
            held = self._held.pop(key, None)
            place = self.stored.key(images, size, function, settings) if self.stored and held is None else None
            if self.stored and place and self.reads_store and (found := self.stored.find(place)):
                held = _Result(*found, _bytes(found.value))
            if held is None:
                held = _Result.of(function, settings, size, parts, owner)
                if not held.read <= SHARED or held.bytes > self.limit:
                    return held.value
                if self.stored and place:
                    self.stored.keep(place, Stored(held.value, held.read, held.seconds))
            else:
                self.saved += held.seconds
                for name in sorted(held.read - parts.keys()):
                    getattr(Batch(size, parts, owner), name)
            self._held[key] = held  # the last one used is the last one dropped
            self._drop()
            return copy.deepcopy(held.value)

        return once

    def _drop(self) -> None:
        while len(self._held) > HELD or sum(held.bytes for held in self._held.values()) > self.limit:
            self._held.pop(next(iter(self._held)))


class _Result(NamedTuple):
    """What a function returned, the inputs that it read, and how long it took."""

    value: Any
    read: frozenset[str]
    seconds: float
    bytes: int

    @classmethod
    def of(cls, function: Callable[..., Any], settings: Sequence[Any], size: int, parts: Parts, owner: str) -> _Result:
        seen: set[str] = set()
        start = time.perf_counter()
        value = function(Batch(size, _watched(parts, seen), owner), *settings)
        return cls(value, frozenset(seen), time.perf_counter() - start, _bytes(value))


def _watched(parts: Parts, seen: set[str]) -> Parts:
    """The same inputs; the names of those that are read are added to `seen`."""

    def watch(name: str) -> Callable[[slice], Tensor]:
        def read(rows: slice) -> Tensor:
            seen.add(name)
            return parts[name](rows)

        return read

    return {name: watch(name) for name in parts}


def _identity(setting: Any) -> Any:
    """What equal settings have in common: of a tensor its type, shape and SHA-256, of others themselves."""
    return tensor_identity(setting) if isinstance(setting, Tensor) else (type(setting), setting)


def _bytes(value: Any) -> int:
    """Bytes of the arrays of a result, which may be an array, a number, or a sequence of results."""
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    return int(getattr(value, "nbytes", 0))
