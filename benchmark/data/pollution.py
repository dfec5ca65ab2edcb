"""Pollution of an ID set of one class: unlabelled training images of the data set's other classes among its own.

Papers on anomaly detection measure with it how a method bears training images that are not all normal. No image that is
scored is among them, because they are of the training split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet
from oodbench.benchmark.plugins.specs import SetSpec

SMALLEST, LARGEST = 0.001, 0.5
"""Shares of the training images that may be of other classes."""

EXPECTED = f"0, or a share of the training images from {SMALLEST:g} to {LARGEST:g}"
"""What a pollution must be."""


def is_pollution(value: object) -> bool:
    """Whether a value is a share of images that may be of other classes."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value == 0 or SMALLEST <= value <= LARGEST


def check_pollution(value: float | None) -> None:
    """Check the option; None stands for what the suite says. Raises `UserError` for a value that is no such share."""
    if value is not None and not is_pollution(value):
        raise UserError(f"--pollution must be {EXPECTED}; got {value!r}.")


def other_classes(spec: SetSpec, classes: int) -> SetSpec:
    """The other classes of the data set of an ID set of one class. Raises `UserError` for any other ID set."""
    if spec.classes is None or len(spec.classes) != 1 or classes < 2:
        raise UserError(
            f"'{spec}' cannot be polluted: pollution adds images of the other classes to a single class. Choose one "
            f"class, such as --id {spec.name}[0], or leave out --pollution and the suite's pollution."
        )
    return spec._replace(classes=tuple(k for k in range(classes) if k not in spec.classes))


class Splits(Protocol):
    """What loads the images: `data.library.Library`."""

    def card(self, spec: SetSpec) -> Dataset:
        """The card of a data set."""
        ...

    def split(self, spec: SetSpec, split: str) -> ImageSet:
        """A stored split of a set."""
        ...


def with_others(library: Splits, spec: SetSpec, train: ImageSet, share: float) -> ImageSet:
    """Training images of an ID set of one class, with images of the data set's other classes; see `polluted`."""
    others = other_classes(spec, len(library.card(spec).classes))
    return polluted(train, library.split(others, "train"), share, str(spec))


def polluted(train: ImageSet, others: ImageSet, share: float, name: str) -> ImageSet:
    """Training images of one class, and behind them as many of other classes as make up a share of all.

    They are evenly spaced in stored order, within each class the same share of it, and get the label of the class,
    because nothing may tell them apart. Raises `DataError` if there are not enough of them.
    """
    wanted = round(share / (1 - share) * len(train))
    if wanted > len(others):
        raise DataError(
            f"'{name}' has {len(others):,} training images of other classes, and a pollution of {share:g} takes "
            f"{wanted:,}. Choose a smaller one."
        )
    if wanted == 0:
        return train
    labels = np.zeros(len(others), dtype=np.int64) if others.labels is None else others.labels
    by_class = np.argsort(labels, kind="stable")
    rows = np.sort(by_class[np.arange(wanted) * len(others) // wanted])
    added = others.take(rows)
    groups = None
    if train.groups is not None and added.groups is not None:
        groups = np.concatenate([train.groups, added.groups])
    own = np.zeros(len(train) + wanted, dtype=np.int64)
    if train.lazy is not None or added.lazy is not None:
        raise DataError(f"'{name}' has pictures that are decoded when they are read, which cannot be polluted.")
    return replace(
        train, images=np.concatenate([train.images, added.images]), labels=own, groups=groups, find_names=None
    )
