"""Finds the files of a folder of outputs, and opens the arrays in them by set and name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oodbench.benchmark.data.outputs.formats.npy_arrays import npy_array, npz_arrays
from oodbench.benchmark.data.outputs.formats.parquet_arrays import parquet_arrays
from oodbench.benchmark.data.outputs.formats.tensor_arrays import safetensors_arrays
from oodbench.benchmark.data.outputs.given import ID_SPLITS
from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.store.safe_read import is_file, read_bounded

LOGITS, FEATURES, LABELS, NAMES, SCORE = KEYS = ("logits", "features", "labels", "names", "score")
"""Names of arrays. Scores of several methods are `score_METHOD`, and `score_METHOD@SEED` for seeds other than 0."""

WEIGHT, BIAS = HEAD_KEYS = ("weight", "bias")

HEAD = "head"
ID_STEMS = tuple(f"id_{split}" for split in ID_SPLITS)
STEMS = (*ID_STEMS, HEAD)
OOD = "ood"
"""The folder of OOD sets."""

PART = re.compile(r"(?P<set>.+?)_(?P<key>logits|features|labels|names|score(?:_.+)?)", re.DOTALL)
HEAD_PART = re.compile(r"(?P<set>head)_(?P<key>weight|bias)")

READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": npz_arrays,
    ".safetensors": safetensors_arrays,
    ".parquet": parquet_arrays,
}
"""Suffix -> reader of files with several named arrays."""

SUFFIXES = (*READERS, ".npy")

TEXT = f"_{NAMES}.txt"
"""End of the name of a file of names, one a line."""

MAX_TEXT = 1 << 30
"""Bytes of such a file."""

ALONE = {"arr_0", ""}
"""Name of the only array of `np.savez(file, x)`, and of a .npy file that is named like its set."""


class Stored(NamedTuple):
    """An array as it was found."""

    array: np.ndarray
    where: str
    """Its place, for messages, such as "'logits' in 'DIR/id_test.npz'"."""


class Place(NamedTuple):
    """A file with arrays of a set."""

    path: Path
    key: str | None
    """The array that it holds, if its name says so."""


def id_files(folder: Path) -> dict[str, list[Place]]:
    """The files of ID splits and of the head, by their stems."""
    found = _by_set(folder, (HEAD_PART, PART))
    return {stem: places for stem, places in found.items() if stem in STEMS}


def unused(folder: Path) -> Iterator[str]:
    """Sentences about files with arrays that belong to no set, such as one with a misspelled name."""
    for stem, places in _by_set(folder, (HEAD_PART, PART)).items():
        if stem not in STEMS:
            hint = did_you_mean(stem, STEMS, f"The files there are {', '.join(STEMS)}; OOD sets lie in '{OOD}'.")
            yield f"'{places[0].path}' is not used: no set is called '{stem}'. {hint}"


def ood_files(folder: Path) -> dict[str, list[Place]]:
    """The files of OOD sets, by the names of the sets, in alphabetical order."""
    return _by_set(folder / OOD, (PART,)) if (folder / OOD).is_dir() else {}


def _by_set(folder: Path, parts: tuple[re.Pattern[str], ...]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for path in sorted(_entries(folder)):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.name.endswith(TEXT) and len(path.name) > len(TEXT):
            found.setdefault(path.name.removesuffix(TEXT), []).append(Place(path, NAMES))
            continue
        if suffix not in SUFFIXES:
            continue
        matches = (part.fullmatch(path.stem) for part in parts) if suffix == ".npy" else ()
        match = next(filter(None, matches), None)
        place = Place(path, match["key"]) if match else Place(path, None)
        found.setdefault(match["set"] if match else path.stem, []).append(place)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(f"The folder '{folder}' cannot be read: {error.strerror or error}.") from error


def open_arrays(places: list[Place], known: tuple[str, ...] = KEYS) -> dict[str, Stored]:
    """The arrays of a set by name, from all of its files. `UserError` for unknown names and for one given twice."""
    found: dict[str, Stored] = {}
    for place in places:
        for key, stored in _open(place):
            key = _known_key(key, stored, known)
            if key in found:
                raise UserError(f"{stored.where} and {found[key].where} are the same array twice. Remove one of them.")
            found[key] = stored
    return found


def _open(place: Place) -> Iterator[tuple[str, Stored]]:
    """The named arrays of a file. `UserError` if it cannot be read."""
    path = place.path
    if not is_file(path):  # reading a pipe might never end
        raise UserError(f"'{path}' is not a regular file.")
    try:
        if path.suffix.lower() == ".txt":
            yield NAMES, Stored(_lines(path), f"'{path}'")
            return
        if path.suffix.lower() == ".npy":
            yield place.key or "", Stored(npy_array(path), f"'{path}'")
            return
        arrays = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"'{path}' {error}.") from error
    if not arrays:
        raise UserError(f"'{path}' contains no arrays; expected some of {', '.join(KEYS)}.")
    for key, array in arrays.items():
        yield key, Stored(array, f"'{key}' in '{path}'")


def _lines(path: Path) -> np.ndarray:
    try:
        return np.array(read_bounded(path, MAX_TEXT).decode("utf-8-sig").splitlines(), dtype=str)
    except UnicodeDecodeError as error:
        raise ValueError("is not text in UTF-8") from error


def _known_key(key: str, stored: Stored, known: tuple[str, ...]) -> str:
    """The name of an array; an array without one is a score if it is 1-D."""
    if SCORE not in known and "." in key:  # such as fc.weight, from a network's state
        key = key.rpartition(".")[2]
    if key in known or (SCORE in known and key.startswith(f"{SCORE}_") and len(key) > len(SCORE) + 1):
        return key
    if key in ALONE and SCORE in known:
        if stored.array.ndim == 1:
            return SCORE
        raise UserError(
            f"{stored.where} has the shape {stored.array.shape} and no name. Name logits and features: "
            "SET_logits.npy, SET_features.npy, or np.savez(file, logits=...); scores are 1-D."
        )
    hint = did_you_mean(key, known, "Rename it, or leave it out.")
    names = ", ".join((*known, f"{SCORE}_METHOD")) if SCORE in known else ", ".join(known)
    raise UserError(f"{stored.where} is not known here; expected {names}. {hint}")
