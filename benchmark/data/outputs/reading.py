"""`read_outputs`: a folder of arrays as `GivenOutputs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.files import (
    BIAS,
    HEAD,
    HEAD_KEYS,
    ID_STEMS,
    LABELS,
    OOD,
    WEIGHT,
    Place,
    Stored,
    id_files,
    ood_files,
    open_arrays,
)
from oodbench.benchmark.data.outputs.given import ID_SPLITS, TEST, GivenArrays, GivenHead, GivenOutputs
from oodbench.benchmark.data.outputs.one_set import as_floats, given_arrays, labels_of
from oodbench.benchmark.data.outputs.settings import NAME, Settings, read_settings
from oodbench.benchmark.errors import UserError, did_you_mean

LAYOUT = "id_test.npz, ood/NAME.npz and, for detectors that learn, id_train.npz"


def read_outputs(folder: Path, higher: str | None = None) -> GivenOutputs:
    """Open a folder of arrays: `id_train`, `id_val`, `id_test`, `ood/NAME`, `head` and `outputs.toml`.

    Arrays are memory-mapped where their format allows it. Shapes and types are checked, and the values of labels, names
    and scores, but not those of logits and features. `higher`: 'ood' or 'id', what higher scores mean; by default what
    `outputs.toml` says, else 'ood'. Raises `UserError`.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {what}; expected a folder with {LAYOUT} ('bench outputs init DIR' begins one).")
    settings = read_settings(folder / NAME)
    settings = replace(settings, method=settings.method or folder.absolute().name)
    if higher is not None:
        settings = replace(settings, higher=higher, higher_of={})
    files = id_files(folder)
    id_sets = {
        split: given_arrays(open_arrays(files[stem]), settings, stem, labelled=True)
        for split, stem in zip(ID_SPLITS, ID_STEMS, strict=True)
        if stem in files
    }
    stems = _in_order(ood_files(folder), settings, folder)
    ood_sets = {
        stem: given_arrays(open_arrays(places), settings, stem, labelled=False) for stem, places in stems.items()
    }
    if TEST not in id_sets or not ood_sets:
        lacking = "id_test (.npz or .npy)" if TEST not in id_sets else "OOD set: no arrays in its folder 'ood'"
        raise UserError(
            f"'{folder}' has no {lacking}. Expected {LAYOUT} ('bench outputs init DIR' explains the formats)."
        )
    titles = _titles(stems, settings, folder)
    given = GivenOutputs(
        source=folder,
        title=settings.title or folder.absolute().name,
        id_set=settings.id_set or "ID",
        id=id_sets,
        ood={titles[stem]: arrays for stem, arrays in ood_sets.items()},
        groups={titles[stem]: group for stem, group in settings.groups.items()},
        classes=_classes([*id_sets.values(), *ood_sets.values()], settings, folder),
        head=_head(open_arrays(files[HEAD], HEAD_KEYS)) if HEAD in files else None,
        network=settings.network,
        preprocessing=settings.preprocessing,
        notes=settings.notes,
    )
    check_together(given)
    return given


def _in_order(files: Mapping[str, list[Place]], settings: Settings, folder: Path) -> dict[str, list[Place]]:
    """The files of OOD sets, those that outputs.toml names first. `UserError` if it names others."""
    for stem in settings.titles:
        if stem not in files:
            hint = did_you_mean(stem, files, f"Known: {', '.join(files)}." if files else "")
            raise UserError(
                f"'{folder / NAME}' has [ood.{stem}], but no file 'ood/{stem}' with arrays. {hint}".rstrip()
            )
    return {stem: files[stem] for stem in (*settings.titles, *(s for s in files if s not in settings.titles))}


def _titles(stems: Mapping[str, list[Place]], settings: Settings, folder: Path) -> dict[str, str]:
    titles = {stem: settings.titles.get(stem, stem) for stem in stems}
    seen: dict[str, str] = {}
    for stem, title in titles.items():
        if title in seen:
            raise UserError(
                f"'{folder / NAME}' calls both '{seen[title]}' and '{stem}' '{title}'. Give one another title."
            )
        seen[title] = stem
    return titles


def _classes(sets: Sequence[GivenArrays], settings: Settings, folder: Path) -> tuple[str, ...]:
    """Names of the classes: those given, else the numbers of the logits' columns, else of the labels."""
    if settings.classes:
        return settings.classes
    widths = [arrays.logits.shape[1] for arrays in sets if arrays.logits is not None]
    highest = [int(arrays.labels.max()) + 1 for arrays in sets if arrays.labels is not None]
    if not widths and max(highest, default=0) > MAX_CLASSES:
        raise UserError(f"'{folder}' has the label {max(highest) - 1:,}; labels are class numbers, 0, 1, ...")
    return tuple(map(str, range(max(widths or highest, default=0))))


