"""`check_outputs`: reads all values once, refuses what cannot be right, and asks about what may be wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.files import unused
from oodbench.benchmark.data.outputs.formats.spool import row_blocks
from oodbench.benchmark.data.outputs.given import TEST, TRAIN, GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.methods import turned_methods, under_half
from oodbench.benchmark.data.outputs.reading import ood_labels
from oodbench.benchmark.data.outputs.same_rows import Digests, overlaps, repeated_scores
from oodbench.benchmark.errors import UserError

LOG = logging.getLogger("oodbench")

NEAR_ONE = 1e-3
"""How far from 1 the sum of probabilities may be."""

CERTAIN = 0.5
"""Share of labels that the network predicts, above which they are labels of its classes."""

CHANCE = 3.0
"""Standard deviations above chance that accuracy must exceed to be more than chance."""

FEW = 5
"""Classes that a message names."""


class Seen(NamedTuple):
    """What the logits of a set say."""

    predicted: NDArray[np.int64]
    """Number of the class with the largest logit, int64 (N,)."""
    doubt: NDArray[np.float64]
    """Minus the logarithm of the largest probability, float64 (N,); higher = more OOD."""
    probabilities: bool
    """Whether all rows are probabilities rather than logits."""


def check_outputs(given: GivenOutputs) -> tuple[str, ...]:
    """Check the values of all arrays; return what should be printed under tables, and log it as warnings.

    Raises `UserError` for values that are not finite, a class without training images, sets that are the same, and an
    OOD set that seems to be the ID set. Reads every array once, in blocks; a head is checked by `head_of`.
    """
    notes = []
    for found in findings(given):
        if isinstance(found, UserError):
            raise found
        notes.append(found)
    for sentence in (*(unused(given.source) if given.source.is_dir() else ()), *notes):
        LOG.warning(sentence)
    return tuple(notes)


def findings(given: GivenOutputs) -> Iterator[UserError | str]:
    """All that is wrong, as errors, and all that should be asked about, as sentences."""
    seen: dict[str, Seen] = {}
    digests: dict[str, Digests] = {}
    for name, arrays in sets_of(given).items():
        wrong = list(_not_finite(given, name, arrays))
        yield from wrong
        if not wrong:
            digests[name] = Digests.of(arrays)
            if arrays.logits is not None:
                seen[name] = _seen(arrays.logits)
    yield from _missing_classes(given)
    yield from _exchanged(given, seen)
    yield from repeated_scores(given)
    yield from overlaps(given, digests)
    yield from _questions(given, seen)


def sets_of(given: GivenOutputs) -> dict[str, GivenArrays]:
    """All sets, by the names that messages use."""
    return {f"id_{split}": arrays for split, arrays in given.id.items()} | dict(given.ood)


def accuracy(arrays: GivenArrays) -> float | None:
    """Share of images whose largest logit is that of their label; None without logits or labels."""
    if arrays.logits is None or arrays.labels is None:
        return None
    predicted = np.concatenate([block.argmax(axis=1) for block in row_blocks(arrays.logits)])
    return float((predicted == arrays.labels).mean())


def _not_finite(given: GivenOutputs, name: str, arrays: GivenArrays) -> Iterator[UserError]:
    """Errors about logits and features of a set that are not finite."""
    for what, array in (("logits", arrays.logits), ("features", arrays.features)):
        if array is not None and (problem := _first_not_finite(array, arrays.names)):
            yield UserError(f"'{given.source}': the {what} of '{name}' {problem}")


def _first_not_finite(array: NDArray[Any], names: tuple[str, ...] | None) -> str:
    """What is wrong with an array's values; empty if they are all finite."""
    bad: list[int] = []
    start, value = 0, 0.0
    for block in row_blocks(array):
        finite = np.isfinite(block)
        if not finite.all():
            value = value if bad else float(block[~finite][0])
            bad += (start + np.flatnonzero(~finite.all(axis=1))).tolist()
        start += len(block)
    if not bad:
        return ""
    image = f", image '{names[bad[0]]}'" if names is not None else ""
    place = f"row {bad[0]}{image}" + (f" (and in {len(bad) - 1:,} more rows)" if len(bad) > 1 else "")
    if array.dtype == np.float16 and np.isinf(value):
        return f"overflowed float16, whose largest number is 65504: {value} in {place}. Save them as float32."
    return f"contain {value} in {place}; expected finite numbers. Compute these again, or leave the images out."


