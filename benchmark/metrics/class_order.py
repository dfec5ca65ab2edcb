"""Whether a classifier's outputs are in another order than the classes: its accuracy under the best permutation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASS_ORDER_VERSION = 2
"""Increased whenever a value or a note of this kind changes."""


def best_order(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[np.intp]:
    """The permutation of a classifier's outputs with the highest accuracy.

    Args:
        predicted: (N,), the output that is largest for each image, from 0 to `classes` - 1.
        labels: (N,), the classes, from 0 to `classes` - 1.
        classes: Number of classes, K.

    Returns:
        (K,), the class that each output stands for.
    """
    from scipy.optimize import linear_sum_assignment  # imported late: it takes half a second

    confusion = np.bincount(predicted * classes + labels, minlength=classes**2).reshape(classes, classes)
    _, order = linear_sum_assignment(confusion, maximize=True)
    found: NDArray[np.intp] = order
    return found


def accuracy_in_best_order(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> float:
    """Accuracy if outputs stood for other classes, arguments as in `best_order`; NaN for fewer than two images.

    The permutation is chosen on one half of the images, drawn at random, and counted on the other, both ways, because
    with many classes and few images the best of all permutations is far from chance on the images it is chosen on.
    """
    if len(labels) < 2:
        return float("nan")
    halves = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
    right = 0
    for chosen_on, counted in (halves, halves[::-1]):
        order = best_order(predicted[chosen_on], labels[chosen_on], classes)
        right += int((order[predicted[counted]] == labels[counted]).sum())
    return right / len(labels)


def best_shift(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> tuple[int, float]:
    """The shift of all outputs with the highest accuracy, and this accuracy; arguments as in `best_order`.

    A head with a background class in front, or with rotated rows, has one. It is a single number, and so is known from
    one image of each class, where a permutation is not. With a shift s, output k stands for class (k + s) mod K.
    """
    counts = np.bincount((labels - predicted) % classes, minlength=classes)
    shift = int(counts.argmax())
    return shift, float(counts[shift] / len(labels))
