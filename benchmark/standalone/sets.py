"""The arrays of one set as `fit` and `score` take them, and some of their rows without a copy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays
from oodbench.benchmark.standalone.arrays import Given, class_numbers, refuse_not_finite, rows_of_numbers


def read_arrays(
    features: Given | None,
    logits: Given | None,
    labels: Given | None = None,
    *,
    reads: Collection[str] = ("features", "logits"),
    of: str = "{}",
) -> SetArrays:
    """Check the arrays of one set. Raises `UserError`.

    Args:
        features: (N, D).
        logits: (N, K).
        labels: (N,).
        reads: What will be read; of the others only shapes are checked, which takes no pass over them.
        of: What arguments are called in messages, with {} for the name.
    """
    numbers = {"features": features, "logits": logits}
    arrays: dict[str, NDArray[Any] | None] = {
        **{
            name: None if array is None else rows_of_numbers(array, of.format(name), finite=name in reads)
            for name, array in numbers.items()
        },
        "labels": None if labels is None else class_numbers(labels, of.format("labels")),
    }
    counts = {of.format(name): len(array) for name, array in arrays.items() if array is not None}
    if len(set(counts.values())) > 1:
        rows = " and ".join(f"{name} {count:,}" for name, count in counts.items())
        raise UserError(f"Arrays of one set must have a row per image: rows are {rows}.")
    return SetArrays(next(iter(counts.values()), 0), arrays["logits"], arrays["features"], arrays["labels"])


@dataclass(frozen=True)
class SelectedRows:
    """Some rows of an array, read when they are indexed, so that selecting nine tenths of 10 GB copies nothing."""

    array: NDArray[Any]
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the selected rows have together."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the array."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        selected: NDArray[Any] = self.array[self.rows[index]]
        return selected


@dataclass(frozen=True)
class FiniteRows:
    """An array whose blocks are checked for NaN and infinity when they are read, while they are in the cache."""

    array: NDArray[Any]
    name: str
    """What messages call it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the array."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        block: NDArray[Any] = self.array[rows]
        if block.dtype.kind == "f":
            refuse_not_finite(block, self.name, rows.start or 0)
        return block


def checked_when_read(arrays: SetArrays) -> SetArrays:
    """The same set, whose logits and features are checked block by block. Reading raises `UserError`."""

    def checked(array: NDArray[Any] | None, name: str) -> Any:
        return None if array is None else FiniteRows(array, name)

    return replace(arrays, logits=checked(arrays.logits, "logits"), features=checked(arrays.features, "features"))