def _seen(logits: NDArray[np.floating[Any]]) -> Seen:
    predicted, doubt, probabilities = [], [], True
    for block in row_blocks(logits):
        values = block.astype(np.float64)
        predicted.append(values.argmax(axis=1))
        top = values.max(axis=1, keepdims=True)
        doubt.append(np.log(np.exp(values - top).sum(axis=1)))
        probabilities = probabilities and bool(values.min() >= 0 and np.abs(values.sum(axis=1) - 1).max() < NEAR_ONE)
    return Seen(np.concatenate(predicted), np.concatenate(doubt), probabilities)


def _missing_classes(given: GivenOutputs) -> Iterator[UserError]:
    """An error if a class has no training image."""
    train = given.id.get(TRAIN)
    if train is None or train.labels is None:
        return
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(given.classes)) == 0)
    if missing.size:
        names = ", ".join(f"{number} ('{given.classes[number]}')" for number in missing[:FEW])
        more = f" and {missing.size - FEW:,} more" if missing.size > FEW else ""
        yield UserError(
            f"'{given.source}': id_train has no image of class {names}{more}, of {len(given.classes):,} classes. "
            "Detectors that learn what each class looks like need images of all; add some, or leave the labels of "
            "id_train out."
        )


def _exchanged(given: GivenOutputs, seen: dict[str, Seen]) -> Iterator[UserError]:
    """Errors about OOD sets whose labels are what the network predicts, more than those of the ID set are."""
    test = given.id[TEST]
    right = _agreement(seen.get(f"id_{TEST}"), test.labels)
    for name, labels in ood_labels(given).items():
        found = _agreement(seen.get(name), labels)
        if found is not None and found > max(CERTAIN, right or 0.0):
            id_test = "id_test has no labels" if right is None else f"of only {right:.1%} of id_test"
            yield UserError(
                f"'{given.source}': the network predicts the labels of {found:.1%} of the OOD set '{name}', but "
                f"{id_test}. Were the files exchanged? If '{name}' is OOD, remove its labels, which are not used."
            )


def _agreement(seen: Seen | None, labels: NDArray[np.int64] | None) -> float | None:
    return None if seen is None or labels is None else float((seen.predicted == labels).mean())


def _questions(given: GivenOutputs, seen: dict[str, Seen]) -> Iterator[str]:
    """Sentences about what is possible but unlikely."""
    test = seen.get(f"id_{TEST}")
    if test is not None and all(s.probabilities for s in seen.values()):
        yield (
            "The logits given are probabilities (every row sums to 1). Detectors that need logits, such as those of "
            "energy or of the largest logit, mean something else on them: save the outputs before softmax."
        )
    labels = given.id[TEST].labels
    if test is not None and labels is not None:
        yield from _at_chance(test.predicted, labels, len(given.classes))
    others = [seen[name] for name in given.ood if name in seen]
    if test is not None and others and all(under_half(test.doubt, other.doubt) for other in others):
        yield (
            "The network is more confident on the images of every OOD set than on those of the ID set (AUROC of the "
            "largest probability under 50% on each). Were ID and OOD files exchanged?"
        )
    for method in turned_methods(given):
        yield (
            f"The scores of '{method}' are higher for ID than for OOD images (AUROC under 50% on every OOD set). Is "
            "their sign turned? If higher means ID, state it: higher = \"id\" in outputs.toml, or '# higher = id' in a "
            "CSV file."
        )


def _at_chance(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Iterator[str]:
    count = len(labels)
    if labels.min() == labels.max():  # any predictions look like chance then
        return
    shares = (np.bincount(array, minlength=classes) / count for array in (predicted, labels))
    chance = float(np.prod(list(shares), axis=0).sum())
    found = float((predicted == labels).mean())
    if found <= chance + CHANCE * np.sqrt(chance * (1 - chance) / count):
        yield (
            f"The accuracy on ID test images is {found:.1%}, no better than chance ({chance:.1%}). Are labels and "
            "logits in the same order, and do labels count from 0?"
        )