MAX_CLASSES = 1_000_000
"""Most classes that are assumed where only labels say how many there are."""


def _head(found: Mapping[str, Stored]) -> GivenHead:
    if WEIGHT not in found:
        raise UserError(f"{found[BIAS].where} is there without 'weight'; a head needs its weight, of shape (K, D).")
    weight = found[WEIGHT]
    if weight.array.ndim != 2:
        raise UserError(f"{weight.where} has the shape {weight.array.shape}; expected (K, D): classes, features.")
    matrix = as_floats(weight)
    if BIAS not in found:
        return GivenHead(matrix, np.zeros(len(matrix), matrix.dtype))
    bias = found[BIAS]
    if bias.array.shape not in ((len(matrix),), (1, len(matrix))):
        hint = " Save the weight transposed: weight.T." if bias.array.size == matrix.shape[1] else ""
        raise UserError(
            f"{bias.where} has the shape {bias.array.shape}, and {weight.where} {matrix.shape}; expected (K,) and "
            f"(K, D): classes, features.{hint}"
        )
    return GivenHead(matrix, as_floats(bias).reshape(-1))


def check_together(given: GivenOutputs) -> None:
    """Check sets, classes and head against each other, without reading logits and features. Raises `UserError`."""
    named = {f"id_{split}": arrays for split, arrays in given.id.items()} | dict(given.ood)
    for axis, (what, meaning) in enumerate((("logits", "classes"), ("features", "features"))):
        widths = {name: array.shape[1] for name, s in named.items() if (array := getattr(s, what)) is not None}
        for name, width in widths.items():
            first = next(iter(widths))
            if width != widths[first]:
                raise UserError(
                    f"'{given.source}': the {what} of '{name}' have {width:,} columns, those of '{first}' "
                    f"{widths[first]:,}; all sets must come from one network, with the same {meaning}."
                )
        if widths and given.head is not None and given.head.weight.shape[axis] != next(iter(widths.values())):
            raise UserError(
                f"'{given.source}': the head {('has', 'takes')[axis]} {given.head.weight.shape[axis]:,} {meaning}, the "
                f"{what} have {next(iter(widths.values())):,} columns. Save the head of the network that made them."
            )
        if widths and what == "logits" and len(given.classes) != next(iter(widths.values())):
            raise UserError(
                f"'{given.source}': the logits have {next(iter(widths.values())):,} columns, but 'classes' in {NAME} "
                f"names {len(given.classes):,}; expected a name for each."
            )
    for name, arrays in named.items():
        if arrays.labels is not None:
            _check_range(given, name, arrays.labels)


def _check_range(given: GivenOutputs, name: str, labels: np.ndarray) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(given.classes)))
    if wrong.size:
        label = labels[wrong[0]]
        count_from = (
            " Do they count from 1? Save labels - 1." if labels.min() == 1 and label == len(given.classes) else ""
        )
        raise UserError(
            f"'{given.source}': the label of '{name}' in row {wrong[0]} is {label}; expected 0 to "
            f"{len(given.classes) - 1}, as there are {len(given.classes):,} classes.{count_from}"
        )


def ood_labels(given: GivenOutputs) -> dict[str, NDArray[np.int64]]:
    """Labels of the network's classes that are stored with OOD sets, in the folder that the outputs were read from.

    They are not used, but show exchanged files. Labels that are no class numbers are left out.
    """
    if not given.source.is_dir():
        return {}
    settings = read_settings(given.source / NAME)
    found = {}
    for stem, places in ood_files(given.source).items():
        stored = open_arrays(places).get(LABELS)
        name = settings.titles.get(stem, stem)
        if stored is None or name not in given.ood:
            continue
        try:
            labels = labels_of(stored, given.classes)
        except UserError:
            continue
        if len(labels) == given.ood[name].count and labels.min() >= 0 and labels.max() < len(given.classes):
            found[name] = labels
    return found


def set_problems(folder: Path) -> Iterator[str]:
    """What is wrong with each set and with the head of a folder, whatever is wrong with the others."""
    with suppress(UserError):  # which is reported by `read_outputs`
        settings = read_settings(folder / NAME)
        places = {(stem, stem != HEAD): found for stem, found in id_files(folder).items()}
        places |= {(f"{OOD}/{stem}", False): found for stem, found in ood_files(folder).items()}
        for (stem, labelled), found in places.items():
            try:
                if stem == HEAD:
                    _head(open_arrays(found, HEAD_KEYS))
                else:
                    given_arrays(open_arrays(found), settings, stem, labelled)
            except UserError as error:
                yield str(error)
