"""`SetOutputs`: logits and features of one set; and sizes of sets in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs import GivenHead, GivenOutputs


@dataclass(frozen=True, repr=False, eq=False)
class SetOutputs:
    """Logits and features of the N images of one set, as a detector's `fit` and `score` take them."""

    logits: NDArray[np.floating[Any]]
    """(N, K)."""
    features: NDArray[np.float32]
    """(N, D)."""
    labels: NDArray[np.int64] | None
    """(N,), if the data have labels."""
    names: tuple[str, ...] | None
    """A name for each image, if the data have names, as folders of torchvision do."""
    head: GivenHead | None
    """The linear layer from features to logits, (weight, bias); None if there is none."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know."""

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        return f"SetOutputs({sizes(self.logits, self.features)}{'' if self.labels is None else ', labels'})"


def set_rows(given: GivenOutputs) -> list[tuple[str, str]]:
    """Each set with its sizes, and the head."""
    sets = {f"id_{split}": arrays for split, arrays in given.id.items()}
    sets |= {f"{name} ({given.groups[name]})" if name in given.groups else name: a for name, a in given.ood.items()}
    rows = [(name, sizes(a.logits, a.features)) for name, a in sets.items()]
    head = "none" if given.head is None else " x ".join(map(str, given.head.weight.shape))
    return [*rows, ("head", head), *(("note", note) for note in given.notes)]


def sizes(logits: np.ndarray[Any, Any] | None, features: np.ndarray[Any, Any] | None) -> str:
    """The sizes of a set's arrays in words: '100 images, 10 logits, 512 features'."""
    one = logits if logits is not None else features
    if one is None:
        return "scores"
    parts = [f"{len(one):,} images"]
    parts += [f"{logits.shape[1]:,} logits"] if logits is not None else []
    return ", ".join([*parts, *([f"{features.shape[1]:,} features"] if features is not None else [])])
