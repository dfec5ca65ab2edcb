"""Labels of scored images as an `Evaluation` takes them, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.extended import ClassifiedImages
from oodbench.benchmark.standalone.arrays import Given, as_array, class_numbers, each_set, rows_of_numbers
from oodbench.benchmark.stats.by_class import Labelled, by_class
from oodbench.benchmark.store.schema import ByClass

CLASS_COLUMNS = ("ood_set", "id_class", "ood_class", "auroc", "images", "low", "high")
"""Columns of the data frame of AUROCs by class."""

Groups = Mapping[str, NDArray[np.integer]]


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of ID and OOD images, as far as they are given."""

    id: NDArray[Any] | None = None
    """(N,): class numbers or names."""
    ood: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Name of an OOD set -> (M,), for sets whose labels are given."""
    logits: NDArray[Any] | None = None
    """(N, K): of the classifier, for the ID images; `id` are then numbers of its classes."""

    @classmethod
    def of(
        cls,
        id_labels: Given | None,
        ood_labels: Given | Mapping[str, Given] | None,
        id_logits: Given | None,
        count: int,
        counts: Mapping[str, int],
    ) -> Labels:
        """Check labels for `count` ID images and `counts` images of each OOD set. Raises `UserError`."""
        of_id = None if id_labels is None else _labels(id_labels, "id_labels", count)
        logits = None if id_logits is None else rows_of_numbers(id_logits, "id_logits")
        if logits is not None:
            if id_labels is None:
                raise UserError("id_logits is given without id_labels, which say what is classified correctly.")
            of_id = class_numbers(id_labels, "id_labels")
            if len(logits) != count or of_id.max() >= logits.shape[1]:
                raise UserError(
                    f"id_logits has shape {logits.shape}; expected {count:,} rows, one per ID image, and a column for "
                    f"each class up to {of_id.max()}."
                )
        return cls(of_id, each_set(ood_labels, counts, "ood_labels", _labels), logits)

    @property
    def classified(self) -> ClassifiedImages | None:
        """The ID images with the classifier's logits, if these are given."""
        return None if self.logits is None or self.id is None else ClassifiedImages(self.logits, self.id)

    def only(self, ood_set: str) -> dict[str, Any]:
        """The arguments of an evaluation on one of the OOD sets."""
        ood = {ood_set: self.ood[ood_set]} if ood_set in self.ood else None
        return {"id_labels": self.id, "ood_labels": ood, "id_logits": self.logits}

    def by_class(
        self,
        id_scores: NDArray[Any],
        ood_scores: Mapping[str, NDArray[Any]],
        id_groups: NDArray[np.integer] | None,
        ood_groups: Groups,
    ) -> dict[str, ByClass]:
        """AUROCs by class for every OOD set; matrices of any size."""
        of_id = _named(id_scores, self.id, id_groups)
        return {
            key: by_class(of_id, _named(scores, self.ood.get(key), ood_groups.get(key)), most_pairs=2**62)
            for key, scores in ood_scores.items()
        }


def class_lines(found: Mapping[str, ByClass]) -> Iterator[tuple[object, ...]]:
    """One line per class, then per pair, in the columns of `CLASS_COLUMNS`."""
    for key, of_set in found.items():
        for one in of_set.id:
            yield key, one.name, "", one.auroc, one.images, one.low, one.high
        for one in of_set.ood:
            yield key, "", one.name, one.auroc, one.images, one.low, one.high
        for one, row in zip(of_set.id, of_set.pairs, strict=False):
            for other, value in zip(of_set.ood, row, strict=True):
                yield key, one.name, other.name, value, None, None, None


def _named(scores: NDArray[Any], labels: NDArray[Any] | None, groups: NDArray[np.integer] | None) -> Labelled:
    if labels is None:
        return Labelled(scores, groups=groups)
    names, numbers = np.unique(labels, return_inverse=True)
    return Labelled(scores, numbers.reshape(-1), [str(name) for name in names.tolist()], groups)


def _labels(value: Given, name: str, count: int) -> NDArray[Any]:
    array = as_array(value, name)
    if array.shape != (count,) or array.dtype.kind not in "iuU":
        kinds = "class numbers or names"
        raise UserError(f"{name} is {array.dtype} of shape {array.shape}; expected {count:,} {kinds}, one per image.")
    return array
