"""Scores in a CSV file: long, one row for each image and method, or wide, one column for each method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.formats.csv_rows import CsvFile, Numbered
from oodbench.benchmark.data.outputs.given import TEST, GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.methods import check_methods
from oodbench.benchmark.data.outputs.one_set import turned
from oodbench.benchmark.data.outputs.settings import GROUPS, HIGHER, NAME, Settings, read_settings
from oodbench.benchmark.errors import UserError, did_you_mean

ID, OOD = SPLITS = ("id", "ood")

LONG = ("image", "set", "group", "split", "method", "score", "seed")
BESIDE = ("image", "set", "group", "split", "seed")
"""Columns of a wide file that are not methods."""

MAX_SETS = 1000

STATED = re.compile(r"(?:(?P<method>.+?)\s*:\s*)?higher\s*[=:]\s*[\"']?(?P<higher>\w+)[\"']?", re.IGNORECASE)
"""A comment that states what higher scores mean: `higher = id`, or `energy: higher = id` for one method."""


class Kind(NamedTuple):
    """What rows have in common."""

    set: str
    split: str = ""
    group: str = ""
    seed: str = ""
    method: str = ""
    """Empty in a wide file, and in a long one of one method."""


class Rows(NamedTuple):
    """Scores of one method and seed on images of one set, in one block of rows."""

    images: NDArray[np.int64]
    """Numbers of the images in the set, in the order in which they are first named."""
    values: NDArray[np.float64]


@dataclass
class Collected:
    """What was read of one set."""

    split: str
    group: str = ""
    names: Numbered = field(default_factory=Numbered)
    """Images; empty without names."""
    scores: dict[str, dict[int, list[Rows]]] = field(default_factory=dict)
    """Method -> seed -> its rows."""


def read_csv(path: Path, higher: str | None = None) -> GivenOutputs:
    """Read a CSV file of scores, `higher` as for `read_scores`. Raises `UserError`."""
    file = CsvFile(path)
    settings = _settings(file, higher)
    long = _is_long(file)
    sets: dict[str, Collected] = {}
    for before, columns in file.blocks():
        _collect(_Block(file, before, dict(zip(file.start.columns, columns, strict=True))), sets, settings, long)
    ids = [name for name, found in sets.items() if found.split == ID]
    oods = [name for name, found in sets.items() if found.split == OOD]
    if len(ids) != 1 or not oods:
        have = f"{len(ids)} ID sets ({', '.join(ids[:5])})" if len(ids) > 1 else "no OOD set" if ids else "no ID set"
        mark = (
            "'split' (id or ood) says which" if "split" in file.start.columns else "'id' in the column 'set' marks it"
        )
        raise UserError(f"'{path}' has {have}; expected rows of one ID set and of one or more OOD sets; {mark}.")
    arrays = {name: _aligned(path, name, found, settings) for name, found in sets.items()}
    check_methods(path, arrays[ids[0]], {name: arrays[name] for name in oods})
    titles = {name: settings.titles.get(name, name) for name in oods}
    ordered = sorted(oods, key=lambda name: list(settings.titles).index(name) if name in settings.titles else len(oods))
    groups = {name: sets[name].group or settings.groups.get(name, "") for name in ordered}
    return GivenOutputs(
        source=path,
        title=settings.title or path.stem,
        id_set=settings.id_set or ("ID" if ids[0].lower() == ID else ids[0]),
        id={TEST: arrays[ids[0]]},
        ood={titles[name]: arrays[name] for name in ordered},
        groups={titles[name]: group for name, group in groups.items() if group},
        network=settings.network,
        preprocessing=settings.preprocessing,
        notes=settings.notes,
    )


def _settings(file: CsvFile, higher: str | None) -> Settings:
    """What outputs.toml beside the file says, and above it the file's comments, and above these the parameter."""
    settings = read_settings(file.path.parent / NAME)
    settings = replace(settings, method=settings.method or file.path.stem)
    for comment in file.start.comments:
        if not (match := STATED.fullmatch(comment)):
            continue
        if (stated := match["higher"].lower()) not in HIGHER:
            raise UserError(f"'{file.path}' says 'higher = {match['higher']}'; it must be {' or '.join(HIGHER)}.")
        if match["method"]:
            settings = replace(settings, higher_of={**settings.higher_of, match["method"]: stated})
        else:
            settings = replace(settings, higher=stated)
    return settings if higher is None else replace(settings, higher=higher, higher_of={})


