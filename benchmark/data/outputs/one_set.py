"""Turns the arrays that were found for one set into `GivenArrays`: types, shapes and lengths are checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.files import FEATURES, LABELS, LOGITS, NAMES, SCORE, Stored
from oodbench.benchmark.data.outputs.formats.spool import converted
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.data.outputs.settings import Settings
from oodbench.benchmark.errors import UserError, did_you_mean

SEEDED = re.compile(r"(?P<method>.+)@(?P<seed>\d{1,9})", re.DOTALL)
"""A method's name with a seed."""

ID = "id"

FLOATS = ("f2", "f4", "f8")
"""Types that are used as they are."""


def given_arrays(found: Mapping[str, Stored], settings: Settings, name: str, labelled: bool) -> GivenArrays:
    """Check a set's arrays against each other. `name`: of the set, in messages; `labelled`: whether labels are used.

    Labels of OOD sets have no meaning among the classes, so only their number is checked. Values of logits and features
    are not read here (`checks.py`). Raises `UserError`.
    """
    count, first = _count(found, name)
    for stored in found.values():
        if stored.array.ndim and len(stored.array) != count:
            raise UserError(
                f"{stored.where} has {len(stored.array):,} rows, but {first} has {count:,}; both must have one row for "
                "each image, in the same order."
            )
    logits = _matrix(found[LOGITS], "a column for each class") if LOGITS in found else None
    if logits is not None and logits.shape[1] < 2:
        raise UserError(f"{found[LOGITS].where} has 1 column; logits need one for each class, 2 at least.")
    return GivenArrays(
        count=count,
        logits=logits,
        features=_matrix(found[FEATURES], "a column for each feature") if FEATURES in found else None,
        labels=labels_of(found[LABELS], settings.classes) if LABELS in found and labelled else None,
        names=_names(found[NAMES]) if NAMES in found else None,
        scores=_scores(found, settings),
    )


def _count(found: Mapping[str, Stored], name: str) -> tuple[int, str]:
    """Number of images, and which array says so."""
    for stored in found.values():
        if stored.array.ndim == 0:
            raise UserError(f"{stored.where} is a single value; expected one row for each image.")
    stored = max(found.values(), key=lambda stored: stored.array.ndim)
    if len(stored.array) == 0:
        raise UserError(f"{stored.where} has no rows: the set '{name}' is empty. Leave it out, or save its images.")
    return len(stored.array), stored.where


def _matrix(stored: Stored, columns: str) -> NDArray[np.floating[Any]]:
    array = stored.array
    if array.ndim != 2:
        hint = "; flatten it with x.reshape(len(x), -1)" if array.ndim > 2 else ""
        raise UserError(
            f"{stored.where} has the shape {array.shape}; expected two dimensions, a row for each image and "
            f"{columns}{hint}."
        )
    if array.shape[1] == 0:
        raise UserError(f"{stored.where} has the shape {array.shape}: no columns; expected {columns}.")
    return as_floats(stored)


def as_floats(stored: Stored) -> NDArray[np.floating[Any]]:
    """The array as floats of the machine's byte order; float16, float32 and float64 stay as they are."""
    array = stored.array
    if array.dtype.kind not in "iuf":
        raise UserError(f"{stored.where} contains {array.dtype}; expected floating-point numbers.")
    if array.dtype.kind == "f" and array.dtype.isnative and array.dtype.str[1:] in FLOATS:
        return array
    size = array.dtype.itemsize if array.dtype.kind == "f" else 8
    try:
        return converted(array, f"f{min(size, 8)}")
    except ValueError as error:
        raise UserError(f"{stored.where} {error}.") from error


