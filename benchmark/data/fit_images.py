"""Which images of an ID set detectors learn from, if not from its whole training split; and the parts that follow.

A part names its rule, so that every process and every later command finds the same images:

    train, at most 50 per class         training images that detectors are fitted on
    validation, at most 50 per class    training images held out of those
    fitted, at most 50 per class        both
    train, 0.2 of test held out         test images that detectors are fitted on; 'validation' and 'fitted' alike
    scored, 0.2 of test held out        the other test images, which tables are about; 'changed' alike
    train, of val                       images of a published validation split; 'validation' and 'fitted' alike
    mixed validation, of val            transformed validation images; the rest follows as for 'validation'
    train, 0.1 polluted                 training images of one class, and others so that a tenth of all are of other
                                        classes; 'fitted' alike (`data.pollution`)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.data.splits import VALIDATION_SHARE, last_groups, validation_rows
from oodbench.benchmark.data.transformed import TRANSFORMED
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.dataset import ImageSet

TRAIN, VAL = "train", "val"
"""Splits that detectors may learn from, besides a part of the test split."""

FROM_TRAIN = ("train", "validation", "fitted", *TRANSFORMED)
"""Roles that depend on the number of training images per class."""

LEARNT = ("train", "fitted")
"""Roles that depend on the share of images of other classes."""

FROM_TEST = (*FROM_TRAIN, "scored", "changed")
"""Roles that depend on the share of the test split that is held out."""

SMALLEST, LARGEST = 0.01, 0.9
"""Shares of a test split that may be held out."""

FEWEST = 2
"""Images of a class that are needed to fit detectors: one to learn from, one for validation."""

PART = re.compile(
    r"(\w+(?: validation)?)(, of val)?(?:, (0\.\d+) of test held out)?"
    r"(?:, at most (\d+) per class)?(?:, (0\.\d+) polluted)?"
)


@dataclass(frozen=True)
class FitImages:
    """What a suite or the command line declares for an ID set; by default, all of its training split."""

    held_out: float = 0.0
    """Share of the images of each class of the test split that detectors learn from, and that are then not scored; 0:
    they learn from the training split."""
    val: bool = False
    """Whether they learn from the published validation split in place of the training split."""
    per_class: int = 0
    """Learn from at most this many images of each class, a tenth of which are validation images; 0 for all."""
    pollution: float = 0.0
    """Share of the images to learn from that are of other classes than the ID set's one class."""

    def part(self, role: str) -> str:
        """The part of the ID set that serves as one of `data.library.PARTS`, or as `fitted`, the fit images."""
        held_out = f", {self.held_out:g} of test held out" if self.held_out and role in FROM_TEST else ""
        val = ", of val" if self.val and role in FROM_TRAIN else ""
        capped = self.per_class and role in (FROM_TEST if self.held_out else FROM_TRAIN)
        polluted = f", {self.pollution:g} polluted" if self.pollution and role in LEARNT else ""
        return f"{role}{val}{held_out}{f', at most {self.per_class} per class' if capped else ''}{polluted}"


ALL_TRAINING = FitImages()


def parse_part(part: str) -> tuple[str, FitImages]:
    """The role that a part serves, and which images detectors learn from; the inverse of `FitImages.part`."""
    found = PART.fullmatch(part)
    if found is None:
        return part, ALL_TRAINING
    role, val, share, count, pollution = found.groups()
    return role, FitImages(float(share or 0), bool(val), int(count or 0), float(pollution or 0))


def role_of(part: str) -> str:
    """The role that a part serves, such as 'scored'."""
    return parse_part(part)[0]


def parse_fit(value: object, per_class: int = 0) -> FitImages:
    """What `fit = VALUE` and `fit_per_class` declare.

    Raises `ValueError` for anything else than "train", "val" and a number from `SMALLEST` to `LARGEST`.
    """
    if value in (TRAIN, VAL):
        return FitImages(val=value == VAL, per_class=per_class)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    share = float(f"{float(value):g}")
    if not SMALLEST <= share <= LARGEST:
        raise ValueError(value)
    return FitImages(share, per_class=per_class)


EXPECTED = f'"train", "val", or the share of the test split to hold out, a number from {SMALLEST} to {LARGEST}'
"""What `parse_fit` takes."""


def check_fit(fit_from: object, per_class: int) -> None:
    """Raise `UserError` for options that `parse_fit` does not take, or for too few images of a class.

    Empty and 0 stand for the suite's own.
    """
    try:
        parse_fit(fit_from or "train")
    except ValueError:
        raise UserError(f"--fit-from is {fit_from}; it must be {EXPECTED}.") from None
    if per_class != 0 and per_class < FEWEST:
        raise UserError(f"--fit-per-class must be a whole number from {FEWEST}; got {per_class}.")


def held_out_rows(test: ImageSet, fit: FitImages, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the test images that detectors learn from, and of those that are scored.

    Without groups, the last images of each class in stored order are held out, because images stored next to each other
    are more likely to be alike. With groups, whole groups are held out from the end; where fewer per class are wanted,
    the rest of them is not used at all.

    Args:
        test: The test split.
        fit: Which images are wanted.
        name: The set's name.

    Raises:
        UserError: The split has no labels.
        DataError: A class has too few images.
    """
    if test.labels is None:
        raise UserError(f"'{name}' has no labels, so it cannot be an ID set. Choose a labelled set for --id.")
    held_out = np.zeros(len(test), dtype=bool)
    if test.groups is not None:
        held_out = last_groups(test.groups, fit.held_out)
        fitted = held_out & at_most(test.labels, held_out, fit.per_class)
    else:
        for label in np.unique(test.labels):
            rows = np.flatnonzero(test.labels == label)
            count = max(FEWEST, round(fit.held_out * len(rows)))
            count = min(count, max(FEWEST, fit.per_class)) if fit.per_class else count
            if count >= len(rows):
                raise _too_few(name, named_class(test.classes[label]), len(rows))
            held_out[rows[-count:]] = True
        fitted = held_out
    if held_out.all():
        raise DataError(f"'{name}' is too small to hold out {fit.held_out:g} of its test split: nothing is left over.")
    return np.flatnonzero(fitted), np.flatnonzero(~held_out)


def fit_validation_rows(fitted: ImageSet, name: str) -> np.ndarray:
    """Mask of those of the held-out images that become ID validation, bool (N,): whole groups, if other groups hold
    images of every class, as they do not where one group is all that was held out."""
    try:
        return validation_rows(fitted, name)
    except DataError:
        return validation_rows(replace(fitted, groups=None), name)


def counts_of(per_class: int) -> tuple[int, int]:
    """How many images of each class detectors learn from, and how many more are validation images: a tenth; 0, all."""
    held_out = max(1, round(VALIDATION_SHARE * per_class)) if per_class else 0
    return per_class - held_out, held_out


def at_most(labels: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """At most `count` images of each class, evenly spaced in stored order, among some, bool (N,); all of them for 0."""
    kept = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & among)
        taken = min(count, len(rows)) if count else len(rows)
        kept[rows[np.arange(taken) * len(rows) // max(1, taken)]] = True
    return kept


def _too_few(name: str, label: str, images: int) -> DataError:
    return DataError(
        f"'{name}' has {images} test image{'s' * (images != 1)} of class '{label}', too few to hold some out for "
        f"detectors to learn from; three or more of every class are needed. Choose a smaller --fit-from, or train."
    )