def _is_long(file: CsvFile) -> bool:
    """Whether a file has a column of scores, or one for each method. `UserError` for columns that fit neither."""
    columns = file.start.columns
    if "set" not in columns:
        raise UserError(
            f"'{file.path}' has no column 'set'; its columns are {', '.join(columns[:10])}. Expected {', '.join(LONG)} "
            "(of which only set and score are needed), or 'set' and a column of scores for each method."
        )
    if "score" in columns:
        for column in columns:
            if column not in LONG:
                hint = did_you_mean(
                    column, LONG, "Remove it, or, if it is a method, rename 'score' to that of a method."
                )
                raise UserError(
                    f"'{file.path}' has the unknown column '{column}'; with 'score', expected {', '.join(LONG)}. {hint}"
                )
        return True
    if "method" in columns:
        raise UserError(f"'{file.path}' has a column 'method' but none of scores; name it 'score'.")
    if not set(columns) - set(BESIDE):
        raise UserError(f"'{file.path}' has no scores; expected a column 'score', or one for each method.")
    return False


@dataclass
class _Block:
    """A block of rows, as columns."""

    file: CsvFile
    before: int
    columns: Mapping[str, Sequence[str]]

    def error(self, row: int, problem: str) -> UserError:
        return self.file.error(self.before + row, problem)


def _collect(block: _Block, sets: dict[str, Collected], settings: Settings, long: bool) -> None:
    """Add a block's rows to the sets that they belong to."""
    kinds = Numbered()
    present = [name for name in Kind._fields if name in block.columns]
    numbers = kinds.numbers(zip(*(block.columns[name] for name in present), strict=True), len(block.columns["set"]))
    values = {name: block.file.numbers(block.columns[name], block.before, "score") for name in ("score",) if long}
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))
    for key, number in kinds.items():
        rows = order[ends[number - 1] if number else 0 : ends[number]]
        first = int(rows[0])
        given = dict(zip(present, (text.strip() for text in key), strict=True))
        kind = _kind(block, first, Kind(**given), settings)
        found = _set(block, first, kind, sets)
        images = _images(block, rows, found)
        seed = _seed(block, first, kind.seed)
        if long:
            found.scores.setdefault(kind.method, {}).setdefault(seed, []).append(Rows(images, values["score"][rows]))
            continue
        for method in block.columns:
            if method not in BESIDE:
                _add_cells(block, method, rows, images, found.scores.setdefault(method, {}).setdefault(seed, []))


def _add_cells(block: _Block, method: str, rows: NDArray[np.intp], images: NDArray[np.int64], to: list[Rows]) -> None:
    """Add the cells of a wide file's column that are not empty; a method may lack a set."""
    cells = block.columns[method]
    kept = [cells[row] for row in rows.tolist()]
    if not all(map(str.strip, kept)):
        filled = np.array([bool(cell.strip()) for cell in kept])
        rows, images = rows[filled], images[filled]
        kept = [cells[row] for row in rows.tolist()]
    try:
        values = np.fromiter(map(float, kept), np.float64, len(kept))
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        for row in rows:  # names the line
            block.file.numbers([cells[row]], block.before + int(row), f"the score of '{method}'")
    to.append(Rows(images, values))