def labels_of(stored: Stored, classes: Sequence[str]) -> NDArray[np.int64]:
    """Labels as int64. Their range is checked once the number of classes is known (`reading.py`)."""
    array = stored.array
    if array.ndim == 2 and array.shape[1] > 1:
        raise UserError(
            f"{stored.where} has the shape {array.shape}, as one-hot labels have; expected one class number for each "
            "image: save labels.argmax(axis=1)."
        )
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise UserError(f"{stored.where} has the shape {array.shape}; expected one class number for each image.")
    array = array.reshape(-1)
    if array.dtype.kind in "US":
        return _numbered(texts(stored), classes, stored.where)
    if array.dtype.kind not in "iu":
        raise UserError(
            f"{stored.where} contains {array.dtype}; labels are class numbers, 0, 1, ...: save labels.astype(np.int64)."
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{stored.where} contains the label {array.max()}; labels are class numbers, 0, 1, ...")
    return np.asarray(array, dtype=np.int64)


def _numbered(labels: Sequence[str], classes: Sequence[str], where: str) -> NDArray[np.int64]:
    if not classes:
        raise UserError(
            f"{where} contains texts, such as '{labels[0]}'; expected class numbers, or list the names as 'classes' in "
            "outputs.toml, in the order of the logits."
        )
    number = {name: number for number, name in enumerate(classes)}
    numbers = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        if label not in number:
            hint = did_you_mean(label, classes, "Add it there, or correct the label.")
            raise UserError(f"{where}: row {row} is '{label}', which 'classes' in outputs.toml does not name. {hint}")
        numbers[row] = number[label]
    return numbers


def _names(stored: Stored) -> tuple[str, ...]:
    if stored.array.dtype.kind not in "US" or stored.array.ndim != 1:
        raise UserError(
            f"{stored.where} contains {stored.array.dtype} in the shape {stored.array.shape}; expected a name for each "
            "image: save np.array(names, dtype=str)."
        )
    names = texts(stored)
    if len(set(names)) < len(names):
        rows: dict[str, int] = {}
        for row, name in enumerate(names):
            if name in rows:
                raise UserError(
                    f"{stored.where} has the name '{name}' in rows {rows[name]} and {row}; every image needs its own "
                    "name."
                )
            rows[name] = row
    return names


def texts(stored: Stored) -> tuple[str, ...]:
    """The texts of an array; bytes are read as UTF-8."""
    flat = stored.array.reshape(-1).tolist()
    try:
        return tuple(text if isinstance(text, str) else text.decode("utf-8") for text in flat)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{stored.where} contains a text that is not UTF-8; save it as np.array(x, dtype=str)."
        ) from error


def _scores(found: Mapping[str, Stored], settings: Settings) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Scores by method and seed, higher = more OOD."""
    scores: dict[str, dict[int, NDArray[np.float64]]] = {}
    for key, stored in found.items():
        if key == SCORE:
            method, seed = settings.method, 0
        elif key.startswith(f"{SCORE}_"):
            method, seed = method_and_seed(key.removeprefix(f"{SCORE}_"))
        else:
            continue
        if stored.array.ndim != 1 and stored.array.shape[1:] != (1,):
            raise UserError(f"{stored.where} has the shape {stored.array.shape}; expected one score for each image.")
        values = np.asarray(as_floats(stored), dtype=np.float64).reshape(-1)
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            raise UserError(f"{stored.where}: the score in row {bad[0]} is {values[bad[0]]}; expected finite numbers.")
        by_seed = scores.setdefault(method, {})
        if seed in by_seed:
            raise UserError(f"{stored.where}: the scores of '{method}' are given twice. Remove one of them.")
        by_seed[seed] = turned(values, method, settings)
    return scores


def method_and_seed(text: str) -> tuple[str, int]:
    """A method's name and a seed, from 'METHOD' or 'METHOD@SEED'."""
    match = SEEDED.fullmatch(text)
    return (match["method"], int(match["seed"])) if match else (text, 0)


def turned(values: NDArray[np.float64], method: str, settings: Settings) -> NDArray[np.float64]:
    """The scores so that higher means more OOD."""
    higher = settings.higher_of.get(method) or settings.higher
    return 0.0 - values if higher == ID else values
