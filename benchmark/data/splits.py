"""Splits image sets: class subsets, ID validation, and the halves of test splits that settings are tuned on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.specs import SetSpec

VALIDATION_SHARE = 0.1
"""Fraction of the training images that becomes ID validation."""


def copy_views(images: ImageSet) -> ImageSet:
    """Copy arrays that are views of a larger one, through whose `base` a detector could reach the other splits."""
    arrays = {name: getattr(images, name) for name in ("images", "labels", "groups")}
    return replace(images, **{name: array.copy() for name, array in arrays.items() if _is_view_of_larger(array)})


def _is_view_of_larger(array: np.ndarray | None) -> bool:
    base = getattr(array, "base", None)  # images that are decoded when they are read have none
    return array is not None and isinstance(base, np.ndarray) and base.nbytes > array.nbytes


def only_classes(images: ImageSet, spec: SetSpec) -> ImageSet:
    """Select the classes that `spec` names and relabel them 0, 1, ... in that order. Raises `UserError` for others."""
    chosen = spec.classes or ()
    if images.labels is None or max(chosen) >= len(images.classes):
        raise UserError(
            f"'{spec}' asks for class {max(chosen)}, but '{spec.name}' has "
            + (f"classes 0 to {len(images.classes) - 1}." if images.labels is not None else "no classes.")
        )
    rows = np.flatnonzero(np.isin(images.labels, chosen))
    labels = np.searchsorted(np.array(chosen), images.labels[rows])
    return replace(images.take(rows), labels=labels, classes=tuple(images.classes[k] for k in chosen))


def carve_validation(train: ImageSet, name: str) -> tuple[ImageSet, ImageSet]:
    """Split a training set into training and ID validation images, without separating images that depend on each other.

    With groups, whole groups are taken from the end until a tenth of the images is reached. Without groups, the last
    tenth of each class in stored order is taken, because images stored next to each other are more likely to be alike.
    Raises `UserError` for a set without labels, `DataError` if a class would be left without training images.
    """
    held_out = validation_rows(train, name)
    return train.take(np.flatnonzero(~held_out)), train.take(np.flatnonzero(held_out))


def validation_rows(train: ImageSet, name: str) -> np.ndarray:
    """Mask of the images of a training set that become ID validation, bool (N,); see `carve_validation`."""
    if train.labels is None:
        raise UserError(f"'{name}' has no labels, so it cannot be an ID set. Choose a labelled set for --id.")
    held_out = last_groups(train.groups) if train.groups is not None else last_of_each_class(train.labels)
    if len(np.unique(train.labels[~held_out])) < len(train.classes):
        raise DataError(f"'{name}' is too small: with a tenth held out, some class has no training image left.")
    return held_out


def first_half(test: ImageSet) -> np.ndarray:
    """Mask of the test images that settings are tuned on, bool (N,): the first half of the groups, or of each class.

    Halves are contiguous because images stored next to each other are more likely to be alike, and taken per class so
    that both contain every class.
    """
    if test.groups is not None:
        order, first = np.unique(test.groups, return_index=True)
        groups = order[np.argsort(first)]
        return np.isin(test.groups, groups[: len(groups) // 2])
    labels = np.zeros(len(test), dtype=int) if test.labels is None else test.labels
    first = np.zeros(len(test), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) // 2]] = True
    return first


def last_groups(groups: np.ndarray, share: float = VALIDATION_SHARE) -> np.ndarray:
    """Mask of the images in the last groups that together have at least a share of all images, bool (N,)."""
    order, first = np.unique(groups, return_index=True)
    held_out = np.zeros(len(groups), dtype=bool)
    for group in order[np.argsort(first)][::-1]:
        held_out |= groups == group
        if held_out.sum() >= share * len(groups):
            break
    return held_out


def last_of_each_class(labels: np.ndarray) -> np.ndarray:
    """Mask of the last tenth of the images of each class, at least one, in stored order, bool (N,)."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rows[-max(1, round(VALIDATION_SHARE * len(rows))) :]] = True
    return held_out