def _kind(block: _Block, row: int, kind: Kind, settings: Settings) -> Kind:
    """A kind of rows with its split and method filled in, or `UserError`."""
    if not kind.set:
        raise block.error(row, "the set is empty; expected the name of a set")
    split = kind.split.lower()
    if "split" not in block.columns:
        split = ID if kind.set.lower() == ID else OOD
    if split not in SPLITS:
        raise block.error(row, f"split is '{kind.split}'; it must be id or ood")
    if split == OOD and kind.group not in ("", *GROUPS):
        raise block.error(row, f"group is '{kind.group}'; it must be near, far or empty")
    method = kind.method
    if "method" in block.columns and not method:
        raise block.error(row, "the method is empty; expected its name")
    return kind._replace(split=split, group=kind.group if split == OOD else "", method=method or settings.method)


def _set(block: _Block, row: int, kind: Kind, sets: dict[str, Collected]) -> Collected:
    found = sets.setdefault(kind.set, Collected(kind.split, kind.group))
    if len(sets) > MAX_SETS:
        raise block.error(
            row, f"more than {MAX_SETS:,} sets; the column 'set' is for names of sets, 'image' for those of images"
        )
    if found.split != kind.split:
        raise block.error(
            row, f"the set '{kind.set}' is {kind.split}, but {found.split} in a row before; it must be one"
        )
    if kind.group and found.group and found.group != kind.group:
        raise block.error(row, f"the group of '{kind.set}' is {kind.group}, but {found.group} in a row before")
    found.group = found.group or kind.group
    return found


def _images(block: _Block, rows: NDArray[np.intp], found: Collected) -> NDArray[np.int64]:
    """Numbers of the rows' images in their set; -1 without names."""
    if "image" not in block.columns:
        return np.full(len(rows), -1)
    cells = block.columns["image"]
    numbers = found.names.numbers((cells[row] for row in rows.tolist()), len(rows))
    if "" in found.names:
        row = next(row for row in rows if not cells[row])
        raise block.error(row, "the image is empty; expected a name for every image, or no column 'image'")
    return numbers


def _seed(block: _Block, row: int, text: str) -> int:
    if "seed" not in block.columns:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise block.error(row, f"seed is '{text}'; expected a whole number, 0 or more")
    return int(text)


def _aligned(path: Path, name: str, found: Collected, settings: Settings) -> GivenArrays:
    """The scores of a set, all in one order. `UserError` for images that are missing or given twice."""
    scores: dict[str, dict[int, NDArray[np.float64]]] = {}
    names, count, first = tuple(found.names), len(found.names), ""
    for method, by_seed in found.scores.items():
        for seed, blocks in by_seed.items():
            images = np.concatenate([rows.images for rows in blocks])
            values = np.concatenate([rows.values for rows in blocks])
            what = f"'{method}'" + (f" (seed {seed})" if len(by_seed) > 1 or seed else "")
            if not len(values):
                continue
            if names:
                _check_images(path, name, what, images, names)
                ordered = np.empty(count)
                ordered[images] = values
                values = ordered
            count, first = count or len(values), first or what
            if len(values) != count:
                raise UserError(
                    f"'{path}' has {len(values):,} scores of {what} on '{name}', but {count:,} of {first}; expected "
                    "one for each image. A column 'image' with names would show which is missing."
                )
            scores.setdefault(method, {})[seed] = turned(values, method, settings)
    if not scores:
        raise UserError(f"'{path}' has no scores of any method on '{name}'; fill its cells, or remove its rows.")
    return GivenArrays(count, names=names or None, scores=scores)


def _check_images(path: Path, name: str, what: str, images: NDArray[np.int64], names: Sequence[str]) -> None:
    times = np.bincount(images, minlength=len(names))
    if (twice := np.flatnonzero(times > 1)).size:
        raise UserError(
            f"'{path}' has {times[twice[0]]} scores of {what} for the image '{names[twice[0]]}' of '{name}'; expected "
            "one."
        )
    if (missing := np.flatnonzero(times == 0)).size:
        more = f" (and for {missing.size - 1:,} more)" if missing.size > 1 else ""
        raise UserError(
            f"'{path}' has no score of {what} for the image '{names[missing[0]]}' of '{name}'{more}; expected one "
            "of every method for every image."
        )
