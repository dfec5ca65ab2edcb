"""The given arrays behind a part of a set, with what identifies them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.checks import check_outputs
from oodbench.benchmark.data.outputs.data_sets import GivenDataset, GivenSets
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.data.outputs.head import head_of
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.outputs.digests import array_sha256, combined_sha256
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set

HEAD_CHECKS, VALUE_CHECKS = "2", "1"
"""Versions of what `head_of` and `check_outputs` do, part of the names of what they found."""

LOGITS, FEATURES = OUTPUT_KINDS = ("logits", "features")


class ArraysOfParts:
    """Finds and identifies the arrays of one run.

    Args:
        sets: The given sets.
        seeds: The run's seeds; of several folders, one for each.
        library: Loads parts of sets, and keeps hashes of files.
    """

    def __init__(self, sets: GivenSets, seeds: tuple[int, ...], library: Library) -> None:
        self.sets, self.seeds, self.library = sets, seeds, library
        self._digests: dict[int, str] = {}

    def place(self, seed: int) -> int:
        """Which folder of outputs serves a seed."""
        return self.seeds.index(seed) if len(self.sets.of_seeds) > 1 else 0

    def of(self, data: SetRef, place: int = 0) -> GivenArrays:
        """The whole arrays that a part of a set is in."""
        return dataset_of(data.set).arrays(self.images(data).split, place)

    def images(self, data: SetRef) -> GivenImages:
        """The images of a part of a set."""
        lazy = self.library.part(parse_set(data.set), data.part, data.limit).lazy
        assert isinstance(lazy, GivenImages)
        return lazy

    def content(self, data: SetRef, array: np.ndarray, **more: Any) -> dict[str, Any]:
        """What identifies the rows of an array that a part of a set has, for a key."""
        rows = self.images(data).rows
        selected = {} if rows is None else {"rows": array_sha256(np.asarray(rows, dtype="<i8"))}
        return {"array": self.sha256(array), **selected, "data": data.checksum, **more}

    def labels(self, data: SetRef) -> dict[str, str]:
        """What identifies the labels of a part, for a key; empty without labels."""
        labels = self.library.part(parse_set(data.set), data.part, data.limit).labels
        return {} if labels is None else {"labels": array_sha256(labels.astype("<i8"))}

    def sha256(self, array: np.ndarray) -> str:
        """The hash of an array."""
        if id(array) not in self._digests:  # the given sets keep it alive
            self._digests[id(array)] = array_sha256(array, self.library.files.cache)
        return self._digests[id(array)]

    def of_folder(self, place: int) -> list[str]:
        """The hashes of all logits, features and of the head of one network, in this order."""
        given = self.sets.of_seeds[place]
        found = [array for _, arrays in _all(given.id, given.ood) for array in (arrays.logits, arrays.features)]
        digests = [self.sha256(array) for array in found if array is not None]
        return [*digests, self._head_of_arrays(place, digests)]

    def notes(self) -> list[str]:
        """What is to be said about the values of all arrays, which are read once.

        Raises `UserError` for values that cannot be right, such as NaN (`check_outputs`).
        """
        found = (self._notes(place) for place in range(len(self.sets.of_seeds)))
        return list(dict.fromkeys(note for notes in found for note in notes))

    def _notes(self, place: int) -> list[str]:
        given = self.sets.of_seeds[place]
        digests = self.of_folder(place)
        for _, arrays in _all(given.id, given.ood):
            digests += [self.sha256(scores) for by_seed in arrays.scores.values() for scores in by_seed.values()]
            digests += [self.sha256(arrays.labels)] if arrays.labels is not None else ["no labels"]
        name = f"checks {VALUE_CHECKS} of {combined_sha256(*digests)}"
        return list(self.library.files.cache.result(name, lambda: {"notes": check_outputs(given)})["notes"])

    def has_head(self, place: int = 0) -> bool:
        """Whether a network's head is given, or can be recovered from its features and logits.

        Raises `UserError` for a given head that does not belong to these. Found out once for the same arrays.
        """

        def find() -> dict[str, bool]:
            return {"found": head_of(self.sets.of_seeds[place]) is not None}

        name = f"head {HEAD_CHECKS} of {combined_sha256(*self.of_folder(place))}"
        return bool(self.library.files.cache.result(name, find)["found"])

    def head_sha256(self, place: int) -> str | None:
        """What identifies a network's head: its hash, or that of all that it is recovered from; None without one."""
        return self.of_folder(place)[-1] if self.has_head(place) else None

    def _head_of_arrays(self, place: int, digests: list[str]) -> str:
        head = self.sets.of_seeds[place].head
        return combined_sha256(*(map(self.sha256, head) if head else ("recovered from", *digests)))

    def of_method(self, method: str, seed: int, place: int) -> list[str]:
        """The hashes of all scores of a method under one seed."""
        given = self.sets.of_seeds[place]
        scores = (arrays.scores.get(method, {}).get(seed) for _, arrays in _all(given.id, given.ood))
        return [self.sha256(array) for array in scores if array is not None]

    def of_networks(self) -> list[str]:
        """The hashes of the arrays of all networks; empty if there is one."""
        given = self.sets.of_seeds
        found = [sha for place in range(len(given)) for sha in self.of_folder(place)] if len(given) > 1 else []
        return list(dict.fromkeys(found))

    def of_methods(self) -> list[str]:
        """The hashes of the scores of all methods that have some for several seeds."""
        given = self.sets.of_seeds
        found = [
            self.sha256(scores)
            for one in given
            for _, arrays in _all(one.id, one.ood)
            for by_seed in arrays.scores.values()
            for scores in by_seed.values()
            if len(by_seed) > 1 or len(given) > 1
        ]
        return list(dict.fromkeys(found))

    def folder_sha256(self, place: int) -> str:
        """One hash for all outputs of a network."""
        return combined_sha256(*self.of_folder(place))


def order_in(images: ImageSet, arrays: GivenArrays) -> NDArray[np.intp] | str | None:
    """The row of each image in given arrays: None if rows and images are in one order, or why they are not there.

    Images are matched by their names, if both sides have some, and otherwise by their order.
    """
    names = images.names
    if names is None or arrays.names is None:
        if arrays.count == len(images):
            return None
        return f"{arrays.count:,} rows without names for {len(images):,} images"
    rows = {name: row for row, name in enumerate(arrays.names)}
    missing = [name for name in names if name not in rows]
    if missing:
        return f"{len(missing):,} of {len(names):,} images have no row, such as '{missing[0]}'"
    order = np.array([rows[name] for name in names], dtype=np.intp)
    return None if np.array_equal(order, np.arange(arrays.count)) else order


def dataset_of(name: str) -> GivenDataset:
    """The registered data set of given arrays."""
    dataset: GivenDataset = registry.get("dataset", name)()
    return dataset


def _all(*sets: Any) -> Iterator[tuple[str, GivenArrays]]:
    yield from ((name, arrays) for of_side in sets for name, arrays in of_side.items())
