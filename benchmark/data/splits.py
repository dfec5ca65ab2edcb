"""How a set is split: chosen classes, ID validation, and halves for tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.specs import SetSpec

if TYPE_CHECKING:
    pass


VALIDATION_SHARE = 0.1


def on_its_own(images: ImageSet) -> ImageSet:
    """The same images, copied where they are a view of a larger array, from which the other splits could be reached."""
    arrays = {name: getattr(images, name) for name in ("images", "labels", "groups")}
    return replace(images, **{name: array.copy() for name, array in arrays.items() if _is_part(array)})


def _is_part(array: np.ndarray | None) -> bool:
    return array is not None and isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes


def only_classes(images: ImageSet, spec: SetSpec) -> ImageSet:
    """Keep the classes that `spec` names, relabelled 0, 1, ... in that order."""
    kept = spec.classes or ()
    if images.labels is None or max(kept) >= len(images.classes):
        raise UserError(
            f"'{spec}' asks for class {max(kept)}, but '{spec.name}' has "
            + (f"classes 0 to {len(images.classes) - 1}." if images.labels is not None else "no classes.")
        )
    rows = np.flatnonzero(np.isin(images.labels, kept))
    chosen = images.take(rows)
    labels = np.searchsorted(np.array(kept), images.labels[rows])
    return ImageSet(chosen.images, labels, tuple(images.classes[k] for k in kept), chosen.groups)


def carve_validation(train: ImageSet, name: str) -> tuple[ImageSet, ImageSet]:
    """Cut the end of a training split off as ID validation, dependent images together.

    With groups, whole groups from the end until a tenth of the images is reached; without, the last tenth of each
    class in stored order, because stored neighbours are likelier to be alike than images far apart.
    """
    if train.labels is None:
        raise UserError(f"'{name}' has no labels, so it cannot be an ID set. Choose a labelled set for --id.")
    held_out = _last_groups(train.groups) if train.groups is not None else _last_of_each_class(train.labels)
    if len(np.unique(train.labels[~held_out])) < len(train.classes):
        raise DataError(f"'{name}' is too small: with a tenth held out, some class has no training image left.")
    return train.take(np.flatnonzero(~held_out)), train.take(np.flatnonzero(held_out))


def first_half(test: ImageSet) -> np.ndarray:
    """Which images of a test split are for tuning, bool (N,): the first half of the groups, or of each class.

    Contiguous, because stored neighbours are likelier to be alike; by class, so that no half lacks one.
    """
    if test.groups is not None:
        order, first = np.unique(test.groups, return_index=True)
        groups = order[np.argsort(first)]
        return np.isin(test.groups, groups[: len(groups) // 2])
    labels = np.zeros(len(test), dtype=int) if test.labels is None else test.labels
    chosen = np.zeros(len(test), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rows[: len(rows) // 2]] = True
    return chosen


def _last_groups(groups: np.ndarray) -> np.ndarray:
    order, first = np.unique(groups, return_index=True)
    held_out = np.zeros(len(groups), dtype=bool)
    for group in order[np.argsort(first)][::-1]:
        held_out |= groups == group
        if held_out.sum() >= VALIDATION_SHARE * len(groups):
            break
    return held_out


def _last_of_each_class(labels: np.ndarray) -> np.ndarray:
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rows[-max(1, round(VALIDATION_SHARE * len(rows))) :]] = True
    return held_out
