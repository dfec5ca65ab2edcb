"""Notes on given weights whose outputs do not fit the labels of the ID set."""

from __future__ import annotations

import numpy as np

from oodbench.benchmark.metrics.class_order import accuracy_in_best_order, best_order, best_shift
from oodbench.benchmark.metrics.extended import ClassifiedImages
from oodbench.benchmark.records.record import MISFIT

FAR_HIGHER = 0.2
"""Gain in accuracy, also over always naming one class, from which another order of the classes is reported."""

HARDLY = 0.1
"""Share of the way from guessing the most frequent class to no error; less than that is reported as guessing."""

FEW = 4
"""Images of each class below which a permutation of the classes cannot be found on one half and seen on the other."""

CHECK_WEIGHTS = "check that file, --backbone with its normalisation, and ID set belong together"
"""What to do about weights that fit no order of the classes."""

SHOWN = 3
"""Number of outputs that a note names."""


def class_order_note(images: ClassifiedImages) -> str:
    """Why a classifier's outputs do not fit the labels of ID test images, as a note; empty if they do."""
    labels, classes = np.asarray(images.labels, dtype=np.int64), images.logits.shape[1]
    predicted = np.asarray(images.logits).argmax(axis=1)
    guess = np.bincount(labels, minlength=classes).max() / len(labels)
    enough = max(images.accuracy, guess) + FAR_HIGHER  # a network that always says the same fits any one class
    found = f"{MISFIT}: accuracy {_percent(images.accuracy)} on {len(labels):,} ID test images"
    if enough <= 1 and len(labels) > 1:
        possible = accuracy_in_best_order(predicted, labels, classes)
        if possible >= enough:
            return (
                f"{found}, and {_percent(possible)} under the best permutation of classes, chosen on one half of the "
                f"images and counted on the other: the last layer has the classes in another order "
                f"({_moved(best_order(predicted, labels, classes))}). Numbers of detectors that compare predictions "
                "with labels are wrong; reorder the last layer's rows"
            )
        shift, possible = best_shift(predicted, labels, classes)
        if possible >= enough:
            return (
                f"{found}, and {_percent(possible)} if every output stood for the class {shift} further on, of "
                f"{classes:,}: the last layer's rows are rotated, or it has a class in front that the ID set has not. "
                "Numbers of detectors that compare predictions with labels are wrong; reorder the last layer's rows"
            )
    if images.accuracy < guess + HARDLY * (1 - guess):
        seen = "can be told from so few images of each" if len(labels) < FEW * classes else "is far better"
        return (
            f"{found}, where always the same class would have {_percent(guess)}, and no other order of the classes "
            f"{seen}: {CHECK_WEIGHTS}"
        )
    return ""


def _moved(order: np.ndarray) -> str:
    """The first outputs that stand for another class than their number."""
    moved = [f"output {output} is class {label}" for output, label in enumerate(order.tolist()) if output != label]
    more = len(moved) - SHOWN
    return ", ".join(moved[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
